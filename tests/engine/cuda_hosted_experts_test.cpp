// SPDX-License-Identifier: GPL-3.0-or-later
// Experts in the computer's memory on the emulated GPU: the same results wherever an expert is, places that follow the
// prompts, and a model that is larger than the GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda/expert_slots.h"
#include "engine/engine.h"
#include "engine/model_tools.h"
#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "quant/formats.h"
#include "support/cuda_emulation/cuda_emulation.h"
#include "support/load_transformer.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

namespace emulation = cuda::emulation;

constexpr float kSame = 2e-3F;   // of the range of a row of logits: CPU and GPU round activations differently
constexpr float kClose = 0.02F;  // of the largest number: activations of 8 bits or BF16

class HostedExpertsTest : public ::testing::Test {
 protected:
  void SetUp() override { emulation::reset(); }
  void TearDown() override {
    EXPECT_EQ(emulation::check_guards(), "");
    emulation::reset();
    emulation::set_device({});
  }

  static std::unique_ptr<Backend> backend(const ExpertBudget& experts) {
    auto made = make_cuda_backend(0, {}, experts);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return std::move(made).value();
  }
};

float largest_difference(std::span<const float> actual, std::span<const float> expected) {
  float worst = 0;
  float most = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(actual[i])) return INFINITY;
    worst = std::max(worst, std::abs(actual[i] - expected[i]));
    most = std::max(most, std::abs(expected[i]));
  }
  return worst / most;
}

// --- whole models ---------------------------------------------------------------------------------------------------

class HostedModel {
 public:
  HostedModel(const std::string& name, const ExpertBudget& experts) {
    golden::write_model(golden::directory() / "models" / name, directory_.path());
    auto made = make_cuda_backend(0, {}, experts);
    EXPECT_TRUE(made.ok());
    backend_ = std::move(made).value();
    auto loaded = support::load_transformer(directory_.path(), *backend_, 64);
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    model_ = std::move(loaded).value();
  }

  // The logits behind a prompt, and behind each of the tokens that follow it.
  std::vector<float> read(const std::vector<TokenId>& prompt, int following) {
    const auto width = static_cast<std::size_t>(model_->config().vocabulary);
    auto state = model_->new_sequence({.kv = KvType::kF32});
    EXPECT_TRUE(state.ok());
    std::vector<float> all(width * static_cast<std::size_t>(following + 1));
    EXPECT_TRUE(model_->forward(*state, prompt, {1, std::span(all).first(width), {}}).ok());
    for (int i = 1; i <= following; ++i) {
      const TokenId token = (17 * i + 3) % 90;
      const std::span<float> to = std::span(all).subspan(static_cast<std::size_t>(i) * width, width);
      EXPECT_TRUE(model_->forward(*state, std::span(&token, 1), {1, to, {}}).ok());
    }
    return all;
  }

 private:
  test::Scratch directory_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> model_;
};

std::vector<TokenId> prompt_of(int tokens, int step) {
  std::vector<TokenId> prompt;
  for (int t = 0; t < tokens; ++t) prompt.push_back((step * t * t + 3 * t + 5) % 96);
  return prompt;
}

TEST_F(HostedExpertsTest, LogitsAreTheSameWhereverExpertsAre) {
  const auto compare = [](const std::string& name, std::initializer_list<int> counts) {
    const std::vector<float> expected = HostedModel(name, {}).read(prompt_of(40, 7), 3);
    for (const int on_gpu : counts) {
      SCOPED_TRACE(name + " with " + std::to_string(on_gpu));
      emulation::set_timing(on_gpu % 2 == 0 ? emulation::Timing::kLate : emulation::Timing::kAtOnce);
      HostedModel model(name, {.on_device = on_gpu, .threads = 1});
      EXPECT_LE(largest_difference(model.read(prompt_of(40, 7), 3), expected), kSame);
    }
  };
  compare("tiny", {0, 4, 7, 8});
  compare("many_experts", {20});
}

// Prompts read in between change which experts have a place, but not what comes out.
TEST_F(HostedExpertsTest, PlacesFollowThePromptsAndChangeNothing) {
  HostedModel model("many_experts", {.on_device = 12, .threads = 2});
  const std::vector<float> first = model.read(prompt_of(30, 7), 2);
  for (const int step : {1, 4}) model.read(prompt_of(40, step), 1);
  const std::vector<float> again = model.read(prompt_of(30, 7), 2);
  EXPECT_EQ(0, std::memcmp(first.data(), again.data(), 96 * sizeof(float)));  // prompts are read on the GPU alone
  EXPECT_LE(largest_difference(again, first), kSame);
}

// --- one block ------------------------------------------------------------------------------------------------------

