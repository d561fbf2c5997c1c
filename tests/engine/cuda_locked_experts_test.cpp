// SPDX-License-Identifier: GPL-3.0-or-later
// Page-locked experts on the emulated GPU, and those that are on their way before their block's turn: the same bits
// however they come and whenever.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda/locked_memory.h"
#include "ops/backend.h"
#include "quant/formats.h"
#include "support/cuda_emulation/cuda_emulation.h"

namespace lectern::engine {
namespace {

namespace emulation = cuda::emulation;

constexpr std::int64_t kHidden = 64;
constexpr std::int64_t kWidth = 32;
constexpr std::int64_t kExperts = 12;
constexpr std::int64_t kChosen = 2;
constexpr std::int64_t kMostRows = 40;
constexpr std::int64_t kPlenty = std::int64_t{1} << 30;
constexpr DType kCodes = DType::kQ8_0;
constexpr DType kNumbers = DType::kF16;  // of which a matrix is just a page

constexpr std::int64_t expert_bytes(DType type = kCodes) { return 3 * bytes_of(type, kHidden * kWidth); }
static_assert(expert_bytes(kNumbers) == 3 * 4096);
constexpr std::int64_t kSlotBytes = 3 * 2304;  // of an expert in codes, on the device

class LockedExpertsTest : public ::testing::Test {
 protected:
  void SetUp() override { emulation::reset(); }
  void TearDown() override {
    EXPECT_EQ(emulation::check_guards(), "");
    EXPECT_EQ(emulation::counters().registered_bytes, 0);
    emulation::reset();
    emulation::set_device({});
  }
};

// Blocks of experts one after another, as the layers of a model.
class Layers {
 public:
  Layers(int count, const ExpertBudget& experts, DType type = kCodes) : type_(type) {
    auto made = make_cuda_backend(0, {}, experts);
    EXPECT_TRUE(made.ok()) << made.error().message;
    backend_ = std::move(made).value();
    for (int i = 0; i < count; ++i) add_layer();
    for (auto* buffer : {&in_, &out_}) {
      *buffer = std::move(backend_->make_buffer(kMostRows * kHidden, MemoryUse::kState)).value();
    }
  }
  Layers(const Layers&) = delete;
  Layers& operator=(const Layers&) = delete;
  // As of a model: experts, their memory, the backend.
  ~Layers() {
    layers_.clear();
    memory_.clear();
  }

  Backend& backend() { return *backend_; }

  std::vector<float> run(std::size_t layer, const std::vector<float>& x) {
    const std::int64_t count = static_cast<std::int64_t>(x.size()) / kHidden;
    const Tensor in{in_->data(), count, kHidden};
    const Tensor out{out_->data(), count, kHidden};
    backend_->upload(x, in.data);
    backend_->upload(x, out.data);
    backend_->begin_pass({});
    backend_->mixture_of_experts(in, layers_[layer], out);
    const auto ended = backend_->end_pass();
    if (!ended.ok()) return {};
    std::vector<float> y(x.size());
    backend_->download(out.data, y);
    return y;
  }

  // What all layers make of the rows, in one pass after the other.
  std::vector<float> run_all(std::vector<float> x) {
    for (std::size_t layer = 0; layer < layers_.size() && !x.empty(); ++layer) x = run(layer, x);
    return x;
  }

 private:
  void add_layer() {
    ExpertWeights& w = layers_.emplace_back();
    w.experts_per_token = kChosen;
    w.router = std::move(backend_->take_weight(random(kExperts, kHidden, DType::kF32))).value();
    const HostMatrix all = random(3 * kExperts * kWidth, kHidden, type_);  // one after another, as in a file
    for (std::int64_t i = 0; i < 3 * kExperts; ++i) {
      HostMatrix part = all;
      part.data = static_cast<const std::byte*>(all.data) + i * bytes_of(type_, kWidth * kHidden);
      part.rows = i % 3 == 2 ? kHidden : kWidth;
      part.cols = i % 3 == 2 ? kWidth : kHidden;
      auto& list = i % 3 == 0 ? w.gate : i % 3 == 1 ? w.up : w.down;
      list.push_back(std::move(backend_->take_expert(part)).value());
    }
    const auto placed = backend_->place_experts(w);
    EXPECT_TRUE(placed.ok()) << placed.error().message;
  }

  HostMatrix random(std::int64_t rows, std::int64_t cols, DType type) {
    std::uniform_real_distribution<float> uniform(-0.3F, 0.3F);
    std::vector<float> numbers(static_cast<std::size_t>(rows * cols));
    for (float& value : numbers) value = uniform(random_);
    const auto pages = static_cast<std::size_t>((bytes_of(type, rows * cols) + 4095) / 4096);
    std::byte* const memory =
        memory_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(4096, 4096 * pages))).get();
    quantize(type, numbers.data(), rows * cols, memory);
    return {type, memory, rows, cols, nullptr};
  }

