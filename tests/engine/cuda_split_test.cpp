// SPDX-License-Identifier: GPL-3.0-or-later
// A model over several emulated GPUs: bit for bit what one computes, memory as planned on each, and a sentence for
// every way in which GPUs can be named wrongly, be too small or fail.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/measure.h"
#include "ops/placement.h"
#include "support/cuda_emulation/cuda_emulation.h"
#include "support/load_transformer.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

namespace emulation = cuda::emulation;

using Gpus = std::vector<int>;

class CudaSplitTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    support::write_tiny_model(directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  void SetUp() override { restart({.count = 3}); }
  void TearDown() override {
    EXPECT_EQ(emulation::check_guards(), "");
    restart({});
  }
  static void restart(const emulation::Device& device) {
    emulation::reset();
    emulation::set_device(device);
  }

  static EngineOptions options(const Gpus& gpus) {
    EngineOptions options = {.device = DeviceKind::kCuda, .gpus = gpus, .threads = 1};
    options.context_tokens = 1024;
    options.prefill_chunk_tokens = 16;
    options.kv_type = KvType::kF32;
    options.sessions.memory_bytes = 0;
    return options;
  }
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options) {
    return Engine::open(directory_->path(), options);
  }
  static std::unique_ptr<Engine> opened(const EngineOptions& options) {
    auto engine = open(options);
    EXPECT_TRUE(engine.ok()) << engine.error().message;
    return std::move(engine).value();
  }
  static std::string refusal(const EngineOptions& options, ErrorCode code) {
    const auto engine = open(options);
    EXPECT_FALSE(engine.ok());
    if (engine.ok()) return "";
    EXPECT_EQ(engine.error().code, code);
    return engine.error().message;
  }

  static Result<GenerationResult> ask(Engine& engine, const std::string& text = "hello hell",
                                      std::int64_t most_tokens = 5) {
    GenerationRequest request;
    request.messages = {{"user", text}};
    request.max_new_tokens = most_tokens;
    GenerationSink sink;
    return engine.generate(request, sink, {});
  }

  static std::vector<TokenId> tokens(std::int64_t count, std::int64_t seed) {
    std::vector<TokenId> tokens;
    for (std::int64_t t = 0; t < count; ++t) tokens.push_back(static_cast<TokenId>((seed + 7 * t * t + 3 * t) % 256));
    return tokens;
  }

  static test::Scratch* directory_;
};

test::Scratch* CudaSplitTest::directory_ = nullptr;

TEST_F(CudaSplitTest, SeveralGpusAnswerAsOneDoes) {
  const std::unique_ptr<Engine> one = opened(options({0}));
  const auto scores = one->score(tokens(20, 1), {});
  const std::string question = "hello world, what is a hell?";
  constexpr std::int64_t kEnough = 8;  // to guess ahead
  const auto reply = ask(*one, question, kEnough);
  ASSERT_TRUE(scores.ok() && reply.ok());
  for (const Gpus& gpus : {Gpus{0, 1}, Gpus{2, 0, 1}}) {
    const std::unique_ptr<Engine> several = opened(options(gpus));
    const std::vector<GpuShare>& shares = several->info().memory.gpus;
    ASSERT_EQ(shares.size(), gpus.size());
    std::int64_t layers = 0;
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      EXPECT_EQ(shares[i].gpu, gpus[i]);
      EXPECT_GT(shares[i].layers, 0);
      layers += shares[i].layers;
    }
    EXPECT_EQ(layers, several->info().layers);
    EXPECT_EQ(several->score(tokens(20, 1), {}).value(), *scores);
    const auto same = ask(*several, question, kEnough);
    ASSERT_TRUE(same.ok()) << same.error().message;
    EXPECT_EQ(same->text, reply->text);
    EXPECT_GT(same->statistics.drafted_tokens, 0);
  }
  EXPECT_GT(emulation::counters().peer_copies, 0);
}

// --- passes ---------------------------------------------------------------------------------------------------------

