// SPDX-License-Identifier: GPL-3.0-or-later
#include <QAccessible>
#include <QLineEdit>
#include <QListView>
#include <QMenuBar>
#include <QPlainTextEdit>
#include <QPushButton>
#include <QSettings>
#include <QSplitter>
#include <QToolButton>
#include <cmath>

#include "ui/hit_model.h"
#include "ui/library_panel.h"
#include "ui/list_roles.h"
#include "ui/notice_bar.h"
#include "ui/page_view.h"
#include "ui/reader_view.h"
#include "ui/text_view.h"
#include "ui/theme.h"
#include "window_driver.h"

namespace lectern::ui::test {
namespace {

const std::string kSentence = "The lighthouse on Skerry Point is 43 metres tall.";

QListView* listNamed(const QWidget& window, const QString& name) {
  for (auto* list : window.findChildren<QListView*>()) {
    if (list->accessibleName() == name) return list;
  }
  return nullptr;
}

void expectNamed(const QWidget& window) {
  for (QWidget* widget : window.findChildren<QWidget*>()) {
    if (widget->focusPolicy() == Qt::NoFocus || !widget->isVisibleTo(&window) ||
        widget->objectName().startsWith(QStringLiteral("qt_")))
      continue;
    QAccessibleInterface* accessible = QAccessible::queryAccessibleInterface(widget);
    ASSERT_NE(accessible, nullptr);
    EXPECT_FALSE(accessible->text(QAccessible::Name).isEmpty())
        << widget->metaObject()->className() << " " << widget->objectName().toStdString();
  }
}

TEST(Window, EverythingThatTakesFocusHasAName) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  driver.type(QStringLiteral("How tall is the lighthouse on Skerry Point?"));
  ASSERT_TRUE(driver.waitForAnswer());
  expectNamed(driver.window);
}

TEST(Window, TabReachesEveryPane) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  QSet<QWidget*> panes;
  QWidget* widget = driver.window.findChild<QuestionBox*>();
  for (int i = 0; i < 200 && panes.size() < 3; ++i) {
    widget = widget->nextInFocusChain();
    if (!widget->isVisible() || (widget->focusPolicy() & Qt::TabFocus) == 0) continue;
    for (QWidget* pane :
         {static_cast<QWidget*>(driver.window.libraryPanel()), static_cast<QWidget*>(driver.window.conversation()),
          static_cast<QWidget*>(driver.window.reader())}) {
      if (pane == widget || pane->isAncestorOf(widget)) panes += pane;
    }
  }
  EXPECT_EQ(panes.size(), 3);
}

TEST(Window, MenusHaveNoShortcutTwice) {
  WindowDriver driver(quoting(kSentence));
  QSet<QString> keys;
  for (const QAction* action : driver.window.findChildren<QAction*>()) {
    const QString shortcut = action->shortcut().toString();
    if (shortcut.isEmpty() || action->shortcutContext() == Qt::WidgetShortcut) continue;
    EXPECT_FALSE(keys.contains(shortcut)) << shortcut.toStdString();
    keys += shortcut;
  }
  for (const char* expected : {"Ctrl+O", "Ctrl+L", "Ctrl+F", "Esc", "F6"}) {
    EXPECT_TRUE(keys.contains(QString::fromLatin1(expected))) << expected;
  }
}

TEST(Window, ADropOnTheConversationIsTakenToo) {
  WindowDriver driver(quoting(kSentence));
  EXPECT_TRUE(driver.window.acceptDrops());
  EXPECT_FALSE(driver.window.findChild<QuestionBox*>()->acceptDrops()) << "the box would swallow it";
}

TEST(Window, BadFilesAreNamedWithTheReason) {
  WindowDriver driver(quoting(kSentence));
  const auto empty = driver.world.scratch.write("in/empty.txt", "");
  const auto good = driver.world.scratch.write("in/good.txt", "A sentence that can be found.\n");
  driver.drop({empty, good});
  ASSERT_TRUE(driver.waitForIngest());
  auto* documents = listNamed(driver.window, QStringLiteral("Documents"));
  ASSERT_TRUE(QTest::qWaitFor([&] { return documents->model()->rowCount() == 2; }, kPatienceMs));
  const QModelIndex problem = documents->model()->index(0, 0);
  EXPECT_EQ(problem.data().toString(), QStringLiteral("empty.txt"));
  EXPECT_TRUE(problem.data(kDetailRole).toString().startsWith(QStringLiteral("Not read:")))
      << problem.data(kDetailRole).toString().toStdString();
}

