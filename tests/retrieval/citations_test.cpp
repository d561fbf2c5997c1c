// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer/citations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "answer/marks.h"
#include "answer/matching.h"
#include "answer/placement.h"
#include "retrieval/answer.h"
#include "support/fakes.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

using testing::ElementsAre;
using testing::FieldsAre;
using testing::IsEmpty;

std::string text_of(const Support& support, std::string_view passage) {
  std::string all;
  for (const auto& [begin, end] : support.ranges) {
    if (!all.empty()) all += "|";
    all += passage.substr(begin, end - begin);
  }
  return all;
}

TEST(Marks, BelongToTheSentenceBefore) {
  EXPECT_THAT(find_marks("Whales sing. [2] They also dive [1]."),
              ElementsAre(FieldsAre(2, "Whales sing."), FieldsAre(1, "They also dive.")));
}

TEST(Marks, NumbersComeInListsRowsAndRanges) {
  EXPECT_THAT(find_marks("A fact. [1, 2][4-5]"), ElementsAre(FieldsAre(1, "A fact."), FieldsAre(2, "A fact."),
                                                             FieldsAre(4, "A fact."), FieldsAre(5, "A fact.")));
}

TEST(Marks, AtTheBeginningBelongToTheSentenceAfter) {
  EXPECT_THAT(find_marks("[3] Whales sing. They dive."), ElementsAre(FieldsAre(3, "Whales sing.")));
  EXPECT_THAT(find_marks("Intro text.\n\n- [1] First thing here.\n- [2] Second thing here."),
              ElementsAre(FieldsAre(1, testing::HasSubstr("First thing here.")),
                          FieldsAre(2, testing::HasSubstr("Second thing here."))));
}

TEST(Marks, InsideOneSentenceShareItOut) {
  EXPECT_THAT(find_marks("Whales sing [1], but sharks are silent [2]."),
              ElementsAre(FieldsAre(1, "Whales sing"), FieldsAre(2, "but sharks are silent")));
}

TEST(Marks, AreNoneInCodeOrProse) {
  EXPECT_THAT(find_marks("Use `a[1]` here.\n```\nb[2] = 3\n```\nA [note] and [ ] and [x1] and [99999]."), IsEmpty());
  EXPECT_THAT(find_marks("An unclosed ` tick [1]."), ElementsAre(FieldsAre(1, "An unclosed ` tick.")));
}

TEST(Marks, AnyTextIsAnAnswer) {
  for (const char* text :
       {"", "[", "[1", "[1]", "[1][2]", "[,]", "[1,]", "[-]", "```", "[999999999999999999999]", "]["}) {
    for (const Mark& mark : find_marks(text)) EXPECT_EQ(mark.claim, "") << text;
  }
}

constexpr const char* kPassage =
    "The “Ōpua” reef – first mapped in 1912 [3] – lies off the coast. Its co-ordinates were found ﬁrst by\nH. Gray. "
    "Nobody lives there today.";

TEST(Support, WholeClaimIsVerifiedAcrossSpellingOfSpacesDashesQuotesAndLigatures) {
  const Support support =
      find_support("The \"Ōpua\" reef - first  mapped in 1912 (3) - lies off the coast.", kPassage, DocumentKind::kPdf);
  EXPECT_TRUE(support.verified);
  EXPECT_EQ(text_of(support, kPassage), "The “Ōpua” reef – first mapped in 1912 [3] – lies off the coast.");
  EXPECT_TRUE(find_support("its co-ordinates were found first by **H. Gray**", kPassage, DocumentKind::kPdf).verified);
}

TEST(Support, PartOfAWordProvesNothing) {
  EXPECT_FALSE(find_support("body lives there", kPassage, DocumentKind::kPdf).verified);
  EXPECT_FALSE(find_support("Yes.", "Yes, and no.", DocumentKind::kPdf).verified);
  EXPECT_TRUE(find_support("1912", kPassage, DocumentKind::kPdf).verified);
}

TEST(Support, ChangedFigureIsNotVerifiedButPointsAtTheSentence) {
  const Support support =
      find_support("The reef was first mapped in 1913 off the coast.", kPassage, DocumentKind::kPdf);
  EXPECT_FALSE(support.verified);
  EXPECT_EQ(text_of(support, kPassage), "The “Ōpua” reef – first mapped in 1912 [3] – lies off the coast.");
}

