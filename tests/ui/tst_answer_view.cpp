// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <QClipboard>
#include <QElapsedTimer>
#include <QGuiApplication>
#include <QMimeData>
#include <QScrollArea>
#include <QSignalSpy>
#include <QTest>
#include <QTextBlock>
#include <QTextList>
#include <random>

#include "heartbeat.h"
#include "printing.h"
#include "support/scratch.h"
#include "ui/answer_view.h"

namespace lectern::ui {
namespace {

constexpr int kPatienceMs = 20'000;

// What the finished text refers to.
struct References {
  QStringList links;
  int images = 0;
};

References referencesOf(const AnswerView& view) {
  References found;
  for (QTextBlock block = view.document()->begin(); block.isValid(); block = block.next()) {
    for (auto it = block.begin(); !it.atEnd(); ++it) {
      const QTextCharFormat format = it.fragment().charFormat();
      if (format.isImageFormat()) ++found.images;
      if (format.isAnchor()) found.links += format.anchorHref();
    }
  }
  return found;
}

void showAll(AnswerView& view, const QString& markdown) {
  view.resize(500, 400);
  view.show();
  view.append(markdown);
  view.finish();
  ASSERT_TRUE(QTest::qWaitFor([&] { return view.complete(); }, kPatienceMs));
}

// Notices when anything in a directory is opened.
class OpenWatch {
 public:
  explicit OpenWatch(const std::filesystem::path& directory) : m_descriptor(inotify_init1(IN_NONBLOCK)) {
    inotify_add_watch(m_descriptor, directory.c_str(), IN_OPEN | IN_ACCESS);
  }
  ~OpenWatch() { close(m_descriptor); }
  bool anythingOpened() const {
    char events[4096];
    return read(m_descriptor, events, sizeof events) > 0;
  }

