// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "support/scratch.h"
#include "support/tiny_model.h"
#include "text/unicode.h"

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;

// The tiny model is random: what it says has no meaning, but must be the same however it is computed.
class TinyEngineTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    support::write_tiny_model(directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  static std::unique_ptr<Engine> open(const EngineOptions& options) {
    auto engine = Engine::open(directory_->path(), options);
    EXPECT_TRUE(engine.ok()) << engine.error().message;
    return engine.ok() ? std::move(engine).value() : nullptr;
  }

  static GenerationRequest question() {
    GenerationRequest request;
    request.messages = {{"system", "Be brief."}, {"user", "hello world, what is a \u20ac?"}};
    request.max_new_tokens = 40;
    return request;
  }

  static GenerationResult ask(Engine& engine, const GenerationRequest& request, std::stop_token stop = {}) {
    GenerationSink sink;
    const auto result = engine.generate(request, sink, std::move(stop));
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? *result : GenerationResult();
  }

  // A copy of the model without `missing`, for tests that spoil one file.
  static void copy_model(const fs::path& to, const std::string& missing) {
    for (const auto& entry : fs::directory_iterator(directory_->path())) {
      if (entry.path().filename() != missing) fs::copy_file(entry.path(), to / entry.path().filename());
    }
  }

  static test::Scratch* directory_;
};

test::Scratch* TinyEngineTest::directory_ = nullptr;

TEST_F(TinyEngineTest, LoadingIsReportedAndCanBeStopped) {
  std::int64_t last = 0;
  std::int64_t total = 0;
  std::stop_source stop;
  LoadObserver observer;
  observer.on_progress = [&](std::int64_t done, std::int64_t all) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, all);
    last = done;
    total = all;
  };
  observer.stop = stop.get_token();
  ASSERT_TRUE(Engine::open(directory_->path(), {.threads = 1}, observer).ok());
  EXPECT_GT(total, 0);
  EXPECT_EQ(last, total);
  stop.request_stop();
  const auto stopped = Engine::open(directory_->path(), {.threads = 1}, observer);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
}

TEST_F(TinyEngineTest, DescribesTheModel) {
  const auto engine = open({.threads = 1});
  ASSERT_NE(engine, nullptr);
  const ModelInfo& info = engine->info();
  EXPECT_EQ(info.name, directory_->path().filename().string());
  EXPECT_EQ(info.architecture, "qwen3_next");
  EXPECT_EQ(info.layers, 4);
  EXPECT_EQ(info.context_tokens, support::kTinyContext);
  EXPECT_TRUE(info.has_mtp);
  EXPECT_FALSE(info.thinking);
  EXPECT_GT(info.parameters, 400000);
  EXPECT_EQ(info.weight_bytes, info.parameters * 4);
  EXPECT_EQ(engine->tokenizer().size(), support::kToySize);
}

TEST_F(TinyEngineTest, TheSameQuestionGetsTheSameAnswer) {
  const auto engine = open({.threads = 2});
  ASSERT_NE(engine, nullptr);
  const GenerationResult first = ask(*engine, question());
  const GenerationResult second = ask(*engine, question());
  EXPECT_EQ(first.text, second.text);
  EXPECT_GT(first.statistics.generated_tokens, 0);
  EXPECT_EQ(first.statistics.prompt_tokens, *engine->count_prompt_tokens(question().messages, false));
  EXPECT_GT(first.statistics.prefill_seconds, 0);
  EXPECT_TRUE(unicode::is_valid_utf8(first.text));
}

