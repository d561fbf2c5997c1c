// SPDX-License-Identifier: GPL-3.0-or-later
#include "runtime/gguf_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "golden/golden_files.h"
#include "model/gguf_parser.h"
#include "runtime/stop_tokens.h"
#include "support/gguf_bytes.h"
#include "support/scratch.h"
#include "support/tiny_model.h"
#include "text/byte_alphabet.h"

namespace lectern::engine {
namespace {

using support::GgufBytes;
using support::kToyEndOfText;
using support::kToySize;
using support::kToyThink;
using support::kToyTurnEnd;
using support::kToyTurnStart;

constexpr std::int32_t kNormal = 1;
constexpr std::int32_t kUnknown = 2;
constexpr std::int32_t kControl = 3;
constexpr std::int32_t kUserDefined = 4;
constexpr std::int32_t kUnused = 5;
constexpr std::int32_t kByte = 6;

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<std::string> merges;

  void add(const std::string& token, std::int32_t type) {
    tokens.push_back(token);
    types.push_back(type);
  }
  GgufBytes file() const {
    GgufBytes bytes;
    bytes.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "qwen2");
    return bytes.strings("tokenizer.ggml.tokens", tokens)
        .numbers("tokenizer.ggml.token_type", types)
        .strings("tokenizer.ggml.merges", merges);
  }
};

// The toy tokenizer of the other tests, with `padding` unused tokens behind.
Vocabulary toy(int padding = 0) {
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.add(alphabet_from_bytes(std::string(1, static_cast<char>(byte))), kNormal);
  }
  for (const char* token : {"he", "ll", "hell", "hello", "\u0120w"}) vocabulary.add(token, kNormal);
  for (const char* token : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) vocabulary.add(token, kControl);
  for (const char* token : {"<think>", "</think>"}) vocabulary.add(token, kUserDefined);
  for (int i = 0; i < padding; ++i) vocabulary.add("[PAD" + std::to_string(kToySize + i) + "]", kUnused);
  vocabulary.merges = {"h e", "l l", "he ll", "hell o", "\u0120 w"};
  return vocabulary;
}

// A parsed file, with the bytes it points into.
class Parsed {
 public:
  explicit Parsed(const GgufBytes& builder)
      : bytes_(builder.bytes()),
        content_(parse_gguf(std::as_bytes(std::span(bytes_.data(), bytes_.size())), "model.gguf")) {
    EXPECT_TRUE(content_.ok()) << content_.error().message;
  }
  const GgufMetadata& metadata() const { return content_->metadata; }

 private:
  std::string bytes_;
  Result<GgufContent> content_;
};

std::unique_ptr<Tokenizer> load(const Vocabulary& vocabulary) {
  const Parsed file(vocabulary.file());
  auto tokenizer = load_gguf_tokenizer(file.metadata());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

void expect_refused(const GgufBytes& builder, ErrorCode code, std::string_view words) {
  const Parsed file(builder);
  const auto tokenizer = load_gguf_tokenizer(file.metadata());
  ASSERT_FALSE(tokenizer.ok()) << words;
  EXPECT_EQ(tokenizer.error().code, code) << tokenizer.error().message;
  EXPECT_TRUE(tokenizer.error().message.starts_with("model.gguf: ")) << tokenizer.error().message;
  EXPECT_NE(tokenizer.error().message.find(words), std::string::npos) << tokenizer.error().message;
}

void expect_refused(const Vocabulary& vocabulary, ErrorCode code, std::string_view words) {
  expect_refused(vocabulary.file(), code, words);
}

const char* const kAwkward[] = {"",
                                " ",
                                "hello",
                                " hello  world\n\n",
                                "hello<|im_end|>",
                                "<|im_end",
                                "<think>hell</think>",
                                "[PAD266]",
                                "\r\n\t 12345",
                                "caf\u00E9 cafe\u0301",
                                "\u4F60\u597D \U0001F642",
                                "\xFF\xFE broken \xC3",
                                "I'LL we\u017Fre 'S",
                                " <|im_start|><|im_start|>  "};

TEST(GgufTokenizer, GivesTheIdsOfTokenizerJson) {
  const auto expected = support::load_toy_tokenizer();
  const auto tokenizer = load(toy(/*padding=*/7));
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->size(), expected->size()) << "padding is no part of it";
  for (const std::string_view text : kAwkward) {
    for (const auto special : {Tokenizer::SpecialTokens::kIgnore, Tokenizer::SpecialTokens::kRecognise}) {
      EXPECT_EQ(tokenizer->encode(text, special), expected->encode(text, special)) << json_quote(std::string(text));
    }
  }
  for (TokenId id = 0; id < expected->size(); ++id) {
    EXPECT_EQ(tokenizer->token_bytes(id), expected->token_bytes(id)) << id;
    EXPECT_EQ(tokenizer->is_special(id), expected->is_special(id)) << id;
  }
  EXPECT_EQ(tokenizer->find("<think>"), kToyThink);
}