// The same random block for several backends.
class Block {
 public:
  Block(Backend& backend, DType gate, DType up, DType down, std::int64_t experts = 12) : backend_(backend) {
    w_.experts_per_token = 3;
    w_.router = std::move(backend.take_weight(random(experts, kHidden, DType::kF32))).value();
    w_.shared_router = std::move(backend.take_weight(random(1, kHidden, DType::kF32))).value();
    w_.shared_gate = std::move(backend.take_weight(random(512, kHidden, gate))).value();
    w_.shared_up = std::move(backend.take_weight(random(512, kHidden, up))).value();
    w_.shared_down = std::move(backend.take_weight(random(kHidden, 512, down))).value();
    for (std::int64_t e = 0; e < experts; ++e) {
      w_.gate.push_back(std::move(backend.take_expert(random(kWidth, kHidden, gate))).value());
      w_.up.push_back(std::move(backend.take_expert(random(kWidth, kHidden, up))).value());
      w_.down.push_back(std::move(backend.take_expert(random(kHidden, kWidth, down))).value());
    }
    const auto placed = backend.place_experts(w_);
    EXPECT_TRUE(placed.ok()) << placed.error().message;
  }

  std::vector<float> run(const std::vector<float>& x) {
    const auto numbers = static_cast<std::int64_t>(x.size());
    const auto in = std::move(backend_.make_buffer(numbers, MemoryUse::kState)).value();
    const auto out = std::move(backend_.make_buffer(numbers, MemoryUse::kState)).value();
    backend_.upload(x, in->data());
    backend_.upload(x, out->data());
    backend_.begin_pass({});
    backend_.mixture_of_experts({in->data(), numbers / kHidden, kHidden}, w_,
                                {out->data(), numbers / kHidden, kHidden});
    EXPECT_TRUE(backend_.end_pass().ok());
    std::vector<float> y(x.size());
    backend_.download(out->data(), y);
    return y;
  }

  static std::vector<float> rows(std::int64_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-2.0F, 2.0F);
    std::vector<float> x(static_cast<std::size_t>(count * kHidden));
    for (float& value : x) value = uniform(random);
    return x;
  }

  static constexpr std::int64_t kHidden = 256;
  static constexpr std::int64_t kWidth = 256;

 private:
  HostMatrix random(std::int64_t rows, std::int64_t cols, DType type) {
    std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
    std::vector<float> numbers(static_cast<std::size_t>(rows * cols));
    for (float& value : numbers) value = uniform(random_) * std::sqrt(3.0F / static_cast<float>(cols));
    std::vector<std::byte>& memory = memory_.emplace_back(static_cast<std::size_t>(bytes_of(type, rows * cols)));
    quantize(type, numbers.data(), rows * cols, memory.data());
    return {type, memory.data(), rows, cols, nullptr};
  }

  Backend& backend_;
  std::mt19937 random_{3};
  std::deque<std::vector<std::byte>> memory_;
  ExpertWeights w_;
};

TEST_F(HostedExpertsTest, EveryKindOfTypeAndAnyNumberOfRows) {
  struct Types {
    DType gate, up, down;
  };
  for (const Types& types :
       {Types{DType::kQ4K, DType::kQ4K, DType::kQ6K}, Types{DType::kBF16, DType::kBF16, DType::kBF16},
        Types{DType::kQ8_0, DType::kQ4_0, DType::kF32}, Types{DType::kQ5K, DType::kQ4K, DType::kF16}}) {
    SCOPED_TRACE(std::string(name_of(types.gate)));
    const auto resident = backend({});
    const auto hosted = backend({.on_device = 4, .threads = 1});
    Block expected(*resident, types.gate, types.up, types.down);
    Block actual(*hosted, types.gate, types.up, types.down);
    for (const std::int64_t rows : {1, 8, 9, 200, 3}) {
      const std::vector<float> x = Block::rows(rows, static_cast<unsigned>(rows));
      EXPECT_LE(largest_difference(actual.run(x), expected.run(x)), kClose) << rows;
    }
  }
}

TEST_F(HostedExpertsTest, ARowOfASmallBatchDoesNotDependOnItsNeighbours) {
  const auto hosted = backend({.on_device = 5, .threads = 2});
  Block block(*hosted, DType::kQ4K, DType::kQ4K, DType::kQ6K);
  const std::vector<float> x = Block::rows(8, 1);
  const std::vector<float> together = block.run(x);
  for (std::size_t row = 0; row < 8; ++row) {
    const auto from = x.begin() + static_cast<std::ptrdiff_t>(row) * Block::kHidden;
    const std::vector<float> alone = block.run({from, from + Block::kHidden});
    EXPECT_EQ(0, std::memcmp(alone.data(), together.data() + row * Block::kHidden, Block::kHidden * sizeof(float)));
  }
}

