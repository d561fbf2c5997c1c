// SPDX-License-Identifier: GPL-3.0-or-later
// The whole engine on the emulated GPU: the same answers as on the CPU, memory as planned, and one clear sentence for
// every way in which a GPU can be missing or fail.
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/measure.h"
#include "support/cuda_emulation/cuda_emulation.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

namespace emulation = cuda::emulation;

class CudaEngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    support::write_tiny_model(directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  void SetUp() override { emulation::reset(); }
  void TearDown() override {
    EXPECT_EQ(emulation::check_guards(), "");
    emulation::reset();
    emulation::set_device({});
  }

  static EngineOptions options(DeviceKind device) {
    EngineOptions options = {.device = device, .threads = 1, .context_tokens = 1024, .prefill_chunk_tokens = 64};
    options.kv_type = KvType::kF32;
    options.sessions = {.memory_bytes = std::int64_t{4} << 20, .checkpoint_tokens = 64};
    return options;
  }

  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options) {
    return Engine::open(directory_->path(), options);
  }

  static GenerationRequest question(const std::string& text = "hello world, what is a hell?") {
    GenerationRequest request;
    request.messages = {{"system", "Be brief."}, {"user", text}};
    request.max_new_tokens = 12;
    return request;
  }

  static Result<GenerationResult> ask(Engine& engine, const GenerationRequest& request) {
    GenerationSink sink;
    return engine.generate(request, sink, {});
  }

  static test::Scratch* directory_;
};

test::Scratch* CudaEngineTest::directory_ = nullptr;

TEST_F(CudaEngineTest, AnswersAsTheCpuDoes) {
  const auto on_cpu = open(options(DeviceKind::kCpu));
  ASSERT_TRUE(on_cpu.ok());
  const auto on_gpu = open(options(DeviceKind::kCuda));
  ASSERT_TRUE(on_gpu.ok()) << on_gpu.error().message;
  for (const char* text : {"hello", "hello world, what is a hell?", "a much longer question with more words in it"}) {
    const auto expected = ask(**on_cpu, question(text));
    const auto actual = ask(**on_gpu, question(text));
    ASSERT_TRUE(expected.ok() && actual.ok());
    EXPECT_EQ(actual->text, expected->text);
  }
}

TEST_F(CudaEngineTest, ChoosesTheTokensOfTheCpu) {
  const auto on_cpu = open(options(DeviceKind::kCpu));
  const auto on_gpu = open(options(DeviceKind::kCuda));
  ASSERT_TRUE(on_cpu.ok() && on_gpu.ok());
  const SamplingOptions settings[] = {
      {.temperature = 0.7F, .top_k = 20, .top_p = 0.8F, .seed = 5},
      {.temperature = 0.8F, .presence_penalty = 1.0F, .repetition_penalty = 1.2F, .seed = 7},
  };
  for (const SamplingOptions& sampling : settings) {
    GenerationRequest request = question();
    request.sampling = sampling;
    const auto expected = ask(**on_cpu, request);
    const auto actual = ask(**on_gpu, request);
    ASSERT_TRUE(expected.ok() && actual.ok());
    EXPECT_EQ(actual->text, expected->text) << "seed " << sampling.seed;
  }
}

TEST_F(CudaEngineTest, GuessingAheadChangesNothing) {
  EngineOptions plain = options(DeviceKind::kCuda);
  plain.draft_tokens = 0;
  const auto one = open(plain);
  const auto other = open(options(DeviceKind::kCuda));
  ASSERT_TRUE(one.ok() && other.ok());
  const auto expected = ask(**one, question());
  const auto actual = ask(**other, question());
  ASSERT_TRUE(expected.ok() && actual.ok());
  EXPECT_EQ(actual->text, expected->text);
}

