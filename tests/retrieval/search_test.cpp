// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "retrieval/library.h"
#include "search/terms.h"
#include "search/text_search.h"
#include "support/fakes.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(Terms, IdentifiersFallApart) {
  EXPECT_THAT(identifier_parts("parseHttpHeader2"), ElementsAre("parse", "Http", "Header", "2"));
  EXPECT_THAT(identifier_parts("HTTPServer"), ElementsAre("HTTP", "Server"));
  EXPECT_THAT(identifier_parts("_snake__case_"), ElementsAre("snake", "case"));
  EXPECT_THAT(identifier_parts("word"), IsEmpty());
  EXPECT_THAT(identifier_parts(""), IsEmpty());
}

TEST(Terms, WordsAreLettersOfAnyScript) {
  EXPECT_THAT(words_of("Don't (stop) at café—naïve «Ōpua» a_b C++20!"),
              ElementsAre("Don", "t", "stop", "at", "café", "naïve", "Ōpua", "a_b", "C", "20"));
  EXPECT_THAT(words_of("漢字入門。次"), ElementsAre("漢字入門", "次"));
  EXPECT_THAT(words_of(std::string_view("a\0b", 3)), ElementsAre("a", "b"));
  EXPECT_THAT(character_pairs("x漢字入門"), ElementsAre("漢字", "字入", "入門"));
}

TEST(MatchTerms, QuoteEverything) {
  EXPECT_THAT(match_terms("whales AND \"sharks\" NEAR/2 text:*"),
              ElementsAre("\"whales\"", "\"sharks\"", "\"NEAR\"", "\"2\"", "\"text\""));
  EXPECT_THAT(match_terms("What is the reef?"), ElementsAre("\"reef\""));
  EXPECT_THAT(match_terms("to be or not"), ElementsAre("\"to\"", "\"be\"", "\"or\"", "\"not\""));
  EXPECT_THAT(match_terms("readFile"), ElementsAre("\"readFile\"", "\"read\"", "\"File\"", "\"read File\""));
  EXPECT_THAT(match_terms(" \t?!"), IsEmpty());
}

TEST(Fusion, IsReciprocalRankWithTiesByChunk) {
  const std::vector<FusedHit> hits = fuse({7, 5, 3}, {5, 9, 7});
  ASSERT_EQ(hits.size(), 4U);
  EXPECT_EQ(hits[0].chunk, 5);
  EXPECT_DOUBLE_EQ(hits[0].score, 1.0 / 62 + 1.0 / 61);
  EXPECT_EQ(hits[0].word_rank, 2);
  EXPECT_EQ(hits[0].vector_rank, 1);
  EXPECT_EQ(hits[1].chunk, 7);
  EXPECT_EQ(hits[2].chunk, 9);
  EXPECT_EQ(hits[3].chunk, 3);
  const std::vector<FusedHit> tie = fuse({4}, {2});
  EXPECT_EQ(tie[0].chunk, 2);
}

class SearchTest : public testing::Test {
 protected:
  void SetUp() override { library = Library::open(scratch / "library").value(); }

  void add(const std::string& name, const std::string& text, DocumentKind kind = DocumentKind::kText) {
    extractor.prepared.emplace(name, fakes::text_document(text, kind));
    IngestSink sink;
    const std::filesystem::path file = scratch.write(name, name);
    ASSERT_TRUE(library->ingest(std::span(&file, 1), extractor, &embedder, sink, {}));
  }

  std::vector<std::string> found(const std::string& query, Embedder* with = nullptr, SearchOptions options = {}) {
    const auto hits = library->search(query, options, with, {});
    EXPECT_TRUE(hits) << hits.error().message;
    std::vector<std::string> names;
    if (hits) {
      for (const SearchHit& hit : *hits) names.push_back(hit.path.filename().string());
    }
    return names;
  }

  test::Scratch scratch;
  fakes::MemoryExtractor extractor;
  fakes::HashingEmbedder embedder;
  std::unique_ptr<Library> library;
};

TEST_F(SearchTest, WordsAreStemmedAndAccentsAreOptional) {
  add("a.txt", "The committee considered several naïve proposals.");
  EXPECT_THAT(found("consider proposal"), ElementsAre("a.txt"));
  EXPECT_THAT(found("NAIVE"), ElementsAre("a.txt"));
}

TEST_F(SearchTest, IdentifiersAreFoundWholeAndInParts) {
  add("a.cpp", "void parseHttpHeader() {}\n", DocumentKind::kCode);
  add("b.cpp", "int max_page_count;\n", DocumentKind::kCode);
  EXPECT_THAT(found("parseHttpHeader"), ElementsAre("a.cpp"));
  EXPECT_THAT(found("http header"), ElementsAre("a.cpp"));
  EXPECT_THAT(found("max_page_count"), ElementsAre("b.cpp"));
  EXPECT_THAT(found("page"), ElementsAre("b.cpp"));
  EXPECT_THAT(found("maxPageCount"), ElementsAre("b.cpp"));
}

