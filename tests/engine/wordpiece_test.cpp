// SPDX-License-Identifier: GPL-3.0-or-later
#include "text/wordpiece.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace lectern::engine {
namespace {

using Ids = std::vector<TokenId>;

constexpr std::string_view kVocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##aff\n##able\n.\ncafe\n中\nA\n";

class WordPieceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) / ("lectern_wordpiece_" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, std::string_view content) {
    std::ofstream(directory_ / name, std::ios::binary) << content;
  }
  Result<WordPiece> load_vocabulary(std::string_view content) {
    write("vocab.txt", content);
    return WordPiece::load(directory_);
  }
  void expect_error(std::string_view vocabulary, ErrorCode code, const std::string& words) {
    const auto loaded = load_vocabulary(vocabulary);
    ASSERT_FALSE(loaded.ok()) << words;
    EXPECT_EQ(loaded.error().code, code);
    EXPECT_NE(loaded.error().message.find(words), std::string::npos) << loaded.error().message;
  }

  std::filesystem::path directory_;
};

TEST_F(WordPieceTest, TakesTheLongestPiecesFromTheLeft) {
  const auto loaded = load_vocabulary(kVocabulary);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->encode("Unaffable.", 100), (Ids{2, 4, 5, 6, 7, 3}));
  EXPECT_EQ(loaded->encode("CAFÉ 中中", 100), (Ids{2, 8, 9, 9, 3}));
  EXPECT_EQ(loaded->encode("unaffordable", 100), (Ids{2, 1, 3}));
  EXPECT_EQ(loaded->encode("", 100), (Ids{2, 3}));
}

TEST_F(WordPieceTest, CutsAtTheLimitAndKeepsBothEnds) {
  const auto loaded = load_vocabulary(kVocabulary);
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->encode("unaffable unaffable", 4), (Ids{2, 4, 5, 3}));
  EXPECT_EQ(loaded->encode("unaffable", 2), (Ids{2, 3}));
  EXPECT_EQ(loaded->encode("unaffable", 0), (Ids{2, 3}));
}

TEST_F(WordPieceTest, SpecialTokensInTextAreOrdinaryText) {
  const auto loaded = load_vocabulary(std::string(kVocabulary) + "[\n]\nsep\n");
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->encode("[SEP]", 100), (Ids{2, 11, 13, 12, 3}));
}

TEST_F(WordPieceTest, InvalidBytesAndControlsAreIgnored) {
  const auto loaded = load_vocabulary(kVocabulary);
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->encode(std::string_view("u\0n\xff\xc3\x01", 6), 100), (Ids{2, 4, 3}));
}

TEST_F(WordPieceTest, WindowsLineEndsAndAMissingLastNewlineAreAccepted) {
  const auto loaded = load_vocabulary("[UNK]\r\n[CLS]\r\n[SEP]\r\nun");
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->encode("un", 10), (Ids{1, 3, 2}));
}

TEST_F(WordPieceTest, BadVocabulariesAreNamed) {
  expect_error("[UNK]\n\n[CLS]\n[SEP]\n", ErrorCode::kCorrupt, "line 2 is empty");
  expect_error("[UNK]\n[CLS]\n[SEP]\na\nb\na\n", ErrorCode::kCorrupt, "line 6 repeats line 4");
  expect_error("[UNK]\n[SEP]\n", ErrorCode::kCorrupt, "[CLS] is missing");
  expect_error("[UNK]\n[CLS]\n", ErrorCode::kCorrupt, "[SEP] is missing");
  expect_error("[CLS]\n[SEP]\n", ErrorCode::kCorrupt, "[UNK] is missing");
  expect_error("", ErrorCode::kCorrupt, "is missing");
  expect_error("[CLS]\n[SEP]\n[UNK]\n\xff\n", ErrorCode::kCorrupt, "UTF-8");
}

TEST_F(WordPieceTest, AMissingVocabularyIsNotFound) {
  const auto loaded = WordPiece::load(directory_);
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, ErrorCode::kNotFound);
}

TEST_F(WordPieceTest, CasedModelsKeepCaseAndAccents) {
  write("tokenizer_config.json", R"({"do_lower_case": false})");
  const auto loaded = load_vocabulary(std::string(kVocabulary) + "É\n");
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->encode("A É a", 10), (Ids{2, 10, 11, 1, 3}));
}

TEST_F(WordPieceTest, ReadsTokenizerJsonWhenThereIsNoList) {
  write("tokenizer.json", R"({"normalizer":{"type":"BertNormalizer","clean_text":true,"lowercase":true},
    "model":{"type":"WordPiece","continuing_subword_prefix":"##",
             "vocab":{"[SEP]":1,"[CLS]":0,"[UNK]":2,"un":3,"##it":4}}})");
  const auto loaded = WordPiece::load(directory_);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->encode("UNIT", 10), (Ids{0, 3, 4, 1}));
}

TEST_F(WordPieceTest, TokenizerJsonOfAnotherFamilyOrWithHolesIsRefused) {
  write("tokenizer.json", R"({"normalizer":{"type":"BertNormalizer"},"model":{"type":"BPE","vocab":{}}})");
  EXPECT_EQ(WordPiece::load(directory_).error().code, ErrorCode::kUnsupported);
  write("tokenizer.json", R"({"normalizer":{"type":"BertNormalizer"},
    "model":{"type":"WordPiece","vocab":{"[CLS]":0,"[SEP]":1,"[UNK]":3}}})");
  EXPECT_EQ(WordPiece::load(directory_).error().code, ErrorCode::kCorrupt);
  write("tokenizer.json", R"({"normalizer":{"type":"BertNormalizer"},
    "model":{"type":"WordPiece","vocab":{"[CLS]":0,"[SEP]":1,"[UNK]":1}}})");
  EXPECT_EQ(WordPiece::load(directory_).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace lectern::engine
