// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "support/scratch.h"
#include "support/tiny_model.h"
#include "text/byte_alphabet.h"
#include "text/pre_tokenizer.h"
#include "text/unicode.h"

namespace lectern::engine {
namespace {

using support::ToyTokenizer;
using Ids = std::vector<TokenId>;

constexpr auto kIgnore = Tokenizer::SpecialTokens::kIgnore;
constexpr auto kRecognise = Tokenizer::SpecialTokens::kRecognise;

class ToyTokenizerTest : public testing::Test {
 protected:
  const std::unique_ptr<Tokenizer> tokenizer_ = support::load_toy_tokenizer();
};

Result<std::unique_ptr<Tokenizer>> load(const ToyTokenizer& toy) {
  const test::Scratch directory;
  directory.write("tokenizer.json", toy.json());
  return Tokenizer::load(directory.path());
}

std::vector<std::string> pieces(const std::string& text) {
  std::vector<std::string> result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = piece_length(text, at);
    result.push_back(text.substr(at, length));
    at += length;
  }
  return result;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

void expect_error(const ToyTokenizer& toy, ErrorCode code, const std::string& part) {
  const auto loaded = load(toy);
  ASSERT_FALSE(loaded.ok()) << part;
  EXPECT_EQ(loaded.error().code, code) << loaded.error().message;
  EXPECT_NE(loaded.error().message.find(part), std::string::npos) << loaded.error().message;
}

TEST_F(ToyTokenizerTest, MergesInRankOrder) {
  EXPECT_EQ(tokenizer_->encode("hello world", kIgnore), (Ids{259, 260, 'o', 'r', 'l', 'd'}));
  EXPECT_EQ(tokenizer_->encode("helll", kIgnore), (Ids{258, 'l'}));
  EXPECT_EQ(tokenizer_->encode("", kIgnore), Ids());
}

TEST_F(ToyTokenizerTest, AddedTokensAreTextOrTokens) {
  const std::string text = "a<|im_end|><think>b";
  EXPECT_EQ(tokenizer_->encode(text, kRecognise), (Ids{'a', support::kToyTurnEnd, support::kToyThink, 'b'}));
  const Ids plain = tokenizer_->encode(text, kIgnore);
  EXPECT_EQ(plain.size(), text.size());
  EXPECT_EQ(tokenizer_->decode(plain, true), text);
}

TEST_F(ToyTokenizerTest, DecodingSkipsOnlySpecialTokens) {
  const Ids ids{support::kToyTurnStart, 'a', support::kToyThink, 'b', support::kToyTurnEnd};
  EXPECT_EQ(tokenizer_->decode(ids, false), "<|im_start|>a<think>b<|im_end|>");
  EXPECT_EQ(tokenizer_->decode(ids, true), "a<think>b");
  EXPECT_EQ(tokenizer_->decode({'x', -1, support::kToySize, 1 << 30, 'y'}, false), "xy");
}

TEST_F(ToyTokenizerTest, LooksUpAddedTokensOnly) {
  EXPECT_EQ(tokenizer_->find("<|im_end|>"), support::kToyTurnEnd);
  EXPECT_EQ(tokenizer_->find("hello"), std::nullopt);
  EXPECT_TRUE(tokenizer_->is_special(support::kToyTurnEnd));
  EXPECT_FALSE(tokenizer_->is_special(support::kToyThink));
  EXPECT_FALSE(tokenizer_->is_special(-1));
  EXPECT_FALSE(tokenizer_->is_special(support::kToySize));
  EXPECT_EQ(tokenizer_->size(), support::kToySize);
  EXPECT_EQ(tokenizer_->token_bytes(259), "hello");
  EXPECT_EQ(tokenizer_->token_bytes(support::kToySize), "");
}

TEST_F(ToyTokenizerTest, InvalidUtf8BecomesReplacementCharacters) {
  const std::string replacement = "\xEF\xBF\xBD";
  const auto roundtrip = [&](const std::string& text) {
    return tokenizer_->decode(tokenizer_->encode(text, kRecognise), false);
  };
  EXPECT_EQ(roundtrip("a\xFFz"), "a" + replacement + "z");
  EXPECT_EQ(roundtrip("\xE2\x82"), replacement);
  EXPECT_EQ(roundtrip("\xE2\x28\xA1"), replacement + "(" + replacement);
  EXPECT_EQ(roundtrip("\xF0\x9F\x98z"), replacement + "z");
  EXPECT_EQ(roundtrip("\xED\xA0\x80"), replacement + replacement + replacement);
  EXPECT_EQ(roundtrip("\xC0\xAF"), replacement + replacement);
}

TEST_F(ToyTokenizerTest, TextIsComposed) {
  EXPECT_EQ(tokenizer_->decode(tokenizer_->encode("e\u0301", kIgnore), false), "\u00e9");
}

TEST_F(ToyTokenizerTest, OneHugeWordIsNotQuadratic) {
  const auto start = std::chrono::steady_clock::now();
  for (const char letter : {'l', ' ', '!', '\n'}) {
    const std::string text(1 << 20, letter);
    EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text, kRecognise), false), text);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
}

