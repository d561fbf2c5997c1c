// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <QAbstractItemModelTester>

#include "printing.h"
#include "ui/hit_model.h"
#include "ui/library_model.h"
#include "ui/list_roles.h"

namespace lectern::ui {
namespace {

using retrieval::DocumentKind;
using retrieval::DocumentState;

retrieval::DocumentInfo makeDocument(retrieval::DocumentId id, const std::string& title) {
  retrieval::DocumentInfo info;
  info.id = id;
  info.title = title;
  info.path = "/documents/" + title;
  info.kind = DocumentKind::kPdf;
  info.pages = 3;
  info.bytes = 2048;
  return info;
}

// Rows as text, one per line: what a person would see.
QString printed(const QAbstractItemModel& model) {
  QString text;
  for (int row = 0; row < model.rowCount(); ++row) {
    const QModelIndex index = model.index(row, 0);
    text += QStringLiteral("%1 | %2\n").arg(index.data(Qt::DisplayRole).toString(), index.data(kDetailRole).toString());
  }
  return text;
}

TEST(LibraryModel, SortsByTitleAsPeopleDo) {
  LibraryModel model;
  const QAbstractItemModelTester tester(&model, QAbstractItemModelTester::FailureReportingMode::Fatal);
  model.setDocuments(
      sortedByTitle({makeDocument(1, "report 10"), makeDocument(2, "Report 9"), makeDocument(3, "annex")}));
  EXPECT_EQ(printed(model), QStringLiteral("annex | 3 pages · 2.0 kB\n"
                                           "Report 9 | 3 pages · 2.0 kB\n"
                                           "report 10 | 3 pages · 2.0 kB\n"));
  EXPECT_EQ(model.document(model.indexOf(1))->title, "report 10");
  EXPECT_FALSE(model.indexOf(99).isValid());
}

TEST(LibraryModel, ShowsWhyADocumentIsIncomplete) {
  LibraryModel model;
  retrieval::DocumentInfo partial = makeDocument(1, "scan");
  partial.state = DocumentState::kPartial;
  partial.note = "page 3 holds no text (scanned?)";
  model.setDocuments({partial});
  EXPECT_EQ(printed(model), QStringLiteral("scan | Read in part: page 3 holds no text (scanned?)\n"));
  EXPECT_EQ(model.index(0).data(kIconRole).toString(), QStringLiteral("warning"));
  EXPECT_GT(model.index(0).data(kDetailLinesRole).toInt(), 1);
}

TEST(LibraryModel, KeepsTheFileBeingReadAndFailuresAboveTheDocuments) {
  LibraryModel model;
  const QAbstractItemModelTester tester(&model, QAbstractItemModelTester::FailureReportingMode::Fatal);
  model.setDocuments({makeDocument(1, "annex")});
  retrieval::IngestProgress progress;
  progress.file = "/in/new.pdf";
  model.setReading(progress);
  retrieval::IngestItem failed;
  failed.file = "/in/locked.pdf";
  failed.outcome = retrieval::IngestOutcome::kFailed;
  failed.message = "it needs a password";
  model.addItem(failed);
  retrieval::IngestItem skipped = failed;
  skipped.outcome = retrieval::IngestOutcome::kSkipped;
  model.addItem(skipped);
  EXPECT_EQ(printed(model), QStringLiteral("new.pdf | Reading…\n"
                                           "locked.pdf | Not added: it needs a password\n"
                                           "annex | 3 pages · 2.0 kB\n"));
  progress.file = "/in/other.pdf";
  model.setReading(progress);
  model.clearReading();
  model.clearProblems();
  EXPECT_EQ(printed(model), QStringLiteral("annex | 3 pages · 2.0 kB\n"));
}

TEST(LibraryModel, FailuresThatTheLibraryKnowsAreShownOnce) {
  LibraryModel model;
  retrieval::DocumentInfo broken = makeDocument(2, "zebra");
  broken.state = DocumentState::kFailed;
  broken.note = "it is damaged";
  model.setDocuments(sortedByTitle({makeDocument(1, "annex"), broken}));
  retrieval::IngestItem item;
  item.outcome = retrieval::IngestOutcome::kFailed;
  item.document = 2;
  model.addItem(item);
  EXPECT_EQ(printed(model), QStringLiteral("zebra | Not read: it is damaged\n"
                                           "annex | 3 pages · 2.0 kB\n"));
}

TEST(LibraryModel, NeutralisesHostileTitles) {
  LibraryModel model;
  model.setDocuments({makeDocument(1, "a\nb\u202Efdp.exe\x1B[2J")});
  EXPECT_EQ(model.index(0).data(Qt::DisplayRole).toString(), QStringLiteral("a bfdp.exe\uFFFD[2J"));
}

TEST(HitModel, ShowsTheWordsInTheirPlace) {
  HitModel model;
  const QAbstractItemModelTester tester(&model, QAbstractItemModelTester::FailureReportingMode::Fatal);
  retrieval::SearchHit onPage;
  onPage.title = "Handbook";
  onPage.page = 4;
  onPage.text = std::string(300, 'x') + " before the lens of the lamp and more";
  retrieval::SearchHit inCode;
  inCode.title = "main.cpp";
  inCode.first_line = 10;
  inCode.last_line = 14;
  inCode.text = "int lens = 3;";
  model.setHits(QStringLiteral("lens"), {onPage, inCode});
  ASSERT_EQ(model.rowCount(), 2);
  EXPECT_EQ(model.index(0).data(kPlaceRole).toString(), QStringLiteral("p. 4"));
  EXPECT_TRUE(model.index(0).data(kDetailRole).toString().contains(QStringLiteral("the lens of the lamp")));
  EXPECT_EQ(model.index(1).data(kPlaceRole).toString(), QStringLiteral("lines 10–14"));
  EXPECT_EQ(model.hit(model.index(1))->title, "main.cpp");
  model.setHits({}, {});
  EXPECT_EQ(model.rowCount(), 0);
}

}  // namespace
}  // namespace lectern::ui
