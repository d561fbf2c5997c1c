// SPDX-License-Identifier: GPL-3.0-or-later
#include "runtime/generation.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text_stream.h"
#include "support/tiny_model.h"
#include "text/unicode.h"

namespace lectern::engine {
namespace {

// A model that says `script` whatever it is asked, then <|im_end|> for ever.
class ScriptedModel final : public SequenceModel {
 public:
  explicit ScriptedModel(std::vector<TokenId> script) : script_(std::move(script)) {}

  std::int64_t length() const override { return length_; }

  Result<std::span<const float>> append(std::span<const TokenId> tokens, bool want_logits,
                                        const std::stop_token& stop) override {
    chunks.push_back(static_cast<std::int64_t>(tokens.size()));
    length_ += chunks.back();
    if (on_append) on_append();
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "stopped"};
    if (fail) return Error{ErrorCode::kDevice, "the device is gone"};
    if (!want_logits) return std::span<const float>();
    logits_.assign(support::kTinyRows, 0.0F);
    const std::size_t said = said_++;
    logits_[said < script_.size() ? script_[said] : support::kToyTurnEnd] = 1;
    if (poison) logits_[3] = std::numeric_limits<float>::quiet_NaN();
    return std::span<const float>(logits_);
  }

  std::vector<std::int64_t> chunks;
  std::function<void()> on_append;
  bool fail = false;
  bool poison = false;

 private:
  std::vector<TokenId> script_;
  std::vector<float> logits_;
  std::int64_t length_ = 0;
  std::size_t said_ = 0;
};

class RecordingSink final : public GenerationSink {
 public:
  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    EXPECT_GE(seconds, 0);
    if (prefill.empty()) first_seconds = seconds;
    prefill.emplace_back(done, total);
  }
  void on_text(std::string_view piece) override {
    EXPECT_TRUE(unicode::is_valid_utf8(piece));
    EXPECT_FALSE(piece.empty());
    text += piece;
    pieces.emplace_back(piece);
    if (on_piece) on_piece();
  }
  void on_reasoning(std::string_view piece) override {
    EXPECT_TRUE(unicode::is_valid_utf8(piece));
    reasoning += piece;
  }

  std::vector<std::pair<std::int64_t, std::int64_t>> prefill;
  double first_seconds = -1;
  std::vector<std::string> pieces;
  std::string text;
  std::string reasoning;
  std::function<void()> on_piece;
};

class GenerationTest : public testing::Test {
 protected:
  std::vector<TokenId> tokens(const std::string& text) const {
    return tokenizer_->encode(text, Tokenizer::SpecialTokens::kRecognise);
  }

  Result<GenerationResult> run(ScriptedModel& model) {
    return generate_reply(model, *tokenizer_, limits_, prompt_, request_, sink_, stop_.get_token());
  }

  // The reply to a model that says `reply`, which must also be what the sink was given.
  GenerationResult reply(const std::string& text) {
    ScriptedModel model(tokens(text));
    const auto result = run(model);
    EXPECT_TRUE(result.ok()) << result.error().message;
    if (!result.ok()) return {};
    EXPECT_EQ(result->text, sink_.text);
    EXPECT_EQ(result->reasoning, sink_.reasoning);
    return *result;
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = support::load_toy_tokenizer();
  GenerationLimits limits_{
      .context_tokens = 1000, .prefill_chunk_tokens = 4, .stop_tokens = {support::kToyTurnEnd, support::kToyEndOfText}};
  std::vector<TokenId> prompt_ = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  GenerationRequest request_;
  RecordingSink sink_;
  std::stop_source stop_;
};

TEST_F(GenerationTest, RunsUntilTheStopToken) {
  const GenerationResult result = reply("hello world");
  EXPECT_EQ(result.text, "hello world");
  EXPECT_EQ(result.finish, FinishReason::kStop);
  EXPECT_EQ(result.statistics.prompt_tokens, 10);
  EXPECT_EQ(result.statistics.generated_tokens, 6);
  EXPECT_EQ(sink_.pieces.front(), "hello");
}

TEST_F(GenerationTest, AnyStopTokenEndsTheReply) {
  const GenerationResult result = reply("a<|endoftext|>b");
  EXPECT_EQ(result.text, "a");
  EXPECT_EQ(result.finish, FinishReason::kStop);
}

TEST_F(GenerationTest, PrefillRunsInChunksAndReportsThem) {
  ScriptedModel model({});
  ASSERT_TRUE(run(model).ok());
  EXPECT_EQ(model.chunks, (std::vector<std::int64_t>{4, 4, 2}));
  EXPECT_EQ(sink_.prefill, (std::vector<std::pair<std::int64_t, std::int64_t>>{{4, 10}, {8, 10}, {10, 10}}));
}

TEST_F(GenerationTest, ASequenceThatHoldsTheBeginningIsContinued) {
  ScriptedModel model(tokens("x"));
  ASSERT_TRUE(model.append(std::vector<TokenId>{1, 2, 3, 4, 5}, false, {}).ok());
  const auto result = run(model);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(model.chunks, (std::vector<std::int64_t>{5, 4, 1, 1}));
  EXPECT_EQ(sink_.prefill, (std::vector<std::pair<std::int64_t, std::int64_t>>{{5, 10}, {9, 10}, {10, 10}}));
  EXPECT_EQ(sink_.first_seconds, 0) << "what was known was not read";
}

TEST_F(GenerationTest, LengthIsLimited) {
  request_.max_new_tokens = 3;
  const GenerationResult result = reply("abcdef");
  EXPECT_EQ(result.text, "abc");
  EXPECT_EQ(result.finish, FinishReason::kLength);
  EXPECT_EQ(result.statistics.generated_tokens, 3);
}

TEST_F(GenerationTest, TheContextIsNeverExceeded) {
  limits_.context_tokens = 14;
  ScriptedModel model(tokens("abcdefghij"));
  const auto result = run(model);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->text, "abcd");
  EXPECT_EQ(result->finish, FinishReason::kLength);
  EXPECT_LE(model.length(), 14);
}