TEST(Support, QuotationsInsideTheClaimAreVerifiedTogether) {
  EXPECT_EQ(text_of(find_support("It says that \"nobody lives there\" now.", kPassage, DocumentKind::kPdf), kPassage),
            "Nobody lives there");
  const Support both = find_support("“lies off the coast” and “nobody lives there”", kPassage, DocumentKind::kPdf);
  EXPECT_TRUE(both.verified);
  EXPECT_EQ(both.ranges.size(), 2U);
  EXPECT_FALSE(
      find_support("\"nobody lives there\" and \"everybody is happy\"", kPassage, DocumentKind::kPdf).verified);
  EXPECT_TRUE(find_support("\"The Ōpua reef\" is not it; \"lies off ... lives there\"",
                           "It lies off a land. Nobody lives there. The Ōpua reef.", DocumentKind::kPdf)
                  .verified);
  EXPECT_FALSE(
      find_support("\"lives there ... lies off\"", "It lies off a land. Nobody lives there.", DocumentKind::kPdf)
          .verified);
}

TEST(Support, UnrelatedClaimHasNone) {
  EXPECT_THAT(find_support("Interest rates rose sharply.", kPassage, DocumentKind::kPdf).ranges, IsEmpty());
}

TEST(Support, CodeIsComparedWithItsCase) {
  const char* code = "int Count = 0;\nint count = Count + 1;\nreturn count;";
  const Support support = find_support("`int count = Count + 1`", code, DocumentKind::kCode);
  EXPECT_TRUE(support.verified);
  EXPECT_EQ(text_of(support, code), "int count = Count + 1");
  EXPECT_FALSE(find_support("int COUNT = Count + 1", code, DocumentKind::kCode).verified);
}

TEST(LineRects, JoinNeighboursOnALineAndNothingElse) {
  const std::vector<Word> words = {{0, 1, {0.1F, 0.10F, 0.2F, 0.12F}},
                                   {2, 3, {0.25F, 0.101F, 0.3F, 0.121F}},
                                   {4, 5, {0.1F, 0.13F, 0.2F, 0.15F}},
                                   {6, 7, {0.6F, 0.10F, 0.7F, 0.12F}}};
  const std::vector<Rect> rects = line_rects(words);
  ASSERT_EQ(rects.size(), 3U);
  EXPECT_FLOAT_EQ(rects[0].right, 0.3F);
  EXPECT_FLOAT_EQ(rects[0].bottom, 0.121F);
  EXPECT_FLOAT_EQ(rects[2].left, 0.6F) << "the second column begins higher up";
}

class ResolveTest : public testing::Test {
 protected:
  void SetUp() override { library = Library::open(scratch / "library").value(); }

  std::vector<SearchHit> ingest_and_find(const std::string& name, const ExtractedDocument& document,
                                         const std::string& query) {
    extractor.prepared.emplace(name, document);
    IngestSink sink;
    const std::filesystem::path file = scratch.write(name, name);
    EXPECT_TRUE(library->ingest(std::span(&file, 1), extractor, nullptr, sink, {}));
    auto hits = library->search(query, {}, nullptr, {});
    EXPECT_TRUE(hits && !hits->empty());
    return *hits;
  }

  std::vector<Citation> resolve(const std::vector<SearchHit>& passages, const std::string& answer) {
    auto citations = resolve_citations(*library, passages, answer, unknown);
    EXPECT_TRUE(citations) << citations.error().message;
    return citations ? *citations : std::vector<Citation>();
  }

  test::Scratch scratch;
  fakes::MemoryExtractor extractor;
  std::unique_ptr<Library> library;
  std::vector<int> unknown;
};