TEST(PreTokenizer, SplitsLikeThePattern) {
  using Pieces = std::vector<std::string>;
  EXPECT_EQ(pieces("Hello, world!"), (Pieces{"Hello", ",", " world", "!"}));
  EXPECT_EQ(pieces(" 1234"), (Pieces{" ", "1", "2", "3", "4"}));
  EXPECT_EQ(pieces("I'M we'll x'VE 'tis"), (Pieces{"I", "'M", " we", "'ll", " x", "'VE", " '", "tis"}));
  EXPECT_EQ(pieces("it'\u017f"), (Pieces{"it", "'\u017f"}));
  EXPECT_EQ(pieces("a   b"), (Pieces{"a", "  ", " b"}));
  EXPECT_EQ(pieces("a   1"), (Pieces{"a", "  ", " ", "1"}));
  EXPECT_EQ(pieces("a  \n  b"), (Pieces{"a", "  \n", " ", " b"}));
  EXPECT_EQ(pieces("a \n\r\n \t"), (Pieces{"a", " \n\r\n", " \t"}));
  EXPECT_EQ(pieces("x = {}\n\ny"), (Pieces{"x", " =", " {}\n\n", "y"}));
  EXPECT_EQ(pieces("\tif(a)"), (Pieces{"\tif", "(a", ")"}));
  EXPECT_EQ(pieces("a\u00a0\u00a0b"), (Pieces{"a", "\u00a0", "\u00a0b"}));
  EXPECT_EQ(pieces("\u0928\u093f"), (Pieces{"\u0928", "\u093f"}));  // a vowel sign is not a letter
}

TEST(Unicode, ComposesInCanonicalOrder) {
  EXPECT_EQ(unicode::nfc("a\u0323\u0302"), "\u1ead");
  EXPECT_EQ(unicode::nfc("a\u0302\u0323"), "\u1ead");
  EXPECT_EQ(unicode::nfd("\u1ead"), "a\u0323\u0302");
  EXPECT_EQ(unicode::nfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(unicode::nfd("\ud55c"), "\u1112\u1161\u11ab");
  EXPECT_EQ(unicode::nfc("\u0958"), "\u0915\u093c");  // composition exclusion
  EXPECT_EQ(unicode::nfc("\u212b"), "\u00c5");
  EXPECT_EQ(unicode::nfc("\u0301\u0301"), "\u0301\u0301");
  EXPECT_EQ(unicode::nfc("\u09c7\u09be"), "\u09cb");  // two starters
  EXPECT_EQ(unicode::nfc("a\u0334\u0301"), "\u00e1\u0334");
  EXPECT_EQ(unicode::nfc("a\u0305\u0301"), "a\u0305\u0301");  // blocked
}

TEST(Unicode, LowersCase) {
  EXPECT_EQ(unicode::lower_case(std::string_view("ÀB\u0130\u03a9\u10a0\U00010400")), "àbi\u0307\u03c9\u2d00\U00010428");
}

TEST(Unicode, FindsTheOpenEndOfAText) {
  EXPECT_EQ(unicode::incomplete_utf8_tail("a"), 0U);
  EXPECT_EQ(unicode::incomplete_utf8_tail("a\xE2"), 1U);
  EXPECT_EQ(unicode::incomplete_utf8_tail("a\xE2\x82"), 2U);
  EXPECT_EQ(unicode::incomplete_utf8_tail("a\xE2\x82\xAC"), 0U);
  EXPECT_EQ(unicode::incomplete_utf8_tail("\xF0\x9F\x98"), 3U);
  EXPECT_EQ(unicode::incomplete_utf8_tail("\xE0\x80"), 0U);  // can never become valid
  EXPECT_EQ(unicode::incomplete_utf8_tail("\x80\x80"), 0U);
  EXPECT_EQ(unicode::incomplete_utf8_tail("\xFF"), 0U);
}

TEST(ByteAlphabet, RoundTripsEveryByte) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
  EXPECT_EQ(bytes_from_alphabet(alphabet_from_bytes(bytes)), bytes);
  EXPECT_EQ(alphabet_from_bytes(" \n"), "\u0120\u010a");
  EXPECT_EQ(bytes_from_alphabet("\u0144"), std::nullopt);
  EXPECT_EQ(bytes_from_alphabet(" "), std::nullopt);
}