TEST_F(HostedExpertsTest, ExpertsWithPlacesAreNotSentAgain) {
  const auto copied = [](std::int64_t on_gpu) {
    emulation::reset();
    const auto hosted = backend({.on_device = on_gpu, .threads = 1});
    Block block(*hosted, DType::kQ8_0, DType::kQ8_0, DType::kQ8_0);
    const std::vector<float> x = Block::rows(40, 2);
    block.run(x);
    const std::int64_t before = emulation::counters().copied_bytes;
    block.run(x);
    return emulation::counters().copied_bytes - before;
  };
  const std::int64_t expert = 3 * bytes_of(DType::kQ8_0, Block::kHidden * Block::kWidth);
  EXPECT_GE(copied(0), 12 * expert);
  EXPECT_LT(copied(12), expert);
  EXPECT_LT(copied(8), 6 * expert);
}

TEST_F(HostedExpertsTest, TheMostUsedExpertsGetThePlaces) {
  const auto hosted = backend({.on_device = 3, .threads = 1});
  ExpertWeights w;
  std::vector<std::byte> memory(4 * 64);
  for (int e = 0; e < 6; ++e) {
    for (auto* list : {&w.gate, &w.up, &w.down}) {
      list->push_back(std::move(hosted->take_expert({DType::kF32, memory.data(), 8, 8, nullptr})).value());
    }
  }
  cuda::HostedExperts block(w, 3);
  const auto placed = [&block] {
    std::vector<int> experts;
    for (int e = 0; e < 6; ++e) {
      if (block.slot_of(e) >= 0) experts.push_back(e);
    }
    return experts;
  };
  EXPECT_EQ(placed(), (std::vector{0, 1, 2}));
  const auto read = [&block](const std::vector<std::int32_t>& rows) {
    block.count(rows, 20);
    block.assign(rows);
  };
  read({0, 1, 0, 9, 0, 10});
  EXPECT_EQ(placed(), (std::vector{1, 3, 5}));
  read({0, 9, 10, 0, 0, 1});  // 9 of expert 3, a while ago, are almost 10
  EXPECT_EQ(placed(), (std::vector{1, 3, 5}));
  read({0, 20, 20, 0, 0, 0});
  EXPECT_EQ(placed(), (std::vector{1, 2, 5}));
}

// --- the engine -----------------------------------------------------------------------------------------------------

class LargeModelTest : public HostedExpertsTest {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    support::write_tiny_model(directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  static EngineOptions options(DeviceKind device) {
    EngineOptions options = {.device = device, .threads = 1, .context_tokens = 1024, .prefill_chunk_tokens = 64};
    options.kv_type = KvType::kF32;
    options.sessions.memory_bytes = 0;
    return options;
  }
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options) {
    return Engine::open(directory_->path(), options);
  }
  static Result<GenerationResult> ask(Engine& engine) {
    GenerationRequest request;
    request.messages = {{"system", "Be brief."}, {"user", "hello world, what is a hell?"}};
    request.max_new_tokens = 12;
    GenerationSink sink;
    return engine.generate(request, sink, {});
  }
  static MemoryPlan plan(std::int64_t gpu_experts) {
    EngineOptions chosen = options(DeviceKind::kCuda);
    chosen.gpu_experts = gpu_experts;
    const auto engine = open(chosen);
    EXPECT_TRUE(engine.ok());
    return (*engine)->info().memory;
  }

  static test::Scratch* directory_;
};

test::Scratch* LargeModelTest::directory_ = nullptr;

TEST_F(LargeModelTest, AModelLargerThanTheGpuAnswersAsTheCpuDoes) {
  const auto on_cpu = open(options(DeviceKind::kCpu));
  ASSERT_TRUE(on_cpu.ok());
  const MemoryPlan whole = plan(-1);
  EXPECT_EQ(whole.experts_on_gpu, whole.experts);
  const MemoryPlan least = plan(0);
  EXPECT_EQ(least.experts_on_gpu, 0);
  EngineOptions small = options(DeviceKind::kCuda);
  small.memory_limit_bytes = least.total() + (plan(1).total() - least.total()) * 5 / 2;
  ASSERT_LT(small.memory_limit_bytes, whole.total());
  const auto on_gpu = open(small);
  ASSERT_TRUE(on_gpu.ok()) << on_gpu.error().message;
  const MemoryPlan& memory = (*on_gpu)->info().memory;
  EXPECT_EQ(memory.experts_on_gpu, 2);
  EXPECT_LE(memory.total(), small.memory_limit_bytes);
  EXPECT_GT(memory.hosted_experts, 0);
  EXPECT_EQ(memory.locked_experts, memory.hosted_experts);
  constexpr std::int64_t kBeside = std::int64_t{24} << 20;  // staging, and what goes to and from passes
  for (int i = 0; i < 2; ++i) {
    const auto reply = ask(**on_gpu);
    ASSERT_TRUE(reply.ok()) << reply.error().message;
    EXPECT_EQ(reply->text, ask(**on_cpu)->text);
  }
  EXPECT_LE(emulation::counters().allocated_bytes, memory.total() + kBeside);
}

