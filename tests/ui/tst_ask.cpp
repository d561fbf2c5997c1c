// SPDX-License-Identifier: GPL-3.0-or-later
// From dropping a PDF on the window to the highlighted sentence.
#include <QElapsedTimer>
#include <QLabel>
#include <QProgressBar>
#include <QPushButton>

#include "heartbeat.h"
#include "ui/context_meter.h"
#include "ui/page_view.h"
#include "ui/reader_view.h"
#include "ui/source_row.h"
#include "window_driver.h"

namespace lectern::ui::test {
namespace {

const std::string kSentence = "The lighthouse on Skerry Point is 43 metres tall.";
const QString kQuestion = QStringLiteral("How tall is the lighthouse on Skerry Point?");
constexpr int kPage = 3;  // of the handbook, from 1

// Rectangles of the sentence's words on the page, from the stored text.
std::vector<retrieval::Rect> sentenceWords(const retrieval::ExtractedPage& page) {
  std::vector<retrieval::Rect> rects;
  const std::size_t begin = page.text.find("The lighthouse on Skerry Point is 43");
  const std::size_t end = page.text.find("tall.", begin);
  for (const retrieval::Word& word : page.words) {
    if (word.begin >= begin && word.begin <= end) rects.push_back(word.rect);
  }
  return rects;
}

bool covered(const std::vector<QRectF>& highlights, const QRectF& word) {
  return std::any_of(highlights.begin(), highlights.end(),
                     [&](const QRectF& highlight) { return highlight.contains(word.center()); });
}

TEST(Ask, CitationOpensThePageAtTheSentence) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.window.library()->ingesting());
  ASSERT_TRUE(driver.waitForIngest());
  driver.type(kQuestion);
  ASSERT_TRUE(driver.waitForAnswer());
  ASSERT_TRUE(driver.answer()->toPlainText().startsWith(QString::fromStdString(kSentence)))
      << driver.answer()->toPlainText().toStdString();

  const auto rows = driver.turn()->findChildren<SourceRow*>();
  ASSERT_EQ(rows.size(), 1);
  EXPECT_TRUE(rows.front()->citation().verified);
  driver.clickMark(QStringLiteral("["));
  PageView* pages = driver.window.reader()->pageView();
  ASSERT_TRUE(QTest::qWaitFor([&] { return pages->pageCount() > 0; }, kPatienceMs));
  EXPECT_EQ(pages->currentPage() + 1, kPage);

  const auto documents = driver.world.services.library->documents();
  const auto page = driver.world.services.library->page(documents->front().id, kPage - 1);
  ASSERT_TRUE(page.ok());
  const std::vector<retrieval::Rect> words = sentenceWords(*page);
  ASSERT_EQ(words.size(), 9U);
  const std::vector<QRectF> highlights = pages->highlightRects(kPage - 1);
  for (const retrieval::Rect& word : words) {
    const QRectF drawn = pages->drawnAt(kPage - 1, word);
    EXPECT_TRUE(covered(highlights, drawn));
    EXPECT_TRUE(QRectF(pages->viewport()->rect()).contains(drawn)) << "scrolled into view";
  }
}

TEST(Ask, WhatWasKnownBeforeIsNotReadingSpeed) {
  const PrefillProgress progress = {.done = 900, .total = 1000, .seconds = 2, .known = 700};
  EXPECT_EQ(progress.rate(), 100);
  EXPECT_EQ(progress.secondsLeft(), 1);
}

TEST(Ask, HighlightIsYellowOnThePage) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  driver.type(kQuestion);
  ASSERT_TRUE(driver.waitForAnswer());
  driver.turn()->findChildren<SourceRow*>().front()->click();
  PageView* pages = driver.window.reader()->pageView();
  ASSERT_TRUE(QTest::qWaitFor([&] { return pages->pageCount() > 0 && pages->hasImage(kPage - 1); }, kPatienceMs));
  const QRectF place = pages->highlightRects(kPage - 1).front();
  const QImage shown = pages->viewport()->grab().toImage();
  int yellow = 0;
  int dark = 0;
  for (int x = static_cast<int>(place.left()); x < static_cast<int>(place.right()); ++x) {
    for (int y = static_cast<int>(place.top()); y < static_cast<int>(place.bottom()); ++y) {
      const QColor color = shown.pixelColor(x, y);
      if (color.blue() < 150 && color.red() > 200) ++yellow;
      if (color.lightness() < 110) ++dark;
    }
  }
  EXPECT_GT(yellow, 100);
  EXPECT_GT(dark, 20) << "the words are still to be read under the highlight";
}

TEST(Ask, StopWorksWhileThePromptIsRead) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  driver.world.generator->prefillSteps = 2000;
  driver.world.generator->stepMs = 5;
  driver.type(kQuestion);
  auto* progress = driver.turn()->findChild<QProgressBar*>();
  ASSERT_TRUE(QTest::qWaitFor([&] { return progress->maximum() > 0 && progress->value() > 0; }, kPatienceMs));
  EXPECT_TRUE(progress->isVisible());

  auto* button = driver.window.conversation()->findChild<QPushButton*>(QStringLiteral("askButton"));
  EXPECT_EQ(button->text(), QStringLiteral("Stop"));
  QElapsedTimer clock;
  clock.start();
  QTest::mouseClick(button, Qt::LeftButton);
  ASSERT_TRUE(QTest::qWaitFor([&] { return !driver.window.asking()->busy(); }, kPatienceMs));
  EXPECT_LT(clock.elapsed(), 4000);  // far less than the ten seconds of reading that are left
  std::printf("stopped after %lld ms\n", static_cast<long long>(clock.elapsed()));
  EXPECT_FALSE(progress->isVisible());
  EXPECT_EQ(button->text(), QStringLiteral("Ask"));

  driver.world.generator->prefillSteps = 2;
  driver.type(kQuestion);
  ASSERT_TRUE(driver.waitForAnswer());
  EXPECT_TRUE(driver.answer()->toPlainText().contains(QStringLiteral("43 metres")));
}