TEST(TokenizerFiles, MissingDirectoryOrFiles) {
  EXPECT_EQ(Tokenizer::load("/nonexistent").error().code, ErrorCode::kNotFound);
  const test::Scratch directory;
  directory.write("vocab.json", ToyTokenizer().vocabulary);
  EXPECT_EQ(Tokenizer::load(directory.path()).error().code, ErrorCode::kNotFound);
}

TEST(TokenizerFiles, VocabularyAndMergesGiveTheSameTokenizer) {
  const test::Scratch directory;
  directory.write("vocab.json", ToyTokenizer().vocabulary);
  directory.write("merges.txt", "#version: 0.2\nh e\nl l\nhe ll\nhell o\n\u0120 w\n");
  directory.write("tokenizer_config.json",
                  R"({"added_tokens_decoder":{"261":{"content":"<|im_end|>","special":true}}})");
  const auto loaded = Tokenizer::load(directory.path());
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ((*loaded)->encode("hello world<|im_end|>", kRecognise), (Ids{259, 260, 'o', 'r', 'l', 'd', 261}));
}

TEST(TokenizerFiles, MergeLinesAreChecked) {
  const test::Scratch directory;
  directory.write("vocab.json", ToyTokenizer().vocabulary);
  for (const char* merges : {"h e\nxyz\n", "h e l\n", " h\n", "h \n"}) {
    directory.write("merges.txt", merges);
    const auto loaded = Tokenizer::load(directory.path());
    ASSERT_FALSE(loaded.ok()) << merges;
    EXPECT_EQ(loaded.error().code, ErrorCode::kCorrupt);
  }
}

TEST(TokenizerFiles, WrongIds) {
  ToyTokenizer hole;
  hole.vocabulary = replaced(hole.vocabulary, "\"hello\":259", "\"hello\":270");
  expect_error(hole, ErrorCode::kCorrupt, "270");
  ToyTokenizer duplicate;
  duplicate.vocabulary = replaced(duplicate.vocabulary, "\"hello\":259", "\"hello\":258");
  expect_error(duplicate, ErrorCode::kCorrupt, "258");
  ToyTokenizer negative;
  negative.vocabulary = replaced(negative.vocabulary, "\"hello\":259", "\"hello\":-1");
  expect_error(negative, ErrorCode::kCorrupt, "-1");
  ToyTokenizer huge;
  huge.vocabulary = replaced(huge.vocabulary, "\"hello\":259", "\"hello\":4294967555");
  expect_error(huge, ErrorCode::kCorrupt, "4294967555");
  ToyTokenizer text;
  text.vocabulary = replaced(text.vocabulary, "\"hello\":259", "\"hello\":\"259\"");
  expect_error(text, ErrorCode::kCorrupt, "integer");
  ToyTokenizer added;
  added.added_tokens = replaced(added.added_tokens, "\"id\":262", "\"id\":12");
  expect_error(added, ErrorCode::kCorrupt, "12");
}