TEST_F(LargeModelTest, TheUserHasTheLastWord) {
  const MemoryPlan whole = plan(-1);
  EXPECT_EQ(plan(whole.experts + 5).experts_on_gpu, whole.experts);
  EXPECT_EQ(plan(3).experts_on_gpu, 3);
  EngineOptions all = options(DeviceKind::kCuda);
  all.gpu_experts = whole.experts;
  all.memory_limit_bytes = whole.total() - 1;
  const auto refused = open(all);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  EngineOptions none = options(DeviceKind::kCuda);
  none.gpu_experts = -2;
  EXPECT_EQ(open(none).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(LargeModelTest, WithoutRoomToLockTheyPassThroughBuffersAndThePlanSaysSo) {
  EngineOptions some = options(DeviceKind::kCuda);
  some.gpu_experts = 2;
  emulation::set_device({.locks_mappings = false, .lockable_bytes = (std::size_t{16} << 20) + (64 << 10)});
  const auto engine = open(some);
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  EXPECT_LT((*engine)->info().memory.locked_experts, (*engine)->info().memory.hosted_experts);
  EXPECT_EQ(ask(**engine)->text, ask(**open(options(DeviceKind::kCpu)))->text);
}

TEST_F(LargeModelTest, WhatThePlannerWouldHaveChosenIsPredictedToo) {
  EngineOptions some = options(DeviceKind::kCuda);
  const auto all = plan_placement(directory_->path(), some);
  ASSERT_TRUE(all.ok()) << all.error().message;
  EXPECT_EQ(all->speed.chosen.experts_on_gpu, all->memory.experts);
  EXPECT_GT(all->speed.chosen.prefill_tokens_per_second, 0);
  EXPECT_FALSE(all->speed.planned.has_value());
  some.gpu_experts = 1;
  const auto one = plan_placement(directory_->path(), some);
  ASSERT_TRUE(one.ok()) << one.error().message;
  EXPECT_EQ(one->speed.chosen.experts_on_gpu, 1);
  EXPECT_GT(one->speed.chosen.decode_tokens_per_second, 0);
  ASSERT_TRUE(one->speed.planned.has_value());
  EXPECT_EQ(one->speed.planned->experts_on_gpu, all->memory.experts);
}

TEST_F(LargeModelTest, WhatDoesNotEvenFitWithoutExpertsIsRefused) {
  EngineOptions small = options(DeviceKind::kCuda);
  const MemoryPlan least = plan(0);
  small.memory_limit_bytes = least.total() - least.kv_cache;
  for (const std::int64_t experts : {-1, 0}) {
    small.gpu_experts = experts;
    const auto refused = open(small);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
    EXPECT_NE(refused.error().message.find("all experts would be in the computer's memory"), std::string::npos)
        << refused.error().message;
  }
}

TEST_F(LargeModelTest, AFailingGpuEndsTheReplyWithOneSentence) {
  EngineOptions some = options(DeviceKind::kCuda);
  some.gpu_experts = 2;
  std::string expected;
  std::int64_t operations = 0;
  {
    const auto engine = open(some);
    ASSERT_TRUE(engine.ok());
    const emulation::Counters before = emulation::counters();
    expected = ask(**engine)->text;
    const emulation::Counters after = emulation::counters();
    operations = after.launches + after.copies - before.launches - before.copies;
  }
  for (int fault = 0; fault < 10; ++fault) {
    SCOPED_TRACE(fault);
    emulation::reset();
    const auto engine = open(some);
    ASSERT_TRUE(engine.ok());
    emulation::fail_after(1 + operations * fault / 10, cudaErrorIllegalAddress);
    const auto reply = ask(**engine);
    if (reply.ok()) {
      EXPECT_EQ(reply->text, expected);
      continue;
    }
    EXPECT_EQ(reply.error().code, ErrorCode::kDevice);
    EXPECT_NE(reply.error().message.find("opened again"), std::string::npos) << reply.error().message;
  }
}

}  // namespace
}  // namespace lectern::engine