TEST_F(CudaEngineTest, TokensAreRepeatedGraphsAndTakeNoMemory) {
  EngineOptions plain = options(DeviceKind::kCuda);
  plain.draft_tokens = 0;
  const auto engine = open(plain);
  ASSERT_TRUE(engine.ok());
  GenerationRequest request = question("hello again");
  request.sampling = {.temperature = 0.8F, .repetition_penalty = 1.1F};
  ASSERT_TRUE(ask(**engine, question()).ok());
  const emulation::Counters before = emulation::counters();
  const auto reply = ask(**engine, request);
  ASSERT_TRUE(reply.ok());
  const emulation::Counters after = emulation::counters();
  EXPECT_EQ(after.allocations, before.allocations);
  const std::int64_t chosen = reply->statistics.generated_tokens + 1;  // the one that ends it may not count
  EXPECT_LE(after.downloaded_bytes - before.downloaded_bytes, chosen * static_cast<std::int64_t>(sizeof(TokenId)));
  EXPECT_GE(after.graph_launches - before.graph_launches, reply->statistics.generated_tokens - 1);
}

TEST_F(CudaEngineTest, TakesTheMemoryItPlannedAndNoMore) {
  const auto engine = open(options(DeviceKind::kCuda));
  ASSERT_TRUE(engine.ok());
  const MemoryPlan& plan = (*engine)->info().memory;
  ASSERT_TRUE(ask(**engine, question()).ok());
  constexpr std::int64_t kBeside = std::int64_t{24} << 20;  // staging, and what goes to and from passes
  EXPECT_GE(emulation::counters().allocated_bytes, plan.total());
  EXPECT_LE(emulation::counters().allocated_bytes, plan.total() + kBeside);
}

TEST_F(CudaEngineTest, UsesWhatItPlanned) {
  BenchOptions bench;
  bench.engine = options(DeviceKind::kCuda);
  bench.engine.context_tokens = 0;
  bench.prefill_tokens = 70;
  bench.decode_tokens = 2;
  bench.repeats = 1;
  const auto report = run_bench(directory_->path(), bench, {}, {});
  ASSERT_TRUE(report.ok()) << report.error().message;
  ASSERT_EQ(report->gpu_memory.size(), 1U);
  const MemoryPlan& plan = report->memory;
  EXPECT_LE(report->gpu_memory[0].weights, plan.weights);
  EXPECT_GE(report->gpu_memory[0].weights, plan.weights * 9 / 10);
  EXPECT_LE(report->gpu_memory[0].state, plan.kv_cache + plan.state + plan.sessions);
  EXPECT_LE(report->gpu_memory[0].scratch, plan.scratch);
  EXPECT_EQ(report->dense_products, "cuBLASLt 13.1.0");
  EXPECT_GT(report->prediction.rates.transfer_bytes_per_second, 0);
  EXPECT_GT(report->prediction.chosen.decode_tokens_per_second, 0);
  EXPECT_GT(report->prediction.chosen.prefill_tokens_per_second, 0);
}

TEST_F(CudaEngineTest, SaysWhatWouldFit) {
  const auto whole = open(options(DeviceKind::kCuda));
  ASSERT_TRUE(whole.ok());
  const MemoryPlan plan = (*whole)->info().memory;
  EngineOptions little = options(DeviceKind::kCuda);
  little.context_tokens = 1024;
  little.gpu_experts = plan.experts;
  little.memory_limit_bytes = plan.total() - plan.kept_sessions - plan.kv_cache / 4;
  const auto refused = open(little);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(refused.error().message.find("GPU memory"), std::string::npos) << refused.error().message;
  EXPECT_NE(refused.error().message.find("tokens fits"), std::string::npos) << refused.error().message;
  little.context_tokens = 0;
  const auto shortened = open(little);
  ASSERT_TRUE(shortened.ok()) << shortened.error().message;
  EXPECT_LT((*shortened)->info().context_tokens, 1024);
  const auto reply = ask(**shortened, question());
  EXPECT_TRUE(reply.ok()) << reply.error().message;
}