TEST(Window, AFailingEmbedderIsToldBesideBadFiles) {
  WindowDriver driver(quoting(kSentence), std::make_shared<BrokenEmbedder>());
  const auto good = driver.world.scratch.write("in/good.txt", "A sentence that can be found.\n");
  const auto* notice = driver.window.libraryPanel()->findChild<NoticeBar*>();
  driver.drop({good});
  ASSERT_TRUE(driver.waitForIngest());
  EXPECT_TRUE(notice->text().contains(QStringLiteral("the embedder broke"))) << notice->text().toStdString();
  driver.drop({driver.world.scratch.write("in/empty.txt", "")});
  ASSERT_TRUE(driver.waitForIngest());
  EXPECT_TRUE(notice->text().contains(QStringLiteral("1 file"))) << notice->text().toStdString();
  EXPECT_TRUE(notice->text().contains(QStringLiteral("the embedder broke"))) << notice->text().toStdString();
}

TEST(Window, SearchFindsPassagesAndOpensThem) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  QTest::keyClicks(driver.window.libraryPanel()->findChild<QLineEdit*>(), QStringLiteral("Isobel Rennick"));
  auto* hits = listNamed(driver.window, QStringLiteral("Passages found"));
  ASSERT_TRUE(QTest::qWaitFor([&] { return hits->model()->rowCount() > 0; }, kPatienceMs));
  EXPECT_TRUE(hits->isVisible());
  hits->setCurrentIndex(hits->model()->index(0, 0));
  PageView* pages = driver.window.reader()->pageView();
  ASSERT_TRUE(QTest::qWaitFor([&] { return pages->pageCount() > 0; }, kPatienceMs));
  EXPECT_FALSE(pages->highlightRects(pages->currentPage()).empty());
}

TEST(Window, RemovingAsksFirst) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  auto* documents = listNamed(driver.window, QStringLiteral("Documents"));
  ASSERT_TRUE(QTest::qWaitFor([&] { return documents->model()->rowCount() == 1; }, kPatienceMs));
  documents->setCurrentIndex(documents->model()->index(0, 0));
  driver.window.libraryPanel()->removeSelected();
  QTest::qWait(50);
  EXPECT_EQ(driver.world.services.library->documents()->size(), 1U);
  auto* notice = driver.window.libraryPanel()->findChild<NoticeBar*>();
  ASSERT_TRUE(notice->isVisible());
  for (auto* button : notice->findChildren<QPushButton*>()) {
    if (button->text() == QStringLiteral("Remove")) button->click();
  }
  EXPECT_TRUE(QTest::qWaitFor([&] { return documents->model()->rowCount() == 0; }, kPatienceMs));
  EXPECT_TRUE(std::filesystem::exists(kHandbook));
}

TEST(Window, FirstStartReadsTheSamplesAndSuggestsQuestions) {
  WindowServices world(quoting(kSentence));
  world.services.samples = LECTERN_SAMPLES;
  {
    MainWindow window(world.services, nullptr);
    window.show();
    ASSERT_TRUE(QTest::qWaitFor([&] { return window.library()->ingesting(); }, kPatienceMs));
    ASSERT_TRUE(QTest::qWaitFor([&] { return !window.library()->ingesting(); }, kPatienceMs));
    const auto suggestions = [&] {
      QStringList texts;
      for (const auto* button : window.conversation()->findChildren<QPushButton*>()) {
        if (button->property("suggestion").toBool()) texts += button->text();
      }
      return texts;
    };
    EXPECT_TRUE(QTest::qWaitFor([&] { return !suggestions().isEmpty(); }, kPatienceMs));
  }
  const auto documents = world.services.library->documents();
  for (const auto& info : documents.value()) ASSERT_TRUE(world.services.library->remove(info.id).ok());
  MainWindow again(world.services, nullptr);
  again.show();
  QTest::qWait(300);
  EXPECT_FALSE(again.library()->ingesting()) << "the samples are offered once";
}

TEST(Window, RemembersItsLayout) {
  WindowServices world(quoting(kSentence));
  {
    MainWindow window(world.services, nullptr);
    window.resize(1111, 700);
    window.show();
    window.reader()->setZoom(1.5);
    window.findChild<QSplitter*>()->setSizes({300, 400, 411});
    window.close();
  }
  MainWindow window(world.services, nullptr);
  window.show();
  EXPECT_EQ(window.width(), 1111);
  EXPECT_NEAR(window.findChild<QSplitter*>()->sizes().at(0), 300, 15);
  EXPECT_NEAR(window.reader()->zoomSetting(), 1.5, 0.01);
}