TEST_F(TinyEngineTest, SaysWhatMemoryItNeedsAndWhatWouldFit) {
  const auto engine = open({.threads = 1, .kv_type = KvType::kF32});
  ASSERT_NE(engine, nullptr);
  const MemoryPlan& plan = engine->info().memory;
  EXPECT_GE(plan.weights, engine->info().weight_bytes);
  EXPECT_GT(plan.state, 0);
  EXPECT_GT(plan.scratch, 0);
  // 1 attention layer and that of the MTP module, 2 heads of 32 numbers for keys and for values, 4 bytes each.
  EXPECT_EQ(plan.kv_cache, support::kTinyContext * 2 * 2 * 2 * 32 * 4);

  const std::int64_t little = plan.total() - plan.kv_cache + plan.kv_cache / 2;
  const auto refused = Engine::open(
      directory_->path(),
      {.threads = 1, .context_tokens = support::kTinyContext, .kv_type = KvType::kF32, .memory_limit_bytes = little});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(refused.error().message.find("a context of 1024 tokens fits"), std::string::npos)
      << refused.error().message;
  EXPECT_NE(refused.error().message.find("with 8-bit keys"), std::string::npos);

  const auto shortened = open({.threads = 1, .kv_type = KvType::kF32, .memory_limit_bytes = little});
  ASSERT_NE(shortened, nullptr);
  EXPECT_EQ(shortened->info().context_tokens, 1024);

  const auto hopeless = Engine::open(directory_->path(), {.threads = 1, .memory_limit_bytes = 1000});
  ASSERT_FALSE(hopeless.ok());
  EXPECT_NE(hopeless.error().message.find("smaller"), std::string::npos) << hopeless.error().message;
}

TEST_F(TinyEngineTest, StretchesTheContextOfThoseTextsAloneThatNeedIt) {
  const auto engine = open({.threads = 2, .rope_factor = 4});
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->info().context_tokens, 4 * support::kTinyContext);
  EXPECT_EQ(ask(*engine, question()).statistics.rope_factor, 1);
  GenerationRequest longer = question();
  for (int i = 0; i < 1100; ++i) longer.messages.back().content += " hello";
  longer.max_new_tokens = 5;
  const GenerationResult result = ask(*engine, longer);
  EXPECT_GT(result.statistics.prompt_tokens, support::kTinyContext);
  EXPECT_EQ(result.statistics.rope_factor, 4);
}

TEST_F(TinyEngineTest, CallsFromSeveralThreadsGetTheirOwnAnswers) {
  const auto engine = open({.threads = 2, .sessions = {.memory_bytes = 0}});
  ASSERT_NE(engine, nullptr);
  std::vector<GenerationRequest> requests(3, question());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].messages.back().content += std::string(i + 1, '?');
    requests[i].sampling.temperature = 0.9F;
    requests[i].sampling.seed = i;
  }
  std::vector<std::string> expected;
  for (const GenerationRequest& request : requests) expected.push_back(ask(*engine, request).text);
  std::vector<std::string> actual(requests.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      threads.emplace_back([&, i] { actual[i] = ask(*engine, requests[i]).text; });
    }
  }
  EXPECT_EQ(actual, expected);
}

TEST_F(TinyEngineTest, ChunksAndThreadsDoNotChangeTheAnswer) {
  const auto reference = open({.threads = 1});
  ASSERT_NE(reference, nullptr);
  const std::string expected = ask(*reference, question()).text;
  for (const int chunk : {1, 7, 512}) {
    const auto engine = open({.threads = 2, .prefill_chunk_tokens = chunk});
    ASSERT_NE(engine, nullptr);
    EXPECT_EQ(ask(*engine, question()).text, expected) << chunk;
  }
}

TEST_F(TinyEngineTest, SamplingFollowsTheSeed) {
  const auto engine = open({.threads = 1});
  ASSERT_NE(engine, nullptr);
  GenerationRequest request = question();
  request.sampling.temperature = 1;
  request.sampling.seed = 5;
  const std::string first = ask(*engine, request).text;
  EXPECT_EQ(ask(*engine, request).text, first);
  request.sampling.seed = 6;
  EXPECT_NE(ask(*engine, request).text, first);
}