// The vocabulary of the real models as a converter would write it.
Vocabulary qwen() {
  const std::filesystem::path directory = golden::directory() / "qwen_tokenizer";
  const auto names = JsonDocument::read(directory / "vocab.json", {.max_bytes = std::size_t{64} << 20U});
  const auto config = JsonDocument::read(directory / "tokenizer_config.json", {});
  const auto merges = read_text_file(directory / "merges.txt", std::size_t{64} << 20U);
  Vocabulary vocabulary;
  vocabulary.tokens.resize(151936);
  vocabulary.types.resize(151936, kUnused);
  for (std::size_t i = 0; i < vocabulary.tokens.size(); ++i) vocabulary.tokens[i] = "[PAD" + std::to_string(i) + "]";
  const auto place = [&](std::size_t id, std::string_view token, std::int32_t type) {
    vocabulary.tokens.at(id) = token;
    vocabulary.types.at(id) = type;
  };
  for (const JsonMember token : names->root().members()) {
    place(static_cast<std::size_t>(token.value.integer().value_or(-1)), token.key, kNormal);
  }
  for (const JsonMember token : config->root()["added_tokens_decoder"].members()) {
    const bool special = token.value["special"].boolean().value_or(false);
    place(std::stoul(std::string(token.key)), token.value["content"].string().value_or(""),
          special ? kControl : kUserDefined);
  }
  for (std::size_t at = 0; at < merges->size();) {
    const std::size_t end = std::min(merges->find('\n', at), merges->size());
    const std::string line = merges->substr(at, end - at);
    if (!line.empty() && !line.starts_with("#version")) vocabulary.merges.push_back(line);
    at = end + 1;
  }
  return vocabulary;
}

TEST(GgufTokenizer, EncodesTheQwenStringsLikeTheReference) {
  const auto tokenizer = load(qwen());
  ASSERT_NE(tokenizer, nullptr);
  const auto cases = golden::read_token_cases(golden::directory() / "qwen_strings.jsonl");
  ASSERT_GE(cases.size(), 3000U);
  for (const golden::TokenCase& expected : cases) {
    EXPECT_EQ(tokenizer->encode(expected.text, Tokenizer::SpecialTokens::kRecognise), expected.ids)
        << json_quote(expected.text);
    EXPECT_EQ(tokenizer->encode(expected.text, Tokenizer::SpecialTokens::kIgnore), expected.plain)
        << json_quote(expected.text);
  }
}

TEST(GgufTokenizer, UnusedTokensInTheMiddleKeepTheirPlaceAndAreNeverMade) {
  Vocabulary vocabulary = toy();
  vocabulary.tokens.insert(vocabulary.tokens.begin() + 256, "a b");
  vocabulary.types.insert(vocabulary.types.begin() + 256, kUnused);
  const auto tokenizer = load(vocabulary);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->find("<think>"), kToyThink + 1);
  for (const auto special : {Tokenizer::SpecialTokens::kIgnore, Tokenizer::SpecialTokens::kRecognise}) {
    EXPECT_EQ(tokenizer->encode("a b", special).size(), 3U);
  }
}

TEST(GgufTokenizer, TokensWithEqualTextAreNoDanger) {
  Vocabulary vocabulary = toy();
  vocabulary.add("hello", kNormal);
  const auto tokenizer = load(vocabulary);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->encode("hello", Tokenizer::SpecialTokens::kIgnore), std::vector<TokenId>{259});
}