TEST(Reader, MarksTheCitedLinesOfCode) {
  WindowDriver driver(quoting(kSentence));
  std::string code;
  for (int line = 1; line <= 3000; ++line) code += "int value_" + std::to_string(line) + " = 0;\n";
  driver.drop({driver.world.scratch.write("in/long.cpp", code)});
  ASSERT_TRUE(driver.waitForIngest());
  ReaderTarget target;
  target.document = driver.world.services.library->documents()->front().id;
  target.firstLine = 2500;
  target.lastLine = 2503;
  driver.window.reader()->open(target);
  TextView* text = driver.window.reader()->textView();
  ASSERT_TRUE(QTest::qWaitFor([&] { return text->complete() && text->blockCount() >= 3000; }, kPatienceMs));
  ASSERT_EQ(text->extraSelections().size(), 4);
  EXPECT_EQ(text->extraSelections().front().cursor.block().text(), QStringLiteral("int value_2500 = 0;"));
  EXPECT_TRUE(text->viewport()->rect().contains(text->cursorRect()));
}

TEST(Reader, ShowsStoredTextWhenTheFileIsGone) {
  WindowDriver driver(quoting(kSentence));
  const auto copy = driver.world.scratch.path() / "moved.pdf";
  std::filesystem::copy_file(kHandbook, copy);
  driver.drop({copy});
  ASSERT_TRUE(driver.waitForIngest());
  std::filesystem::remove(copy);
  ReaderTarget target;
  target.document = driver.world.services.library->documents()->front().id;
  target.page = 3;
  driver.window.reader()->open(target);
  TextView* text = driver.window.reader()->textView();
  ASSERT_TRUE(QTest::qWaitFor([&] { return text->toPlainText().contains(QStringLiteral("43 metres")); }, kPatienceMs));
  EXPECT_TRUE(driver.window.reader()->findChild<NoticeBar*>()->isVisible());
}

TEST(Reader, CopiesTheWordsThatAreSelectedOnAPage) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  ReaderTarget target;
  target.document = driver.world.services.library->documents()->front().id;
  target.page = 3;
  driver.window.reader()->open(target);
  PageView* pages = driver.window.reader()->pageView();
  ASSERT_TRUE(QTest::qWaitFor([&] { return pages->pageCount() > 0; }, kPatienceMs));
  QTest::qWait(200);
  const auto page = driver.world.services.library->page(target.document, 2);
  const QPoint from = pages->drawnAt(2, page->words.at(20).rect).center().toPoint();
  const QPoint to = pages->drawnAt(2, page->words.at(24).rect).center().toPoint();
  QTest::mousePress(pages->viewport(), Qt::LeftButton, {}, from);
  QTest::mouseMove(pages->viewport(), from);
  QMouseEvent start(QEvent::MouseMove, from, pages->viewport()->mapToGlobal(from), Qt::NoButton, Qt::LeftButton, {});
  QApplication::sendEvent(pages->viewport(), &start);
  QMouseEvent move(QEvent::MouseMove, to, pages->viewport()->mapToGlobal(to), Qt::NoButton, Qt::LeftButton, {});
  QApplication::sendEvent(pages->viewport(), &move);
  const std::string expected =
      page->text.substr(page->words.at(20).begin, page->words.at(24).end - page->words.at(20).begin);
  EXPECT_EQ(pages->selectedText().toStdString(), expected);
}

TEST(Theme, TextKeepsItsContrast) {
  const auto luminance = [](const QColor& color) {
    const auto linear = [](double v) { return v <= 0.03928 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4); };
    return 0.2126 * linear(color.redF()) + 0.7152 * linear(color.greenF()) + 0.0722 * linear(color.blueF());
  };
  const auto contrast = [&](const QColor& a, const QColor& b) {
    const double la = luminance(a);
    const double lb = luminance(b);
    return (std::max(la, lb) + 0.05) / (std::min(la, lb) + 0.05);
  };
  auto* theme = qApp->findChild<Theme*>(QString(), Qt::FindDirectChildrenOnly);
  ASSERT_NE(theme, nullptr);
  for (const Appearance appearance : {Appearance::kDark, Appearance::kLight}) {
    theme->setAppearance(appearance);
    const Colors& c = theme::colors();
    for (const QColor& ground : {c.panel, c.surface}) {
      for (const QColor& ink : {c.text, c.muted, c.accent, c.good, c.caution, c.bad}) {
        EXPECT_GE(contrast(ink, ground), 4.5) << ink.name().toStdString() << " on " << ground.name().toStdString();
      }
    }
    EXPECT_GE(contrast(c.onAccent, c.accentFill), 4.5);
    EXPECT_GE(contrast(c.muted, c.desk), 4.5);
  }
}

}  // namespace
}  // namespace lectern::ui::test