TEST_F(TinyEngineTest, ThinkingOpensTheReasoningBlock) {
  const auto engine = open({.threads = 1});
  ASSERT_NE(engine, nullptr);
  GenerationRequest request = question();
  request.thinking = true;
  const GenerationResult result = ask(*engine, request);
  EXPECT_EQ(result.statistics.prompt_tokens, *engine->count_prompt_tokens(request.messages, false) + 2);
  EXPECT_FALSE(result.reasoning.empty());
}

TEST_F(TinyEngineTest, ASmallerContextIsKept) {
  const auto engine = open({.threads = 1, .context_tokens = 64});
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->info().context_tokens, 64);
  const GenerationResult result = ask(*engine, question());
  EXPECT_LE(result.statistics.prompt_tokens + result.statistics.generated_tokens, 64);
  GenerationRequest request = question();
  request.messages.back().content = std::string(100, 'a');
  GenerationSink sink;
  const auto refused = engine->generate(request, sink, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(refused.error().message.find("64"), std::string::npos) << refused.error().message;
}

TEST_F(TinyEngineTest, AContextBeyondTheModelsIsCut) {
  const auto engine = open({.threads = 1, .context_tokens = 1000000});
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->info().context_tokens, support::kTinyContext);
}

TEST_F(TinyEngineTest, AStopRequestEndsIt) {
  const auto engine = open({.threads = 1});
  ASSERT_NE(engine, nullptr);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ask(*engine, question(), stop.get_token()).finish, FinishReason::kCancelled);
  EXPECT_NE(ask(*engine, question()).finish, FinishReason::kCancelled);
}

TEST_F(TinyEngineTest, CallsFromSeveralThreadsWaitForEachOther) {
  const auto engine = open({.threads = 2});
  ASSERT_NE(engine, nullptr);
  const std::string expected = ask(*engine, question()).text;
  std::atomic<int> same = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] { same += ask(*engine, question()).text == expected ? 1 : 0; });
    }
  }
  EXPECT_EQ(same, 3);
}

TEST_F(TinyEngineTest, ScoresDependOnlyOnWhatStandsBefore) {
  const auto engine = open({.threads = 1});
  ASSERT_NE(engine, nullptr);
  std::vector<TokenId> tokens;
  for (TokenId i = 0; i < 150; ++i) tokens.push_back((7 * i * i + 3 * i + 5) % support::kToySize);
  const auto scores = engine->score(tokens, {});
  ASSERT_TRUE(scores.ok()) << scores.error().message;
  ASSERT_EQ(scores->size(), tokens.size() - 1);
  for (const float score : *scores) {
    EXPECT_LT(score, 0);
    EXPECT_GT(score, -50);
  }
  const std::vector<TokenId> beginning(tokens.begin(), tokens.begin() + 70);
  const auto fewer = engine->score(beginning, {});
  ASSERT_TRUE(fewer.ok());
  for (std::size_t i = 0; i < fewer->size(); ++i) EXPECT_NEAR((*fewer)[i], (*scores)[i], 1e-4);
}

// The probabilities of all tokens that may follow add up to one.
TEST_F(TinyEngineTest, ScoresAreProbabilities) {
  const auto engine = open({.threads = 1});
  ASSERT_NE(engine, nullptr);
  double sum = 0;
  for (TokenId token = 0; token < support::kTinyRows; ++token) {
    const auto scores = engine->score({72, 105, token}, {});
    ASSERT_TRUE(scores.ok());
    sum += std::exp(scores->back());
  }
  EXPECT_NEAR(sum, 1, 1e-5);
}

TEST_F(TinyEngineTest, WhatCannotBeScored) {
  const auto engine = open({.threads = 1, .context_tokens = 8});
  ASSERT_NE(engine, nullptr);
  for (const std::vector<TokenId>& tokens :
       {std::vector<TokenId>{}, {1}, {1, -1}, {1, TokenId{support::kTinyRows}}, std::vector<TokenId>(9, 1)}) {
    EXPECT_EQ(engine->score(tokens, {}).error().code, ErrorCode::kInvalidArgument);
  }
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(engine->score({1, 2, 3}, stop.get_token()).error().code, ErrorCode::kCancelled);
}