class SplitPasses : public CudaSplitTest {
 protected:
  // The four layers on these GPUs, as evenly as may be.
  void load(const Gpus& gpus) {
    model_.reset();
    backends_.clear();
    std::vector<Placement::Share> shares;
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      backends_.push_back(make_cuda_backend(gpus[i], {}).value());
      const std::size_t layers = 4 / gpus.size() + (i + 1 == gpus.size() ? 4 % gpus.size() : 0);
      shares.push_back({backends_.back().get(), static_cast<std::int64_t>(layers)});
    }
    ModelFiles files = ModelFiles::open(directory_->path()).value();
    model_ = Transformer::load(std::move(files), Placement(shares), 16).value();
  }

  // Everything that a sequence can do, and all the logits it gives.
  std::vector<float> everything() {
    std::vector<float> all;
    SequenceState state = model_->new_sequence({.with_mtp = true}).value();
    std::vector<float> hidden(static_cast<std::size_t>(model_->config().hidden_size));
    const auto outputs = [&](std::int64_t rows) {
      const std::size_t before = all.size();
      all.resize(before + static_cast<std::size_t>(rows * model_->config().vocabulary));
      return Outputs{rows, std::span(all).subspan(before), {}};
    };
    EXPECT_TRUE(model_->forward(state, tokens(20, 5), outputs(5)).ok());  // two chunks
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(model_->forward(state, tokens(1, i), outputs(1)).ok());
    for (const std::int64_t accepted : {2, 0}) {
      const std::vector<TokenId> guesses = tokens(3, accepted);
      const Reading reading = {&state, guesses, outputs(3), true};
      EXPECT_TRUE(model_->advance({&reading, 1}).ok());
      EXPECT_TRUE(model_->accept(state, accepted).ok());
    }
    SequenceState copy = model_->fork(state).value();
    EXPECT_TRUE(model_->draft(state, tokens(1, 9), hidden, outputs(1)).ok());
    const std::vector<TokenId> one = tokens(1, 11);
    const Reading both[] = {{&state, one, outputs(1)}, {&copy, one, outputs(1)}};
    EXPECT_TRUE(model_->advance(both).ok());
    return all;
  }

  std::vector<std::unique_ptr<Backend>> backends_;
  std::unique_ptr<Transformer> model_;
};

// Devices that begin late show where one does not wait for the other.
TEST_F(SplitPasses, EveryLogitIsTheSame) {
  load({0});
  const std::vector<float> expected = everything();
  for (const Gpus& gpus : {Gpus{1}, Gpus{0, 1}, Gpus{1, 2, 0}}) {
    SCOPED_TRACE(gpus.size());
    emulation::set_timing(emulation::Timing::kLate);
    load(gpus);
    EXPECT_EQ(everything(), expected);
  }
}

TEST_F(SplitPasses, GpusWithoutDirectAccessCopyAsWell) {
  load({0});
  const std::vector<float> expected = everything();
  model_.reset();
  backends_.clear();
  restart({.count = 2, .peers = false});
  load({0, 1});
  EXPECT_EQ(everything(), expected);
}

TEST_F(SplitPasses, AStoppedPassLeavesTheGpusReady) {
  load({0, 1});
  std::vector<float> logits(static_cast<std::size_t>(model_->config().vocabulary));
  const auto read = [&](const std::stop_token& stop) {
    SequenceState state = model_->new_sequence({}).value();
    return model_->forward(state, tokens(3, 3), {1, logits, {}}, stop);
  };
  ASSERT_TRUE(read({}).ok());
  const std::vector<float> expected = logits;
  std::stop_source stop;
  stop.request_stop();
  const auto stopped = read(stop.get_token());
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
  ASSERT_TRUE(read({}).ok());
  EXPECT_EQ(logits, expected);
}

TEST_F(CudaSplitTest, EveryTokenIsOneGraphOnEachGpuAndTakesNoMemory) {
  EngineOptions plain = options({0, 1});
  plain.draft_tokens = 0;
  const std::unique_ptr<Engine> engine = opened(plain);
  ASSERT_TRUE(ask(*engine).ok());
  const emulation::Counters before = emulation::counters();
  const auto reply = ask(*engine, "hello again");
  ASSERT_TRUE(reply.ok());
  const emulation::Counters after = emulation::counters();
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_GE(after.graph_launches - before.graph_launches, 2 * (reply->statistics.generated_tokens - 1));
}