  std::unique_ptr<Backend> backend_;
  std::mt19937 random_{5};
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  DType type_;
  std::deque<std::unique_ptr<std::byte, Free>> memory_;
  std::unique_ptr<Buffer> in_;
  std::unique_ptr<Buffer> out_;
  std::deque<ExpertWeights> layers_;
};

std::vector<float> rows(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-2.0F, 2.0F);
  std::vector<float> x(static_cast<std::size_t>(count * kHidden));
  for (float& value : x) value = uniform(random);
  return x;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// --- memory ---------------------------------------------------------------------------------------------------------

class PagesTest : public LockedExpertsTest {
 protected:
  std::span<const std::byte> bytes(std::size_t first, std::size_t count) const {
    return {memory_.get() + first, count};
  }
  static std::size_t page() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

 private:
  std::unique_ptr<std::byte, decltype(&std::free)> memory_{
      static_cast<std::byte*>(std::aligned_alloc(page(), 16 * page())), &std::free};
};

TEST_F(PagesTest, PagesThatHoldNothingElseAreLocked) {
  cuda::LockedMemory memory(kPlenty);
  const std::size_t p = page();
  // Two pieces that touch, [p + 10, 4 p - 5); one with no whole page; one that is exactly a page.
  ASSERT_TRUE(
      memory.lock({bytes(2 * p + 20, 2 * p - 25), bytes(p + 10, p + 10), bytes(6 * p + 1, p), bytes(9 * p, p)}));
  EXPECT_EQ(emulation::counters().registered_bytes, static_cast<std::int64_t>(2 * p));
  const auto holds = [&](std::size_t first, std::size_t count) {
    return memory.holds(bytes(first, count).data(), static_cast<std::int64_t>(count));
  };
  EXPECT_TRUE(holds(2 * p, p));
  EXPECT_FALSE(holds(2 * p - 1, 2));
  EXPECT_FALSE(holds(3 * p - 1, 2));
  EXPECT_FALSE(holds(6 * p + 1, p));
  EXPECT_TRUE(holds(9 * p + 7, p - 7));
}