TEST_F(TinyEngineTest, WrongConversations) {
  const auto engine = open({.threads = 1});
  ASSERT_NE(engine, nullptr);
  GenerationSink sink;
  EXPECT_EQ(engine->generate({}, sink, {}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(engine->count_prompt_tokens({{"robot", "x"}}, false).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(TinyEngineTest, WrongOptionsAreNamed) {
  const auto message = [](const EngineOptions& options) {
    const auto engine = Engine::open(directory_->path(), options);
    return engine.ok() ? std::string("accepted") : engine.error().message;
  };
  EXPECT_NE(message({.threads = -1}).find("threads"), std::string::npos);
  EXPECT_NE(message({.prefill_chunk_tokens = -1}).find("prefill_chunk_tokens"), std::string::npos);
  EXPECT_NE(message({.rope_factor = 0.5}).find("rope_factor"), std::string::npos);
  EXPECT_NE(message({.draft_tokens = 5}).find("draft_tokens"), std::string::npos);
  EXPECT_NE(message({.context_tokens = -5}).find("context_tokens"), std::string::npos);
}

TEST_F(TinyEngineTest, EveryFileIsNeeded) {
  for (const char* missing : {"config.json", "tokenizer.json", "model.safetensors"}) {
    const test::Scratch copy;
    copy_model(copy.path(), missing);
    const auto engine = Engine::open(copy.path(), {.threads = 1});
    ASSERT_FALSE(engine.ok()) << missing;
    EXPECT_EQ(engine.error().code, ErrorCode::kNotFound) << engine.error().message;
  }
  const test::Scratch copy;
  copy_model(copy.path(), "generation_config.json");
  EXPECT_TRUE(Engine::open(copy.path(), {.threads = 1}).ok());
}

TEST_F(TinyEngineTest, SpoiledFilesAreRefused) {
  const auto code_with = [](const std::string& file, const std::string& content) {
    const test::Scratch copy;
    copy_model(copy.path(), file);
    copy.write(file, content);
    const auto engine = Engine::open(copy.path(), {.threads = 1});
    return engine.ok() ? ErrorCode::kIo : engine.error().code;
  };
  EXPECT_EQ(code_with("config.json", "{"), ErrorCode::kCorrupt);
  EXPECT_EQ(code_with("tokenizer.json", "{}"), ErrorCode::kCorrupt);
  EXPECT_EQ(code_with("model.safetensors", "xxxxxxxxxxxxxxxxxxxxxxxx"), ErrorCode::kCorrupt);
  EXPECT_EQ(code_with("generation_config.json", "{\"eos_token_id\":-1}"), ErrorCode::kCorrupt);
  EXPECT_EQ(code_with("generation_config.json", "{\"eos_token_id\":[263,\"x\"]}"), ErrorCode::kCorrupt);
  EXPECT_EQ(code_with("tokenizer_config.json", "{\"chat_template\":\"[INST]\"}"), ErrorCode::kUnsupported);
}

TEST_F(TinyEngineTest, ATokenizerOfAnotherModelIsRefused) {
  support::ToyTokenizer toy;
  std::string extra;
  for (int id = support::kToySize; id <= support::kTinyRows; ++id) {
    extra += ",{\"id\":" + std::to_string(id) + ",\"content\":\"<x" + std::to_string(id) + ">\"}";
  }
  toy.added_tokens.insert(toy.added_tokens.size() - 1, extra);
  const test::Scratch copy;
  copy_model(copy.path(), "tokenizer.json");
  copy.write("tokenizer.json", toy.json());
  const auto engine = Engine::open(copy.path(), {.threads = 1});
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message.find("289"), std::string::npos) << engine.error().message;
  EXPECT_NE(engine.error().message.find("288"), std::string::npos) << engine.error().message;
}

}  // namespace
}  // namespace lectern::engine