TEST(TokenizerFiles, WrongTokens) {
  ToyTokenizer alphabet;
  alphabet.vocabulary = replaced(alphabet.vocabulary, "\"hello\"", "\"hel lo\"");
  expect_error(alphabet, ErrorCode::kCorrupt, "byte alphabet");
  ToyTokenizer byte;
  byte.vocabulary = replaced(byte.vocabulary, "\"a\":97", "\"aa\":97");
  expect_error(byte, ErrorCode::kCorrupt, "byte 97");
  ToyTokenizer twice;
  twice.added_tokens = replaced(twice.added_tokens, "<|im_start|>", "<|im_end|>");
  expect_error(twice, ErrorCode::kCorrupt, "twice");
  ToyTokenizer empty;
  empty.added_tokens = replaced(empty.added_tokens, "<|im_start|>", "");
  expect_error(empty, ErrorCode::kCorrupt, "empty");
}

TEST(TokenizerFiles, WrongMerges) {
  ToyTokenizer unknown;
  unknown.merges = R"(["h e", "xx y"])";
  expect_error(unknown, ErrorCode::kCorrupt, "merge 1 names the unknown token \"xx\"");
  ToyTokenizer result;
  result.merges = R"(["h l"])";
  expect_error(result, ErrorCode::kCorrupt, "\"hl\"");
  ToyTokenizer pair;
  pair.merges = R"([["h", "e", "l"]])";
  expect_error(pair, ErrorCode::kCorrupt, "pair");
}

// Otherwise text typed by a user could become the end of a turn.
TEST(TokenizerFiles, MergesCannotMakeAnAddedToken) {
  ToyTokenizer toy;
  toy.added_tokens = replaced(toy.added_tokens, "<|im_end|>", "he");
  toy.vocabulary = replaced(toy.vocabulary, "\"he\":256", "\"he\":263,\"hx\":256");
  toy.merges = R"(["h e"])";
  expect_error(toy, ErrorCode::kCorrupt, "\"he\"");
}

TEST(TokenizerFiles, OtherKindsAreUnsupported) {
  ToyTokenizer normalizer;
  normalizer.normalizer = R"({"type":"Lowercase"})";
  expect_error(normalizer, ErrorCode::kUnsupported, "NFC");
  ToyTokenizer pattern;
  pattern.pre_tokenizer = replaced(pattern.pre_tokenizer, "(?i:", "(?:");
  expect_error(pattern, ErrorCode::kUnsupported, "pre_tokenizer");
  ToyTokenizer prefix;
  prefix.pre_tokenizer = replaced(prefix.pre_tokenizer, "\"add_prefix_space\":false", "\"add_prefix_space\":true");
  expect_error(prefix, ErrorCode::kUnsupported, "pre_tokenizer");
  ToyTokenizer fallback;
  fallback.model_options = ",\"byte_fallback\":true";
  expect_error(fallback, ErrorCode::kUnsupported, "byte_fallback");
  ToyTokenizer strip;
  strip.added_tokens = replaced(strip.added_tokens, "\"lstrip\":false", "\"lstrip\":true");
  expect_error(strip, ErrorCode::kUnsupported, "lstrip");
}

TEST(TokenizerFiles, NormalizedAddedTokensMatchTheComposedText) {
  ToyTokenizer toy;
  toy.added_tokens = replaced(toy.added_tokens, "\"content\":\"<|endoftext|>\"", "\"content\":\"\u00e9x\"");
  toy.added_tokens = replaced(toy.added_tokens, "\"normalized\":false", "\"normalized\":true");
  const auto loaded = load(toy);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ((*loaded)->encode("e\u0301xe", kRecognise), (Ids{support::kToyEndOfText, 'e'}));
}

TEST(TokenizerFiles, TheLongestAddedTokenWins) {
  ToyTokenizer toy;
  toy.added_tokens = replaced(toy.added_tokens, "<|im_start|>", "<think>ing");
  const auto loaded = load(toy);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ((*loaded)->encode("<think>ing<think>in", kRecognise),
            (Ids{support::kToyTurnStart, support::kToyThink, 'i', 'n'}));
}

}  // namespace
}  // namespace lectern::engine
