// SPDX-License-Identifier: GPL-3.0-or-later
// Sessions through the engine's public interface: what was read before is not read again, and nobody can tell from the
// answers.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kStep = 64;

class SessionTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    support::write_tiny_model(directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  static EngineOptions options() {
    EngineOptions options;
    options.threads = 1;
    options.sessions.checkpoint_tokens = kStep;
    return options;
  }
  EngineOptions with_disk() const {
    EngineOptions chosen = options();
    chosen.sessions.directory = place_ / "sessions";
    return chosen;
  }
  static EngineOptions without_sessions() {
    EngineOptions chosen = options();
    chosen.sessions.memory_bytes = 0;
    return chosen;
  }

  static std::unique_ptr<Engine> open(const EngineOptions& options) {
    auto engine = Engine::open(directory_->path(), options);
    EXPECT_TRUE(engine.ok()) << engine.error().message;
    return std::move(engine).value();
  }

  static GenerationRequest question(const std::string& text) {
    std::string document;
    for (int line = 0; line < 40; ++line) document += "line " + std::to_string(line) + " hello world; ";
    GenerationRequest request;
    request.messages = {{"system", "Be brief."}, {"user", document + text}};
    request.max_new_tokens = 24;
    return request;
  }

  static GenerationResult ask(Engine& engine, const GenerationRequest& request) {
    GenerationSink sink;
    auto result = engine.generate(request, sink, {});
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? *result : GenerationResult();
  }

  // Tokens that both prompts begin with, down to the checkpoint before.
  static std::int64_t shared_tokens(const Engine& engine) {
    GenerationRequest request = question("");
    request.messages.back().content.pop_back();
    return (*engine.count_prompt_tokens(request.messages, false) - 10) / kStep * kStep;
  }

  const test::Scratch place_;
  static test::Scratch* directory_;
};

test::Scratch* SessionTest::directory_ = nullptr;

TEST_F(SessionTest, ASecondQuestionAboutTheSameTextReadsOnlyTheQuestion) {
  const auto plain = open(without_sessions());
  const auto engine = open(options());
  EXPECT_EQ(ask(*engine, question("what?")).statistics.reused_tokens, 0);
  for (const char* text : {"why is it so?", "who says that?"}) {
    const GenerationResult result = ask(*engine, question(text));
    EXPECT_GE(result.statistics.reused_tokens, shared_tokens(*engine));
    EXPECT_LT(result.statistics.reused_tokens, result.statistics.prompt_tokens);
    const GenerationResult expected = ask(*plain, question(text));
    EXPECT_EQ(result.text, expected.text);
    EXPECT_EQ(result.statistics.generated_tokens, expected.statistics.generated_tokens);
    EXPECT_EQ(expected.statistics.reused_tokens, 0);
  }
}

TEST_F(SessionTest, TheAnswerToARepeatedQuestionIsTheSame) {
  for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kQ8}) {
    EngineOptions chosen = options();
    chosen.kv_type = type;
    const auto engine = open(chosen);
    const GenerationResult first = ask(*engine, question("what?"));
    const GenerationResult again = ask(*engine, question("what?"));
    EXPECT_EQ(again.text, first.text);
    EXPECT_GT(again.statistics.reused_tokens, first.statistics.prompt_tokens - kStep);
  }
}

TEST_F(SessionTest, AConversationGoesOnFromItsLastReply) {
  const auto engine = open(options());
  GenerationRequest request = question("what?");
  const GenerationResult first = ask(*engine, request);
  request.messages.push_back({"assistant", first.text});
  request.messages.push_back({"user", "and then?"});
  EXPECT_GE(ask(*engine, request).statistics.reused_tokens, first.statistics.prompt_tokens - kStep);
}

// Passages, and where each ends.
GenerationRequest about(const std::vector<std::string>& passages, const std::string& question) {
  GenerationRequest request;
  ChatMessage message = {"user", ""};
  for (const std::string& passage : passages) {
    message.content += passage;
    message.boundaries.push_back(static_cast<std::int64_t>(message.content.size()));
    message.content += "\n\n";
  }
  message.content += question;
  request.messages = {{"system", "Be brief."}, std::move(message)};
  request.sampling = {.temperature = 1.0F, .seed = 5};  // a drawn text shows every bit sooner than a greedy one
  request.max_new_tokens = 24;
  return request;
}