TEST_F(GenerationTest, APromptThatFillsTheContextIsAnErrorWithBothNumbers) {
  for (const std::int64_t context : {9, 10}) {
    limits_.context_tokens = context;
    ScriptedModel model({});
    const auto result = run(model);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(result.error().message.find("10 tokens"), std::string::npos) << result.error().message;
    EXPECT_NE(result.error().message.find("holds " + std::to_string(context)), std::string::npos);
    EXPECT_TRUE(model.chunks.empty());
  }
}

TEST_F(GenerationTest, WrongRequests) {
  const auto code = [this] {
    ScriptedModel model({});
    const auto result = run(model);
    return result.ok() ? ErrorCode::kIo : result.error().code;
  };
  request_.max_new_tokens = 0;
  EXPECT_EQ(code(), ErrorCode::kInvalidArgument);
  request_.max_new_tokens = 5;
  request_.stop_texts = {""};
  EXPECT_EQ(code(), ErrorCode::kInvalidArgument);
  request_.stop_texts = {"\xFF"};
  EXPECT_EQ(code(), ErrorCode::kInvalidArgument);
  request_.stop_texts = {};
  request_.sampling.top_p = 2;
  EXPECT_EQ(code(), ErrorCode::kInvalidArgument);
  request_.sampling.top_p = 1;
  prompt_.clear();
  EXPECT_EQ(code(), ErrorCode::kInvalidArgument);
}

TEST_F(GenerationTest, StopTextsAreNotEmitted) {
  request_.stop_texts = {"STOP", "\n\n"};
  EXPECT_EQ(reply("one STO two STOP three").text, "one STO two ");
  EXPECT_EQ(sink_.text, "one STO two ");
}

TEST_F(GenerationTest, StopTextsInsideOneToken) {
  request_.stop_texts = {"l"};
  const GenerationResult result = reply("hello");  // one token
  EXPECT_EQ(result.text, "he");
  EXPECT_EQ(result.finish, FinishReason::kStop);
}

TEST_F(GenerationTest, TheFirstOfSeveralStopTextsCounts) {
  request_.stop_texts = {"de", "bcx", "cd"};
  EXPECT_EQ(reply("abcde").text, "ab");
}

TEST_F(GenerationTest, AnUnfinishedStopTextIsEmittedAtTheEnd) {
  request_.stop_texts = {"STOP"};
  EXPECT_EQ(reply("one STO").text, "one STO");
}

TEST_F(GenerationTest, CharactersAreEmittedWhole) {
  const GenerationResult result = reply("\u00fcber \u20ac \U0001F600!");
  EXPECT_EQ(result.text, "\u00fcber \u20ac \U0001F600!");
  EXPECT_EQ(sink_.pieces[0], "\u00fc");
}

TEST_F(GenerationTest, BytesThatAreNoCharacterAreReplaced) {
  ScriptedModel model({'a', 0xE2, 0x82, 'b', 0xFF, 0xF0, 0x9F});
  const auto result = run(model);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->text, "a\uFFFDb\uFFFD\uFFFD");
  EXPECT_EQ(sink_.text, result->text);
}