TEST_F(ResolveTest, HighlightsExactlyTheWordsOfTheClaim) {
  const auto hits = ingest_and_find(
      "a.pdf",
      fakes::pdf_document({"Before this there was nothing. The quick brown fox jumps over the lazy dog. After."}),
      "fox");
  const auto citations = resolve(hits, "The quick brown fox jumps over the lazy dog. [1]");
  ASSERT_EQ(citations.size(), 1U);
  EXPECT_TRUE(citations[0].verified);
  EXPECT_EQ(citations[0].quote, "The quick brown fox jumps over the lazy dog.");
  ASSERT_EQ(citations[0].highlights.size(), 1U);
  EXPECT_EQ(citations[0].highlights[0].page, 1U);
  // Words 5 to 13 of a grid of eight words a line: three on the first line, six on the second.
  const std::vector<Rect>& rects = citations[0].highlights[0].rects;
  ASSERT_EQ(rects.size(), 2U);
  const float column = 0.9F / 8;
  EXPECT_NEAR(rects[0].left, 0.05F + 5 * column, 1e-4);
  EXPECT_NEAR(rects[0].right, 0.05F + 7.9F * column, 1e-4);
  EXPECT_NEAR(rects[1].left, 0.05F, 1e-4);
  EXPECT_NEAR(rects[1].right, 0.05F + 5.9F * column, 1e-4);
  EXPECT_NEAR(rects[1].top, 0.07F, 1e-4);
}

TEST_F(ResolveTest, ClaimAcrossAPageBreakIsHighlightedOnBothPages) {
  const auto hits = ingest_and_find(
      "a.pdf",
      fakes::pdf_document({"First page begins here. The treaty was signed by", "both kings in the spring. The end."}),
      "treaty");
  const auto citations = resolve(hits, "The treaty was signed by both kings in the spring. [1]");
  ASSERT_EQ(citations.size(), 1U);
  EXPECT_TRUE(citations[0].verified);
  ASSERT_EQ(citations[0].highlights.size(), 2U);
  EXPECT_EQ(citations[0].highlights[0].page, 1U);
  EXPECT_EQ(citations[0].highlights[1].page, 2U);
  EXPECT_EQ(citations[0].highlights[0].rects.size(), 2U);
  EXPECT_EQ(citations[0].highlights[1].rects.size(), 1U);
}

TEST_F(ResolveTest, CodeIsCitedByItsLines) {
  const auto hits =
      ingest_and_find("a.cpp",
                      fakes::text_document("#include <x>\n\nint answer() {\n  int value = 42;\n  return value;\n}\n",
                                           DocumentKind::kCode),
                      "answer");
  const auto citations = resolve(hits, "It is set by `int value = 42;` [1].");
  ASSERT_EQ(citations.size(), 1U);
  EXPECT_EQ(citations[0].kind, DocumentKind::kCode);
  EXPECT_EQ(citations[0].first_line, 4U);
  EXPECT_EQ(citations[0].last_line, 4U);
  EXPECT_THAT(citations[0].highlights, IsEmpty());
  const auto two = resolve(hits, "The lines \"int value = 42; return value;\" do it. [1]");
  EXPECT_TRUE(two[0].verified);
  EXPECT_EQ(two[0].first_line, 4U);
  EXPECT_EQ(two[0].last_line, 5U);
}

TEST_F(ResolveTest, UnknownMarksAreNamed) {
  const auto hits = ingest_and_find("a.txt", fakes::text_document("The sea is blue."), "sea");
  const auto citations = resolve(hits, "The sea is blue. [1] And green. [7] Or red. [0]");
  EXPECT_EQ(citations.size(), 1U);
  EXPECT_THAT(unknown, ElementsAre(7, 0));
}

TEST_F(ResolveTest, NothingFoundStillOpensThePassage) {
  const auto hits = ingest_and_find("a.pdf", fakes::pdf_document({"The sea is blue."}), "sea");
  const auto citations = resolve(hits, "Interest rates rose sharply. [1]");
  EXPECT_FALSE(citations[0].verified);
  EXPECT_EQ(citations[0].quote, "");
  ASSERT_EQ(citations[0].highlights.size(), 1U);
  EXPECT_EQ(citations[0].highlights[0].page, 1U);
}

TEST_F(ResolveTest, RemovedDocumentIsNeverVerified) {
  const auto hits = ingest_and_find("a.txt", fakes::text_document("The sea is blue."), "sea");
  ASSERT_TRUE(library->remove(hits[0].document));
  const auto citations = resolve(hits, "The sea is blue. [1]");
  ASSERT_EQ(citations.size(), 1U);
  EXPECT_FALSE(citations[0].verified);
}

}  // namespace
}  // namespace lectern::retrieval