TEST(Ask, StopKeepsThePartialAnswer) {
  WindowDriver driver([](const std::string&) {
    std::string endless;
    for (int i = 0; i < 5000; ++i) endless += "word ";
    return endless;
  });
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  driver.type(kQuestion);
  ASSERT_TRUE(QTest::qWaitFor([&] { return driver.answer()->toPlainText().size() > 20; }, kPatienceMs));
  QTest::keyClick(&driver.window, Qt::Key_Escape);
  driver.window.conversation()->stop();
  ASSERT_TRUE(driver.waitForAnswer());
  EXPECT_TRUE(driver.answer()->toPlainText().startsWith(QStringLiteral("word word")));
  const auto labels = driver.turn()->findChildren<QLabel*>();
  EXPECT_TRUE(std::any_of(labels.begin(), labels.end(), [](const QLabel* label) {
    return label->isVisible() && label->text().contains(QStringLiteral("incomplete"));
  }));
}

TEST(Ask, UnverifiedClaimsAreMarkedSo) {
  WindowDriver driver([](const std::string&) { return "The lighthouse is 99 metres tall and made of cheese. [1]"; });
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  driver.type(kQuestion);
  ASSERT_TRUE(driver.waitForAnswer());
  const auto rows = driver.turn()->findChildren<SourceRow*>();
  ASSERT_EQ(rows.size(), 1);
  EXPECT_FALSE(rows.front()->citation().verified);
  EXPECT_TRUE(rows.front()->accessibleName().contains(QStringLiteral("not found word for word")));
}

TEST(Ask, EmptyLibraryIsExplained) {
  WindowDriver driver(quoting(kSentence));
  driver.type(kQuestion);
  ASSERT_TRUE(QTest::qWaitFor([&] { return !driver.window.asking()->busy(); }, kPatienceMs));
  const auto* error = driver.turn()->findChild<QLabel*>(QStringLiteral("errorText"));
  ASSERT_NE(error, nullptr);
  EXPECT_TRUE(error->isVisible());
  EXPECT_FALSE(error->text().isEmpty());
}

TEST(Ask, AModelThatCannotBeOpenedIsExplainedAndTriedAgain) {
  WindowServices world(quoting(kSentence));
  std::atomic<int> calls = 0;
  world.services.openModel = [&](const ModelChoice&, const LoadProgress&,
                                 std::stop_token) -> retrieval::Result<OpenedModel> {
    ++calls;
    return retrieval::Error{retrieval::ErrorCode::kGenerator, "The model folder is empty."};
  };
  MainWindow window(world.services, nullptr);
  window.show();
  window.conversation()->ask(kQuestion);
  ASSERT_TRUE(QTest::qWaitFor([&] { return !window.asking()->busy(); }, kPatienceMs));
  const auto* error = window.conversation()->lastTurn()->findChild<QLabel*>(QStringLiteral("errorText"));
  EXPECT_EQ(error->text(), QStringLiteral("The model folder is empty."));
  EXPECT_EQ(calls, 2);  // once at the start, once for the question
}

TEST(Ask, ContextMeterShowsWhatTheModelIsGiven) {
  WindowDriver driver(quoting(kSentence));
  driver.drop({kHandbook});
  ASSERT_TRUE(driver.waitForIngest());
  driver.type(kQuestion);
  ASSERT_TRUE(driver.waitForAnswer());
  const auto* meter = driver.window.findChild<ContextMeter*>();
  EXPECT_TRUE(meter->isVisible());
  EXPECT_TRUE(meter->text().endsWith(QStringLiteral("of 8,192 tokens"))) << meter->text().toStdString();
  EXPECT_FALSE(meter->text().startsWith(u'0'));
}

TEST(Ask, TheWindowStaysAwake) {
  WindowDriver driver(quoting(kSentence));
  QTest::qWait(200);
  const Heartbeat heart;
  driver.drop({std::filesystem::path(LECTERN_SAMPLES)});
  ASSERT_TRUE(driver.waitForIngest());
  driver.type(kQuestion);
  ASSERT_TRUE(driver.waitForAnswer());
  driver.turn()->findChildren<SourceRow*>().front()->click();
  PageView* pages = driver.window.reader()->pageView();
  ASSERT_TRUE(
      QTest::qWaitFor([&] { return pages->pageCount() > 0 && pages->hasImage(pages->currentPage()); }, kPatienceMs));
  std::printf("reading, asking and opening a page: longest work %.0f ms, longest gap %.0f ms\n", heart.longestWorkMs(),
              heart.longestGapMs());
  EXPECT_LT(heart.longestWorkMs(), kLongestWorkMs);
  EXPECT_LT(heart.longestGapMs(), kLongestGapMs);
}

TEST(Ask, ClosingTheWindowWhileAnsweringIsSafe) {
  for (int wait : {0, 5, 30, 80}) {
    WindowDriver driver(quoting(kSentence));
    driver.world.generator->prefillSteps = 1000;
    driver.drop({kHandbook});
    QTest::qWait(wait);
    driver.type(kQuestion);
    QTest::qWait(wait);
  }
}

}  // namespace
}  // namespace lectern::ui::test