std::string passage(char name, int lines) {
  std::string text;
  for (int line = 0; line < lines; ++line) text += std::string(1, name) + std::to_string(line) + " hello world; ";
  return text;
}

TEST_F(SessionTest, AnotherQuestionReusesThePassagesBothBeginWith) {
  EngineOptions chosen = options();
  chosen.sessions.checkpoint_tokens = 4096;
  EngineOptions alone = chosen;
  alone.sessions.memory_bytes = 0;
  const auto engine = open(chosen);
  const auto plain = open(alone);
  const std::string a = passage('a', 24);
  const std::string b = passage('b', 30);
  static_cast<void>(ask(*engine, about({a, b, passage('c', 26)}, "what?")));
  for (const auto& [passages, shared] :
       {std::pair{std::vector{a, b, passage('d', 20)}, a + "\n\n" + b}, std::pair{std::vector{a, b}, a + "\n\n" + b},
        std::pair{std::vector{a, passage('e', 9)}, a}}) {
    const GenerationRequest request = about(passages, "and why?");
    GenerationRequest beginning = request;
    beginning.messages.back() = {"user", shared};
    constexpr std::int64_t kAfterIt = 13;  // <|im_end|>\n<|im_start|>assistant\n
    const GenerationResult result = ask(*engine, request);
    EXPECT_EQ(result.statistics.reused_tokens, *engine->count_prompt_tokens(beginning.messages, false) - kAfterIt);
    EXPECT_EQ(result.text, ask(*plain, request).text);
  }
}

TEST_F(SessionTest, BoundariesThatAreNoneAreRefused) {
  const auto engine = open(options());
  for (const std::vector<std::int64_t>& wrong : {std::vector<std::int64_t>{-1}, {6}, {3, 2}}) {
    GenerationRequest request;
    request.messages = {{"user", "hello", wrong}};
    GenerationSink sink;
    const auto refused = engine->generate(request, sink, {});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST_F(SessionTest, AnotherProcessGoesOnFromTheDisk) {
  const std::string expected = ask(*open(without_sessions()), question("why?")).text;
  static_cast<void>(ask(*open(with_disk()), question("what?")));
  const auto engine = open(with_disk());
  const GenerationResult result = ask(*engine, question("why?"));
  EXPECT_GE(result.statistics.reused_tokens, shared_tokens(*engine));
  EXPECT_EQ(result.text, expected);
}

TEST_F(SessionTest, DamagedFilesAreReadAnew) {
  const std::string expected = ask(*open(without_sessions()), question("why?")).text;
  static_cast<void>(ask(*open(with_disk()), question("what?")));
  for (const auto& entry : fs::directory_iterator(place_ / "sessions")) {
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(fs::file_size(entry) / 2));
    file.write("damage", 6);
  }
  const GenerationResult result = ask(*open(with_disk()), question("why?"));
  EXPECT_EQ(result.statistics.reused_tokens, 0);
  EXPECT_EQ(result.text, expected);
}

TEST_F(SessionTest, OtherSettingsDoNotShareSessions) {
  static_cast<void>(ask(*open(with_disk()), question("what?")));
  EngineOptions other = with_disk();
  other.kv_type = KvType::kQ8;
  EXPECT_EQ(ask(*open(other), question("what?")).statistics.reused_tokens, 0);
  other = with_disk();
  other.draft_tokens = 0;
  EXPECT_EQ(ask(*open(other), question("what?")).statistics.reused_tokens, 0);
  other = with_disk();
  other.rope_factor = 4;
  GenerationRequest longer = question("what?");
  longer.max_new_tokens = support::kTinyContext;
  longer.stop_texts = {"e", "\n", " "};
  EXPECT_EQ(ask(*open(other), longer).statistics.reused_tokens, 0);
  EXPECT_GT(ask(*open(with_disk()), question("what?")).statistics.reused_tokens, 0);
}

}  // namespace
}  // namespace lectern::engine