TEST_F(CudaSplitTest, SessionsMoveBetweenOneAndSeveral) {
  const test::Scratch sessions;
  const std::string text = "hello hello hell";
  const std::string expected = ask(*opened(options({0})), text)->text;
  for (const Gpus& gpus : {Gpus{0, 1}, Gpus{0}, Gpus{1, 2}}) {
    EngineOptions kept = options(gpus);
    kept.sessions = {.memory_bytes = std::int64_t{4} << 20, .checkpoint_tokens = 8};
    kept.sessions.directory = sessions.path();
    const std::unique_ptr<Engine> engine = opened(kept);
    const auto reply = ask(*engine, text);
    ASSERT_TRUE(reply.ok()) << reply.error().message;
    EXPECT_EQ(reply->text, expected);
    EXPECT_EQ(reply->statistics.reused_tokens > 0, gpus != Gpus({0, 1}));
  }
}

// --- the plan -------------------------------------------------------------------------------------------------------

TEST_F(CudaSplitTest, LayersGoWhereTheMemoryIs) {
  const auto layers = [](std::size_t first, std::size_t second) {
    emulation::set_memory(0, first << 20);
    emulation::set_memory(1, second << 20);
    const std::unique_ptr<Engine> engine = opened(options({0, 1}));
    std::vector<std::int64_t> shares;
    for (const GpuShare& share : engine->info().memory.gpus) shares.push_back(share.layers);
    return shares;
  };
  EXPECT_EQ(layers(64, 192), (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(layers(192, 64), (std::vector<std::int64_t>{3, 1}));
}

TEST_F(CudaSplitTest, EveryGpuTakesWhatItPlannedAndNoMore) {
  BenchOptions bench;
  bench.engine = options({0, 1});
  bench.engine.sessions.memory_bytes = std::int64_t{2} << 20;
  bench.engine.draft_tokens = 0;
  bench.prefill_tokens = 9;
  bench.decode_tokens = 1;
  bench.depth_tokens = 20;
  bench.synthetic_depth = true;
  bench.repeats = 1;
  const auto report = run_bench(directory_->path(), bench, {}, {});
  ASSERT_TRUE(report.ok()) << report.error().message;
  const MemoryPlan& plan = report->memory;
  ASSERT_EQ(report->gpu_memory.size(), 2U);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < 2; ++i) {
    const GpuMemoryUse& used = report->gpu_memory[i];
    EXPECT_LE(used.weights, plan.gpus[i].weights);
    EXPECT_GE(used.weights, plan.gpus[i].weights * 9 / 10);
    EXPECT_LE(used.state, plan.gpus[i].sequences);
    EXPECT_LE(used.scratch, plan.gpus[i].scratch);
    total += plan.gpus[i].weights + plan.gpus[i].sequences + plan.gpus[i].scratch;
  }
  EXPECT_EQ(total, plan.total());
}

TEST_F(CudaSplitTest, AsManyGpusAsTheModelNeeds) {
  const MemoryPlan whole = opened(options({}))->info().memory;
  ASSERT_EQ(whole.gpus.size(), 1U);
  EXPECT_EQ(whole.gpus[0].gpu, 0);
  EngineOptions little = options({});
  for (const GpuShare& share : opened(options({0, 1}))->info().memory.gpus) {
    little.memory_limit_bytes = std::max(little.memory_limit_bytes, share.weights + share.sequences + share.scratch);
  }
  EngineOptions hosting = options({0});
  hosting.gpu_experts = 0;
  little.memory_limit_bytes = std::max(little.memory_limit_bytes, opened(hosting)->info().memory.total());
  ASSERT_LT(little.memory_limit_bytes, whole.total());
  const std::unique_ptr<Engine> several = opened(little);
  EXPECT_EQ(several->info().memory.gpus.size(), 2U);
  EXPECT_EQ(several->info().memory.experts_on_gpu, whole.experts);
  EXPECT_TRUE(ask(*several).ok());
  restart({.count = 1});
  const MemoryPlan hosted = opened(little)->info().memory;
  EXPECT_EQ(hosted.gpus.size(), 1U);
  EXPECT_LT(hosted.experts_on_gpu, whole.experts);
}

TEST_F(CudaSplitTest, ALargeGpuIsTakenBeforeSeveral) {
  emulation::set_memory(0, 1 << 20);
  emulation::set_memory(1, 2 << 20);
  const MemoryPlan plan = opened(options({}))->info().memory;
  ASSERT_EQ(plan.gpus.size(), 1U);
  EXPECT_EQ(plan.gpus[0].gpu, 2);
}

TEST_F(CudaSplitTest, GpusThatCannotBeUsedAreNamed) {
  EXPECT_NE(refusal(options({1, 0, 1}), ErrorCode::kInvalidArgument).find("GPU 1 is named twice"), std::string::npos);
  EXPECT_NE(refusal(options({0, 7}), ErrorCode::kDevice).find("no GPU 7"), std::string::npos);
  EXPECT_NE(refusal(options({0, -1}), ErrorCode::kInvalidArgument).find("GPU -1 cannot be"), std::string::npos);
  EXPECT_NE(refusal(options({0, 1, 2, 3, 4}), ErrorCode::kInvalidArgument).find("at most 4"), std::string::npos);
  EngineOptions hosted = options({0, 1});
  hosted.gpu_experts = 2;
  EXPECT_NE(refusal(hosted, ErrorCode::kInvalidArgument).find("name one (--device cuda:0)"), std::string::npos);
}

TEST_F(CudaSplitTest, TooLittleMemoryIsSaidWithWhatWouldFit) {
  EngineOptions little = options({0, 1});
  for (const GpuShare& share : opened(little)->info().memory.gpus) {
    little.memory_limit_bytes = std::max(little.memory_limit_bytes, share.weights + share.sequences + share.scratch);
  }
  little.context_tokens = 2048;
  const std::string shorter = refusal(little, ErrorCode::kOutOfMemory);
  EXPECT_NE(shorter.find("GPUs 0 and 1 have"), std::string::npos) << shorter;
  EXPECT_NE(shorter.find("tokens fits"), std::string::npos) << shorter;
  little.context_tokens = 0;
  EXPECT_GE(opened(little)->info().context_tokens, 1024);
  emulation::set_memory(1, 1 << 20);
  const std::string without = refusal(options({0, 1, 2}), ErrorCode::kInvalidArgument);
  EXPECT_NE(without.find("leave it out (--device cuda:0,2)"), std::string::npos) << without;
}

// --- faults ---------------------------------------------------------------------------------------------------------

TEST_F(CudaSplitTest, AFailingSecondGpuEndsTheReplyWithItsName) {
  const std::string expected = ask(*opened(options({0, 1})))->text;
  for (const std::int64_t at : {1, 30, 80}) {
    SCOPED_TRACE(at);
    restart({.count = 3});
    const std::unique_ptr<Engine> engine = opened(options({0, 1}));
    emulation::fail_after(at, cudaErrorECCUncorrectable, 1);
    const auto reply = ask(*engine);
    ASSERT_FALSE(reply.ok());
    EXPECT_EQ(reply.error().code, ErrorCode::kDevice);
    EXPECT_NE(reply.error().message.find("cuda:1"), std::string::npos) << reply.error().message;
    EXPECT_NE(reply.error().message.find("opened again"), std::string::npos) << reply.error().message;
    EXPECT_FALSE(ask(*engine).ok());
  }
  restart({.count = 3});
  EXPECT_EQ(ask(*opened(options({0, 1})))->text, expected);
}

TEST_F(CudaSplitTest, TheFirstThatFailedIsTheCause) {
  const std::unique_ptr<Engine> engine = opened(options({0, 1}));
  emulation::fail_after(30, cudaErrorIllegalAddress, 0);
  const auto reply = ask(*engine);
  ASSERT_FALSE(reply.ok());
  EXPECT_NE(reply.error().message.find("cuda:0"), std::string::npos) << reply.error().message;
}

}  // namespace
}  // namespace lectern::engine