TEST_F(PagesTest, WhatIsRefusedLeavesNothingLocked) {
  const std::size_t p = page();
  emulation::set_device({.lockable_bytes = 2 * p});
  cuda::LockedMemory memory(kPlenty);
  EXPECT_FALSE(memory.lock({bytes(4 * p, p), bytes(6 * p, 2 * p)}));
  EXPECT_EQ(emulation::counters().registered_bytes, 0);
  EXPECT_FALSE(memory.lock({bytes(4 * p, p)}));  // it is not asked again
  EXPECT_NE(memory.take(10), nullptr);
  EXPECT_EQ(memory.take(static_cast<std::int64_t>(3 * p)), nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(PagesTest, NoMoreIsCountedThanMayBeLocked) {
  cuda::LockedMemory memory(100);
  EXPECT_TRUE(memory.count(60));
  EXPECT_FALSE(memory.count(41));
  EXPECT_EQ(memory.bytes(), 60);
  memory.uncount(60);
  EXPECT_TRUE(memory.count(100));
}

// --- experts --------------------------------------------------------------------------------------------------------

TEST_F(LockedExpertsTest, TheSameBitsByEveryWay) {
  const std::vector<float> x = rows(40, 1);
  const std::vector<float> few = rows(3, 2);
  Layers buffered(2, {.on_device = 5, .threads = 1});
  EXPECT_EQ(buffered.backend().locked_bytes(), 0);
  const std::vector<float> expected = buffered.run_all(x);
  const std::vector<float> expected_few = buffered.run_all(few);
  const std::int64_t all = 2 * kExperts * expert_bytes();
  for (const bool in_place : {true, false}) {
    emulation::set_device({.locks_mappings = in_place});
    Layers locked(2, {.on_device = 5, .threads = 1, .locked_bytes = kPlenty});
    EXPECT_EQ(locked.backend().locked_bytes(), all);
    EXPECT_EQ(emulation::counters().registered_bytes > 0, in_place);
    const std::int64_t before = emulation::counters().copied_registered_bytes;
    EXPECT_TRUE(same_bits(locked.run_all(x), expected));
    EXPECT_TRUE(same_bits(locked.run_all(few), expected_few));
    EXPECT_EQ(emulation::counters().copied_registered_bytes - before >= 7 * expert_bytes(), in_place);
  }
}

// The buffers remain, and the blocks that could be locked.
TEST_F(LockedExpertsTest, WithoutEnoughMemoryAsMuchAsThereIs) {
  const std::vector<float> x = rows(40, 1);
  const std::vector<float> expected = Layers(3, {.on_device = 2, .threads = 1}).run_all(x);
  Layers none(3, {.on_device = 2, .threads = 1, .locked_bytes = 5});
  EXPECT_EQ(none.backend().locked_bytes(), 0);
  EXPECT_TRUE(same_bits(none.run_all(x), expected));
  emulation::set_device({.locks_mappings = false});
  Layers two(3, {.on_device = 2, .threads = 1, .locked_bytes = 2 * kExperts * expert_bytes()});
  EXPECT_EQ(two.backend().locked_bytes(), 2 * kExperts * expert_bytes());
  EXPECT_TRUE(same_bits(two.run_all(x), expected));
}

// Several prompts, and blocks out of order.
std::vector<std::vector<float>> ask(Layers& layers) {
  std::vector<std::vector<float>> results;
  for (unsigned seed = 1; seed <= 3; ++seed) results.push_back(layers.run_all(rows(seed == 2 ? 20 : 40, seed)));
  for (const std::size_t layer : {1U, 0U, 2U}) results.push_back(layers.run(layer, rows(40, 4)));
  results.push_back(layers.run_all(rows(40, 5)));
  return results;
}

// However far the streams are apart, and whatever was on its way when another block came.
TEST_F(LockedExpertsTest, TheSameBitsWhereverTheStreamsAre) {
  struct Case {
    DType type;
    std::int64_t on_gpu;
    std::int64_t staging_bytes;
  };
  const Case cases[] = {{kCodes, 0, 4 * kSlotBytes},
                        {kCodes, 4, 4 * kSlotBytes},
                        {kCodes, 4, 24 * kSlotBytes},
                        {kNumbers, 3, 4 * expert_bytes(kNumbers)}};
  for (const Case& one : cases) {
    emulation::set_timing(emulation::Timing::kAtOnce);
    Layers buffered(3, {.on_device = 0, .threads = 1}, one.type);
    const std::vector<std::vector<float>> expected = ask(buffered);
    using emulation::Timing;
    for (const Timing timing : {Timing::kLate, Timing::kOthersFirst, Timing::kOthersLast}) {
      SCOPED_TRACE(std::to_string(static_cast<int>(timing)) + " in case " + std::to_string(&one - cases));
      emulation::set_timing(timing);
      const ExpertBudget budget = {
          .on_device = one.on_gpu, .staging_bytes = one.staging_bytes, .threads = 1, .locked_bytes = kPlenty};
      Layers layers(3, budget, one.type);
      const std::vector<std::vector<float>> results = ask(layers);
      for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(same_bits(results[i], expected[i])) << i;
    }
  }
}

TEST_F(LockedExpertsTest, TheNextBlocksExpertsAreOnTheirWayBefore) {
  const auto copied = [] { return emulation::counters().copied_registered_bytes; };
  Layers layers(2, {.on_device = 0, .staging_bytes = 1 << 20, .threads = 1, .locked_bytes = kPlenty}, kNumbers);
  const std::vector<float> x = rows(40, 1);  // touch all experts
  const std::int64_t begin = copied();
  layers.run(0, x);
  EXPECT_EQ(copied() - begin, 2 * kExperts * expert_bytes(kNumbers));  // its own, and those of the other
  layers.run(1, x);
  EXPECT_EQ(copied() - begin, 3 * kExperts * expert_bytes(kNumbers));  // those of the first again
  layers.run(0, rows(1, 2));
  EXPECT_EQ(copied() - begin, 3 * kExperts * expert_bytes(kNumbers));  // the CPU computes
  layers.run(0, x);
  EXPECT_EQ(copied() - begin, 4 * kExperts * expert_bytes(kNumbers));
  const std::int64_t before = copied();
  layers.run(1, rows(9, 3));  // too few rows to know what comes
  EXPECT_EQ(copied(), before);
}

TEST_F(LockedExpertsTest, NothingIsTakenOnceTheModelIsThere) {
  Layers layers(2, {.on_device = 3, .threads = 1, .locked_bytes = kPlenty});
  const emulation::Counters before = emulation::counters();
  for (const std::int64_t count : {1, 8, 20, 40}) layers.run_all(rows(count, 1));
  const emulation::Counters after = emulation::counters();
  EXPECT_EQ(after.host_allocations, before.host_allocations);
  EXPECT_EQ(after.registered_bytes, before.registered_bytes);
}

TEST_F(LockedExpertsTest, AFailureWhileTheNextAreOnTheirWayIsAnError) {
  using emulation::Timing;
  for (int fault = 1; fault < 200; fault += 23) {
    SCOPED_TRACE(fault);
    emulation::reset();
    emulation::set_timing(fault % 2 == 0 ? Timing::kOthersFirst : Timing::kAtOnce);
    Layers layers(2, {.on_device = 3, .staging_bytes = 4 * kSlotBytes, .threads = 1, .locked_bytes = kPlenty});
    layers.run_all(rows(40, 2));  // working memory is there
    emulation::fail_after(fault, cudaErrorIllegalAddress);
    const std::vector<float> y = layers.run_all(rows(40, 1));
    EXPECT_EQ(y.empty(), !layers.backend().status().ok());
  }
  emulation::reset();
}

}  // namespace
}  // namespace lectern::engine