 private:
  int m_descriptor;
};

TEST(AnswerView, RendersMarkdown) {
  AnswerView view;
  showAll(view,
          QStringLiteral("# Result\n\nThe **tower** is *tall*.\n\n1. one\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
                         "```\ncode [1]\n```\n"));
  const QString text = view.toPlainText();
  EXPECT_TRUE(text.contains(QStringLiteral("The tower is tall.")));
  EXPECT_TRUE(text.contains(QStringLiteral("code [1]")));
  EXPECT_FALSE(text.contains(u'#'));
  EXPECT_FALSE(text.contains(u'|'));
  EXPECT_TRUE(referencesOf(view).links.isEmpty()) << "a mark inside code is code";
}

TEST(AnswerView, LinksMarksAndNothingElse) {
  AnswerView view;
  showAll(view,
          QStringLiteral("Tall [1]. White [2][1]. Both [1, 3]. [a](cite:9:9) [b](file:///etc/passwd) "
                         "<http://evil.example> https://evil.example [c](javascript:x)\n\n[2]: http://evil.example"));
  EXPECT_EQ(referencesOf(view).links,
            (QStringList{"cite:1:0", "cite:2:0", "cite:1:1", "cite:1:2", "cite:3:0", "cite:2:1"}));
  EXPECT_TRUE(view.toPlainText().contains(QStringLiteral("b ‹file:///etc/passwd›"))) << "the address is shown";
}

TEST(AnswerView, AnnouncesTheCitationThatIsClicked) {
  AnswerView view;
  showAll(view, QStringLiteral("Tall [4]."));
  QList<CitationLink> clicked;
  QObject::connect(&view, &AnswerView::citationActivated, &view, [&](const CitationLink& link) { clicked += link; });
  QTextCursor cursor = view.document()->find(QStringLiteral("[4]"));
  cursor.setPosition(cursor.selectionStart() + 1);
  QTest::mouseClick(view.viewport(), Qt::LeftButton, {}, view.cursorRect(cursor).center());
  ASSERT_EQ(clicked.size(), 1);
  EXPECT_EQ(clicked.front().mark, 4);
}

TEST(AnswerView, OpensNothing) {
  const lectern::test::Scratch scratch;
  const std::string fifo = (scratch / "pipe").string();
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const std::string file = scratch.write("picture.png", "not a picture").string();
  const OpenWatch watch(scratch.path());
  AnswerView view;
  QElapsedTimer clock;
  clock.start();
  showAll(view, QString::fromStdString("![zero](/dev/zero) ![p](" + fifo + ") ![f](file://" + file + ") ![r](" + file +
                                       ")\n\n<img src=\"" + file +
                                       "\"> <b>html</b>\n\n![net](http://127.0.0.1:9/x.png)\n\n[![in](" + file + ")](" +
                                       file + ")\n\n![ref]\n\n[ref]: " + file + "\n"));
  view.grab();
  EXPECT_LT(clock.elapsed(), 5000);
  EXPECT_FALSE(watch.anythingOpened());
  EXPECT_EQ(referencesOf(view).images, 0);
  EXPECT_TRUE(referencesOf(view).links.isEmpty());
  EXPECT_TRUE(view.toPlainText().contains(QStringLiteral("[image: zero]")));
  EXPECT_TRUE(view.toPlainText().contains(QStringLiteral("<b>html</b>"))) << "HTML is text";
}

TEST(AnswerView, SetSourceIsRefused) {
  const lectern::test::Scratch scratch;
  const std::string file = scratch.write("page.html", "<b>secret</b>").string();
  const OpenWatch watch(scratch.path());
  AnswerView view;
  view.setSource(QUrl::fromLocalFile(QString::fromStdString(file)));
  EXPECT_FALSE(watch.anythingOpened());
  EXPECT_TRUE(view.toPlainText().isEmpty());
}

// Each is rendered while the heart beats on.
class HostileMarkdown : public testing::TestWithParam<std::pair<const char*, QString>> {};

TEST_P(HostileMarkdown, LeavesTheWindowAlive) {
  QScrollArea area;
  area.setWidgetResizable(true);
  area.resize(500, 400);
  auto* view = new AnswerView;
  area.setWidget(view);
  area.show();
  const test::Heartbeat heart;
  QElapsedTimer clock;
  clock.start();
  view->append(GetParam().second);
  view->finish();
  EXPECT_TRUE(QTest::qWaitFor([&] { return view->complete(); }, kPatienceMs));
  std::printf("%s: %lld ms, longest work %.0f ms, longest gap %.0f ms\n", GetParam().first,
              static_cast<long long>(clock.elapsed()), heart.longestWorkMs(), heart.longestGapMs());
  EXPECT_LT(heart.longestWorkMs(), test::kLongestWorkMs);
  EXPECT_LT(heart.longestGapMs(), test::kLongestGapMs);
}

QString manyLists() {
  QString text;
  for (int depth = 0; depth < 300; ++depth) text += QString(2 * depth, u' ') + QStringLiteral("- x\n");
  return text;
}

QString randomMarkup() {
  std::mt19937 random(7);
  const QString alphabet = QStringLiteral("[]()!<>*_`~|#-+.>\\ \n\t0129ab:/&;{}\"'");
  QString text;
  for (int i = 0; i < 60'000; ++i)
    text += alphabet[static_cast<qsizetype>(random() % static_cast<unsigned>(alphabet.size()))];
  return text;
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileMarkdown,
    testing::Values(
        std::pair("quotes", QString(50'000, u'>')), std::pair("quoted", QStringLiteral("> ").repeated(50'000) + u'x'),
        std::pair("brackets", QString(100'000, u'[')), std::pair("line", QString(1'000'000, u'a')),
        std::pair("words", QStringLiteral("word ").repeated(200'000)),
        std::pair("paragraphs", QStringLiteral("word [1]\n\n").repeated(20'000)),
        std::pair("table", QStringLiteral("|a").repeated(2000) + u'\n' + QStringLiteral("|-").repeated(2000) + u'\n' +
                               QStringLiteral("|b").repeated(2000)),
        std::pair("lists", manyLists()), std::pair("marks", QStringLiteral("[1]").repeated(10'000)),
        std::pair("images", QStringLiteral("![a](/dev/zero) ").repeated(5000)),
        std::pair("emphasis", QStringLiteral("*a **b ").repeated(10'000)), std::pair("random", randomMarkup())),
    [](const auto& param) { return std::string(param.param.first); });

// However dense they are, and none is lost.
TEST(AnswerView, RendersFewMarksInOneUpdate) {
  constexpr int kMarks = 1000;
  AnswerView view;
  view.resize(500, 400);
  view.show();
  qsizetype before = 0;
  QObject::connect(&view, &AnswerView::rendered, &view, [&] {
    const qsizetype links = referencesOf(view).links.size();
    EXPECT_LE(links - before, 64);
    before = links;
  });
  view.append(QStringLiteral("[1]").repeated(kMarks));
  view.finish();
  ASSERT_TRUE(QTest::qWaitFor([&] { return view.complete(); }, kPatienceMs));
  EXPECT_EQ(view.toPlainText().remove(u'\n'), QStringLiteral("[1]").repeated(kMarks));
}

TEST(AnswerView, StreamingGivesTheSameTextAsRenderingAtOnce) {
  const QString markdown = QStringLiteral(
      "First paragraph with a mark [1] and *emphasis*.\n\n- one [2]\n- two\n\nAfter the list [1].\n\n"
      "```\nint main() {\n\n}\n```\n\nLast [3].\n");
  AnswerView whole;
  showAll(whole, markdown);
  AnswerView streamed;
  streamed.resize(500, 400);
  streamed.show();
  for (const QChar c : markdown) {
    streamed.append(QString(c));
    if (c == u'\n' || c == u' ') QTest::qWait(40);
  }
  streamed.finish();
  ASSERT_TRUE(QTest::qWaitFor([&] { return streamed.complete(); }, kPatienceMs));
  EXPECT_EQ(streamed.toPlainText(), whole.toPlainText());
  EXPECT_EQ(referencesOf(streamed).links, referencesOf(whole).links);
}

TEST(AnswerView, UpdatesAtMostThirtyTimesASecond) {
  AnswerView view;
  view.show();
  QSignalSpy rendered(&view, &AnswerView::rendered);
  QElapsedTimer clock;
  clock.start();
  while (clock.elapsed() < 1000) {
    view.append(QStringLiteral("word "));
    QTest::qWait(1);
  }
  EXPECT_GT(rendered.size(), 3);
  EXPECT_LE(rendered.size(), 31);
}

TEST(AnswerView, MarksWhatCouldNotBeVerified) {
  AnswerView view;
  showAll(view, QStringLiteral("True [1]. Doubtful [2]."));
  view.setCitationStates(
      [](const CitationLink& link) { return link.mark == 1 ? CitationState::kVerified : CitationState::kUnverified; });
  const auto underlineOf = [&](const QString& mark) {
    QTextCursor cursor = view.document()->find(mark);
    return cursor.charFormat().underlineStyle();
  };
  EXPECT_EQ(underlineOf(QStringLiteral("[1]")), QTextCharFormat::NoUnderline);
  EXPECT_EQ(underlineOf(QStringLiteral("[2]")), QTextCharFormat::DotLine);
}

TEST(AnswerView, CopiesPlainText) {
  AnswerView view;
  showAll(view, QStringLiteral("**Bold** [1]"));
  view.selectAll();
  view.copy();
  EXPECT_EQ(QGuiApplication::clipboard()->text(), QStringLiteral("Bold [1]"));
  EXPECT_FALSE(QGuiApplication::clipboard()->mimeData()->hasHtml());
}

TEST(CitationLink, AcceptsOnlyItsOwnForm) {
  EXPECT_TRUE(CitationLink::parse(QStringLiteral("cite:3:0")).has_value());
  for (const char* href : {"cite:3", "cite:3:0 ", "cite:-1:0", "Cite:3:0", "file:///cite:3:0", "cite:99999:0", ""}) {
    EXPECT_FALSE(CitationLink::parse(QString::fromLatin1(href)).has_value()) << href;
  }
}

}  // namespace
}  // namespace lectern::ui