TEST_F(CudaEngineTest, AMissingGpuIsNamedAndTheCpuIsNotTakenInstead) {
  const auto message = [](const emulation::Device& device) {
    emulation::reset();
    emulation::set_device(device);
    const auto engine = open(options(DeviceKind::kCuda));
    EXPECT_FALSE(engine.ok());
    if (engine.ok()) return std::string();
    EXPECT_EQ(engine.error().code, ErrorCode::kDevice) << engine.error().message;
    return engine.error().message;
  };
  EXPECT_NE(message({.count = 0}).find("No NVIDIA GPU"), std::string::npos);
  EXPECT_NE(message({.driver_version = 0}).find("driver"), std::string::npos);
  EXPECT_NE(message({.driver_version = 11040}).find("newer driver"), std::string::npos);
  EXPECT_NE(message({.major = 7, .minor = 5}).find("8.0"), std::string::npos);
  emulation::reset();
  emulation::set_device({});
  EngineOptions second = options(DeviceKind::kCuda);
  second.gpus = {1};
  const auto engine = open(second);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message.find("no GPU 1"), std::string::npos) << engine.error().message;
}

// Faults, each at a place of its own: never a wrong word, always a sentence, and a new engine answers again.
TEST_F(CudaEngineTest, AFailingGpuEndsTheReplyWithOneSentence) {
  std::string expected;
  std::int64_t operations = 0;
  {
    const auto engine = open(options(DeviceKind::kCuda));
    ASSERT_TRUE(engine.ok());
    const emulation::Counters before = emulation::counters();
    expected = ask(**engine, question())->text;
    const emulation::Counters after = emulation::counters();
    operations = after.launches + after.copies - before.launches - before.copies;
  }
  std::mt19937 random(5);
  for (int fault = 0; fault < 25; ++fault) {
    SCOPED_TRACE(fault);
    emulation::reset();
    const auto engine = open(options(DeviceKind::kCuda));
    ASSERT_TRUE(engine.ok());
    const std::int64_t at = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(operations));
    emulation::fail_after(at, fault % 2 == 0 ? cudaErrorIllegalAddress : cudaErrorECCUncorrectable);
    const auto reply = ask(**engine, question());
    if (reply.ok()) {
      EXPECT_EQ(reply->text, expected);  // it came after the last use
      continue;
    }
    EXPECT_EQ(reply.error().code, ErrorCode::kDevice);
    EXPECT_NE(reply.error().message.find("opened again"), std::string::npos) << reply.error().message;
    const auto again = ask(**engine, question());
    ASSERT_FALSE(again.ok());
    EXPECT_EQ(again.error().code, ErrorCode::kDevice);
  }
  emulation::reset();
  const auto engine = open(options(DeviceKind::kCuda));
  ASSERT_TRUE(engine.ok());
  EXPECT_EQ(ask(**engine, question())->text, expected);
}

TEST_F(CudaEngineTest, AFaultWhileTheModelIsLoadedIsAnError) {
  for (const std::int64_t at : {1, 5, 40, 100}) {
    emulation::reset();
    emulation::fail_after(at, cudaErrorLaunchFailure);
    const auto engine = open(options(DeviceKind::kCuda));
    ASSERT_FALSE(engine.ok()) << at;
    EXPECT_EQ(engine.error().code, ErrorCode::kDevice) << engine.error().message;
  }
}

TEST_F(CudaEngineTest, SessionsOfTheCpuGoOnOnTheGpu) {
  const test::Scratch sessions;
  EngineOptions kept = options(DeviceKind::kCpu);
  kept.sessions.directory = sessions.path();
  std::string text = "hello world";
  for (int i = 0; i < 60; ++i) text += " hello" + std::to_string(i);
  {
    const auto engine = open(kept);
    ASSERT_TRUE(engine.ok());
    ASSERT_TRUE(ask(**engine, question(text)).ok());
  }
  const auto fresh = open(options(DeviceKind::kCuda));
  ASSERT_TRUE(fresh.ok());
  const auto expected = ask(**fresh, question(text));
  kept.device = DeviceKind::kCuda;
  const auto engine = open(kept);
  ASSERT_TRUE(engine.ok());
  const auto reply = ask(**engine, question(text));
  ASSERT_TRUE(reply.ok() && expected.ok());
  EXPECT_GT(reply->statistics.reused_tokens, 60);
  EXPECT_EQ(reply->text, expected->text);
}

}  // namespace
}  // namespace lectern::engine