TEST_F(SearchTest, ScriptsWithoutSpacesAreFoundByParts) {
  add("a.txt", "これは漢字入門の本です。");
  EXPECT_THAT(found("漢字"), ElementsAre("a.txt"));
  EXPECT_THAT(found("入門の本"), ElementsAre("a.txt"));
  EXPECT_THAT(found("日本"), IsEmpty());
}

TEST_F(SearchTest, AnyTextIsAQuery) {
  add("a.txt", "Some plain words.");
  for (const char* query :
       {"",      " ",      "\"",    "'",  "*",  "(",  ")",        "-",  "a AND", "NEAR(",
        "text:", "^plain", "{x}:y", "\\", "?1", "%s", "\xff\xfe", "→→", "🙂",  "-- ; DROP TABLE chunks",
        "the",   "…—"}) {
    const auto hits = library->search(query, {}, &embedder, {});
    EXPECT_TRUE(hits) << query << ": " << hits.error().message;
  }
  EXPECT_TRUE(library->search(std::string("plain\0words", 11), {}, nullptr, {}));
  EXPECT_TRUE(library->search(std::string(200'000, 'x'), {}, nullptr, {}));
  std::mt19937 random(7);
  std::string noise;
  for (int i = 0; i < 300; ++i) {
    noise.resize(random() % 40);
    for (char& c : noise) c = static_cast<char>(random());
    const auto hits = library->search(noise, {}, nullptr, {});
    ASSERT_TRUE(hits) << hits.error().message;
  }
}

TEST_F(SearchTest, FusesBothRankingsAndSaysWhy) {
  add("both.txt", "reef reef whales");
  add("words.txt", "reef and a very long text about entirely other matters of which there are many");
  const auto hits = *library->search("reef whales", {}, &embedder, {});
  ASSERT_EQ(hits.size(), 2U);
  EXPECT_EQ(hits[0].path.filename(), "both.txt");
  EXPECT_EQ(hits[0].word_rank, 1);
  EXPECT_EQ(hits[0].vector_rank, 1);
  EXPECT_DOUBLE_EQ(hits[0].score, 2.0 / 61);
  EXPECT_EQ((*library->search("reef", {}, nullptr, {}))[0].vector_rank, 0);
}

TEST_F(SearchTest, FilterHoldsForBothRankings) {
  for (int i = 0; i < 5; ++i) add(std::to_string(i) + ".txt", "reef number " + std::to_string(i));
  const auto documents = *library->documents();
  EXPECT_THAT(found("reef", &embedder, {.limit = 10, .documents = {documents[3].id, documents[1].id}}),
              testing::UnorderedElementsAre("1.txt", "3.txt"));
  EXPECT_THAT(found("reef", &embedder, {.limit = 10, .documents = {4711}}), IsEmpty());
  EXPECT_EQ(found("reef", &embedder, {.limit = 2, .documents = {}}).size(), 2U);
  EXPECT_THAT(found("reef", &embedder, {.limit = -1, .documents = {}}), IsEmpty());
}

TEST_F(SearchTest, EqualHitsComeInTheSameOrderEveryTime) {
  for (int i = 0; i < 6; ++i) add(std::to_string(i) + ".txt", "the very same words");
  const auto first = found("same words", &embedder);
  EXPECT_THAT(first, ElementsAre("0.txt", "1.txt", "2.txt", "3.txt", "4.txt", "5.txt"));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(found("same words", &embedder), first);
}

TEST_F(SearchTest, VectorsSurviveReopeningAndFollowRemoval) {
  for (int i = 0; i < 30; ++i) add(std::to_string(i) + ".txt", "number " + std::to_string(i) + " of reef");
  const auto before = *library->search("number 7", {}, &embedder, {});
  library.reset();
  library = Library::open(scratch / "library").value();
  const auto after = *library->search("number 7", {}, &embedder, {});
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(before[i].chunk, after[i].chunk);
    EXPECT_EQ(before[i].vector_rank, after[i].vector_rank);
  }
  ASSERT_TRUE(library->remove(after[0].document));
  const auto rest = *library->search("number 7", {.limit = 100, .documents = {}}, &embedder, {});
  EXPECT_EQ(rest.size(), 29U);
  for (const SearchHit& hit : rest) EXPECT_NE(hit.document, after[0].document);
}

TEST_F(SearchTest, BrokenEmbedderLeavesWords) {
  add("a.txt", "reef");
  embedder.fail_after_calls = 0;
  EXPECT_THAT(found("reef", &embedder), ElementsAre("a.txt"));
}

TEST_F(SearchTest, CancelledSearchSaysSo) {
  add("a.txt", "reef");
  std::stop_source source;
  source.request_stop();
  EXPECT_EQ(library->search("reef", {}, nullptr, source.get_token()).error().code, ErrorCode::kCancelled);
}

}  // namespace
}  // namespace lectern::retrieval