TEST(GgufTokenizer, OtherKindsAreRefused) {
  const auto refused = [](GgufBytes file, std::string_view words) {
    expect_refused(file, ErrorCode::kUnsupported, words);
  };
  refused(toy().file().string("tokenizer.ggml.model", "llama"), "the tokenizer \"llama\"");
  refused(toy().file().string("tokenizer.ggml.model", "bert"), "the tokenizer \"bert\"");
  refused(toy().file().string("tokenizer.ggml.pre", "qwen35"), "the split pattern \"qwen35\"");
  refused(toy().file().string("tokenizer.ggml.pre", "llama-bpe"), "the split pattern \"llama-bpe\"");
  refused(toy().file().string("tokenizer.ggml.pre", ""), "the split pattern \"\"");
  refused(toy().file().number("tokenizer.ggml.add_bos_token", true), "adds a token");
  refused(toy().file().number("tokenizer.ggml.add_eos_token", true), "adds a token");
  EXPECT_NE(load(toy()), nullptr);
  Vocabulary bytes = toy();
  bytes.types[7] = kByte;
  expect_refused(bytes, ErrorCode::kUnsupported, "token 7 is a byte");
  bytes.types[7] = kUnknown;
  expect_refused(bytes, ErrorCode::kUnsupported, "token 7 is");
}

TEST(GgufTokenizer, MissingKeysAndKeysOfAnotherType) {
  for (const char* key : {"model", "pre", "tokens", "token_type", "merges"}) {
    const std::string whole = "tokenizer.ggml." + std::string(key);
    expect_refused(toy().file().without(whole), ErrorCode::kCorrupt, whole + " is missing");
    expect_refused(toy().file().number<float>(whole, 1), ErrorCode::kCorrupt, whole + " is a value of type f32");
  }
  expect_refused(toy().file().u32("tokenizer.ggml.add_bos_token", 0), ErrorCode::kCorrupt, "expected a bool");
  expect_refused(toy().file().numbers<float>("tokenizer.ggml.token_type", {1}), ErrorCode::kCorrupt, "array of f32");
}

TEST(GgufTokenizer, WrongContent) {
  const auto spoiled = [](auto spoil) {
    Vocabulary vocabulary = toy();
    spoil(vocabulary);
    return vocabulary;
  };
  const std::pair<Vocabulary, const char*> wrong[] = {
      {spoiled([](Vocabulary& v) { v.types.pop_back(); }), "266 tokens, but 265 token types"},
      {spoiled([](Vocabulary& v) { v.types.push_back(1); }), "266 tokens, but 267 token types"},
      {spoiled([](Vocabulary& v) { v.types[3] = 0; }), "token 3 has the unknown type 0"},
      {spoiled([](Vocabulary& v) { v.types[3] = 7; }), "token 3 has the unknown type 7"},
      {spoiled([](Vocabulary& v) { v.types[3] = -1; }), "token 3 has the unknown type -1"},
      {spoiled([](Vocabulary& v) { v.types[65] = kUnused; }), "no token for the byte 65"},
      {spoiled([](Vocabulary& v) { v.tokens[65] = "x y"; }), "not spelled in the byte alphabet"},
      {spoiled([](Vocabulary& v) { v.tokens[65] = "\xFF"; }), "not spelled in the byte alphabet"},
      {spoiled([](Vocabulary& v) { v.tokens[257].clear(); }), "not spelled in the byte alphabet"},
      {spoiled([](Vocabulary& v) { v.tokens[kToyThink].clear(); }), "an added token is empty"},
      {spoiled([](Vocabulary& v) { v.tokens[kToyThink] = "<|im_end|>"; }), "\"<|im_end|>\" is defined twice"},
      {spoiled([](Vocabulary& v) { v.tokens[257] = "<|im_end|>"; }), "\"<|im_end|>\" has the ids"},
      {spoiled([](Vocabulary& v) { v.tokens.clear(), v.types.clear(); }), "merge 0 names the unknown token"},
      {spoiled([](Vocabulary& v) { v.types.assign(v.types.size(), kUnused); }), "merge 0 names the unknown token"},
      {spoiled([](Vocabulary& v) { v.merges[1] = "l"; }), "the merge \"l\" is not two tokens"},
      {spoiled([](Vocabulary& v) { v.merges[1] = ""; }), "the merge \"\" is not two tokens"},
      {spoiled([](Vocabulary& v) { v.merges[1] = " l"; }), "is not two tokens"},
      {spoiled([](Vocabulary& v) { v.merges[1] = "l "; }), "merge 1 names the unknown token \"\""},
      {spoiled([](Vocabulary& v) { v.merges[1] = "l l l"; }), "merge 1 names the unknown token \"l l\""},
      {spoiled([](Vocabulary& v) { v.merges[1] = "l xyz"; }), "merge 1 names the unknown token \"xyz\""},
      {spoiled([](Vocabulary& v) { v.merges[1] = "l z"; }), "merge 1 makes \"lz\""},
      {spoiled([](Vocabulary& v) { v.merges[0] = "<|im_start|> e"; }), "merge 0 names the unknown token"},
  };
  for (const auto& [vocabulary, words] : wrong) {
    SCOPED_TRACE(words);
    expect_refused(vocabulary, ErrorCode::kCorrupt, words);
  }
  Vocabulary many = toy();
  for (int i = 0; i < 5000; ++i) many.add("<|" + std::to_string(i) + "|>", kControl);
  expect_refused(many, ErrorCode::kCorrupt, "more than 4096 added tokens");
}