TEST_F(GenerationTest, ReasoningEndsAtItsMark) {
  request_.thinking = true;
  const GenerationResult result = reply("\nhm,\n\nyes\n</think>\n\nhello\n");
  EXPECT_EQ(result.reasoning, "hm,\n\nyes");
  EXPECT_EQ(result.text, "hello\n");
}

TEST_F(GenerationTest, ReasoningThatNeverEndsIsNotTheAnswer) {
  request_.thinking = true;
  request_.max_new_tokens = 4;
  const GenerationResult result = reply("hello a </think>x");
  EXPECT_EQ(result.reasoning, "hello a ");
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.finish, FinishReason::kLength);
}

TEST_F(GenerationTest, AModelMayOpenItsReasoningItself) {
  EXPECT_EQ(reply("<think>\na\n</think>\n\nb").reasoning, "a");
  EXPECT_EQ(sink_.text, "b");
}

TEST_F(GenerationTest, TheMarkMayBeSpelledOut) {
  request_.thinking = true;
  ScriptedModel model(tokenizer_->encode("a</think>b", Tokenizer::SpecialTokens::kIgnore));
  const auto result = run(model);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->reasoning, "a");
  EXPECT_EQ(result->text, "b");
}

TEST_F(GenerationTest, MarksInAnAnswerAreText) {
  EXPECT_EQ(reply("a<think>b</think>c").text, "a<think>b</think>c");
  EXPECT_EQ(sink_.reasoning, "");
}

TEST_F(GenerationTest, StopTextsDoNotEndReasoning) {
  request_.thinking = true;
  request_.stop_texts = {"STOP"};
  const GenerationResult result = reply("a STOP b</think>c STOP d");
  EXPECT_EQ(result.reasoning, "a STOP b");
  EXPECT_EQ(result.text, "c ");
}

TEST_F(GenerationTest, StopsInsideAChunk) {
  ScriptedModel model(tokens("abc"));
  model.on_append = [this] { stop_.request_stop(); };
  const auto result = run(model);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->finish, FinishReason::kCancelled);
  EXPECT_EQ(result->text, "");
  EXPECT_EQ(model.chunks.size(), 1U);
}

TEST_F(GenerationTest, StopsBetweenTokensWithTheTextSoFar) {
  ScriptedModel model(tokens("abcdef"));
  sink_.on_piece = [this] {
    if (sink_.text == "abc") stop_.request_stop();
  };
  const auto result = run(model);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->finish, FinishReason::kCancelled);
  EXPECT_EQ(result->text, "abc");
}

TEST_F(GenerationTest, StopsInsideAStepWithTheTextSoFar) {
  ScriptedModel model(tokens("abcdef"));
  model.on_append = [&] {
    if (model.length() == 12) stop_.request_stop();
  };
  const auto result = run(model);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->finish, FinishReason::kCancelled);
  EXPECT_EQ(result->text, "ab");
}

TEST_F(GenerationTest, ErrorsOfTheModelArePassedOn) {
  ScriptedModel gone({});
  gone.fail = true;
  EXPECT_EQ(run(gone).error().message, "the device is gone");
  ScriptedModel poisoned({});
  poisoned.poison = true;
  EXPECT_EQ(run(poisoned).error().code, ErrorCode::kDevice);
}

// Every way of cutting the same bytes into tokens gives the same texts.
TEST(TextStream, CutsDoNotMatter) {
  const std::string bytes = "\n<think>\nh\u00e4\n</thin</think>\n\n\u20acab ST STO\xFFx STOP after";
  for (std::size_t first = 0; first < bytes.size(); ++first) {
    for (std::size_t second = first; second < bytes.size(); ++second) {
      RecordingSink sink;
      TextStream stream(false, {"STOP", "b STX"}, sink);
      stream.add(bytes.substr(0, first));
      stream.add(bytes.substr(first, second - first));
      stream.add(bytes.substr(second));
      EXPECT_TRUE(stream.stopped());
      stream.finish();
      EXPECT_EQ(stream.reasoning(), "h\u00e4\n</thin");
      EXPECT_EQ(stream.text(), "\u20acab ST STO\uFFFDx ");
      EXPECT_EQ(sink.text, stream.text());
      EXPECT_EQ(sink.reasoning, stream.reasoning());
    }
  }
}

}  // namespace
}  // namespace lectern::engine
