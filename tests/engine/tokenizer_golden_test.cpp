// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "engine/tokenizer.h"
#include "golden/golden_files.h"
#include "text/wordpiece.h"

namespace lectern::engine {
namespace {

class QwenTokenizer : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto loaded = Tokenizer::load(golden::directory() / "qwen_tokenizer");
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    tokenizer_ = std::move(*loaded);
    cases_ = golden::read_token_cases(golden::directory() / "qwen_strings.jsonl");
  }
  static void TearDownTestSuite() { tokenizer_.reset(); }

  static inline std::unique_ptr<Tokenizer> tokenizer_;
  static inline std::vector<golden::TokenCase> cases_;
};

TEST_F(QwenTokenizer, HasThousandsOfStringsToCompare) { EXPECT_GE(cases_.size(), 3000U); }

TEST_F(QwenTokenizer, EncodesLikeTheReference) {
  for (const golden::TokenCase& expected : cases_) {
    EXPECT_EQ(tokenizer_->encode(expected.text, Tokenizer::SpecialTokens::kRecognise), expected.ids)
        << json_quote(expected.text);
  }
}

TEST_F(QwenTokenizer, EncodesSpecialTokensInUntrustedTextAsCharacters) {
  std::size_t with_special = 0;
  for (const golden::TokenCase& expected : cases_) {
    EXPECT_EQ(tokenizer_->encode(expected.text, Tokenizer::SpecialTokens::kIgnore), expected.plain)
        << json_quote(expected.text);
    if (expected.plain != expected.ids) ++with_special;
  }
  EXPECT_GE(with_special, 100U);
}

// The normaliser is part of encoding, so decoding gives the composed text; encoding that again must change nothing.
TEST_F(QwenTokenizer, DecodingIsTheInverseOfEncodingUpToNormalisation) {
  for (const golden::TokenCase& expected : cases_) {
    const std::string text = tokenizer_->decode(expected.ids, /*skip_special=*/false);
    EXPECT_EQ(tokenizer_->encode(text, Tokenizer::SpecialTokens::kRecognise), expected.ids)
        << json_quote(expected.text);
  }
}

TEST(WordPieceGolden, EncodesLikeTheReference) {
  const std::filesystem::path directory = std::filesystem::path(::testing::TempDir()) / "lectern_wordpiece_golden";
  std::filesystem::create_directories(directory);
  std::filesystem::copy_file(golden::directory() / "bert_vocab.txt", directory / "vocab.txt",
                             std::filesystem::copy_options::overwrite_existing);
  const auto loaded = WordPiece::load(directory);
  std::filesystem::remove_all(directory);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->size(), 30522);
  const auto cases = golden::read_token_cases(golden::directory() / "wordpiece_strings.jsonl");
  EXPECT_GE(cases.size(), 1500U);
  for (const golden::TokenCase& expected : cases) {
    std::vector<TokenId> ids = {101};
    ids.insert(ids.end(), expected.ids.begin(), expected.ids.end());
    ids.push_back(102);
    EXPECT_EQ(loaded->encode(expected.text, 1'000'000), ids) << json_quote(expected.text);
  }
}

}  // namespace
}  // namespace lectern::engine