TEST(GgufChatTemplate, IsTheOneOfTheSameJinja) {
  const auto tokenizer = support::load_toy_tokenizer();
  const std::vector<ChatMessage> messages = {{"user", "hello"}};
  for (const char* source : {"", "<|im_start|>{% if add_generation_prompt %}<|im_start|>assistant\\n",
                             "<|im_start|>{% if add_generation_prompt %}<|im_start|>assistant\\n<think>\\n"}) {
    const Parsed file(toy().file().string("tokenizer.chat_template", source));
    const auto chat_template = load_gguf_chat_template(file.metadata(), *tokenizer);
    const auto expected = ChatTemplate::create(source, *tokenizer);
    ASSERT_TRUE(chat_template.ok()) << chat_template.error().message;
    EXPECT_EQ(chat_template->thinking_model(), expected->thinking_model());
    EXPECT_EQ(*chat_template->encode(messages, false, *tokenizer), *expected->encode(messages, false, *tokenizer));
  }
  const Parsed none(toy().file());
  EXPECT_TRUE(load_gguf_chat_template(none.metadata(), *tokenizer).ok());
  const Parsed other(toy().file().string("tokenizer.chat_template", "[INST]"));
  EXPECT_EQ(load_gguf_chat_template(other.metadata(), *tokenizer).error().code, ErrorCode::kUnsupported);
  const Parsed wrong(toy().file().u32("tokenizer.chat_template", 1));
  EXPECT_EQ(load_gguf_chat_template(wrong.metadata(), *tokenizer).error().code, ErrorCode::kCorrupt);
}

TEST(GgufStopTokens, AreTheConfiguredOnesAndThoseOfTheFamily) {
  const auto tokenizer = support::load_toy_tokenizer();
  const Parsed file(toy().file().u32("tokenizer.ggml.eos_token_id", 65).u32("tokenizer.ggml.eot_token_id", 66));
  const auto tokens = read_gguf_stop_tokens(file.metadata(), *tokenizer);
  ASSERT_TRUE(tokens.ok()) << tokens.error().message;
  EXPECT_EQ(*tokens, (std::vector<TokenId>{kToyTurnEnd, kToyEndOfText, 65, 66}));
  const test::Scratch scratch;
  scratch.write("generation_config.json", R"({"eos_token_id":[65,66]})");
  EXPECT_EQ(*read_stop_tokens(scratch.path(), *tokenizer), *tokens);
  const Parsed none(toy().file());
  EXPECT_EQ(read_gguf_stop_tokens(none.metadata(), *tokenizer)->size(), 2U);
}

TEST(GgufStopTokens, MustBeTokens) {
  const auto tokenizer = support::load_toy_tokenizer();
  for (const std::uint32_t id : {static_cast<std::uint32_t>(kToySize), 0xFFFFFFFFU}) {
    const Parsed file(toy().file().u32("tokenizer.ggml.eos_token_id", id));
    const auto tokens = read_gguf_stop_tokens(file.metadata(), *tokenizer);
    ASSERT_FALSE(tokens.ok());
    EXPECT_EQ(tokens.error().code, ErrorCode::kCorrupt);
    EXPECT_NE(tokens.error().message.find("tokenizer.ggml.eos_token_id is"), std::string::npos);
  }
  const Parsed negative(toy().file().number<std::int32_t>("tokenizer.ggml.eom_token_id", -1));
  EXPECT_FALSE(read_gguf_stop_tokens(negative.metadata(), *tokenizer).ok());
}

}  // namespace
}  // namespace lectern::engine
