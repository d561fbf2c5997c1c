// SPDX-License-Identifier: GPL-3.0-or-later
// Tokens drawn on the device against those of the host's sampler, for the same random numbers.
#include "cuda/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "runtime/sampler.h"
#include "support/cuda_emulation/cuda_emulation.h"

namespace lectern::engine::cuda {
namespace {

using Logits = std::vector<float>;

// Memory on the device with what a host array holds.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, std::max<std::size_t>(1, size_ * sizeof(T))), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return static_cast<T*>(data_); }
  std::vector<T> values() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  void* data_ = nullptr;
  std::size_t size_;
};

struct Row {
  Logits logits;
  SamplingOptions options;
  std::vector<TokenId> prompt;
  std::vector<TokenId> generated;
};

class CudaSampling : public ::testing::TestWithParam<emulation::ThreadOrder> {
 protected:
  CudaSampling() {
    emulation::reset();
    emulation::set_thread_order(GetParam());
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
  }
  ~CudaSampling() override {
    cudaStreamDestroy(stream_);
    EXPECT_EQ(emulation::check_guards(), "");
    emulation::reset();
  }

  auto runner() {
    return [this](const Grid& grid, auto kernel, const auto&... arguments) {
      ASSERT_EQ(launch(stream_, grid, kernel, arguments...), cudaSuccess);
    };
  }

  // `vocabulary` tokens, followed by `padding` columns that are better than all of them.
  std::vector<TokenId> sample(std::span<const Row> rows, int vocabulary, int padding = 0) {
    Logits logits;
    std::vector<TokenChoice> options;
    const DeviceArray<std::uint8_t> seen(flags_before(rows, vocabulary));
    for (const Row& row : rows) {
      TokenChoice& sampled = options.emplace_back();
      sampled.vocabulary = vocabulary;
      sampled.uniform = CounterRandom(row.options.seed).next();
      sampled.temperature = row.options.temperature;
      sampled.top_k = row.options.top_k;
      sampled.top_p = row.options.top_p;
      sampled.min_p = row.options.min_p;
      sampled.presence_penalty = row.options.presence_penalty;
      sampled.repetition_penalty = row.options.repetition_penalty;
      if (!row.prompt.empty() || !row.generated.empty()) {
        sampled.seen = seen.data() + (options.size() - 1) * static_cast<std::size_t>(vocabulary);
        const std::size_t listed = std::min(row.generated.size(), kListed);
        sampled.generated = static_cast<std::int32_t>(listed);
        sampled.settled = sampled.generated;
        std::copy_n(row.generated.begin(), listed, sampled.tokens);
      }
      logits.insert(logits.end(), row.logits.begin(), row.logits.end());
      logits.insert(logits.end(), static_cast<std::size_t>(padding), 1e6F);
    }
    const DeviceArray<float> logits_there(logits);
    const DeviceArray<TokenChoice> options_there(options);
    const DeviceArray<TokenId> tokens(std::vector<TokenId>(rows.size(), -7));
    const auto count = static_cast<std::int32_t>(rows.size());
    const DeviceArray<std::byte> memory(
        std::vector<std::byte>(static_cast<std::size_t>(sampling_bytes(count, vocabulary + padding)), std::byte{0xcd}));
    sample_rows(
        runner(),
        Sampling{logits_there.data(), options_there.data(), tokens.data(), memory.data(), vocabulary + padding, count},
        {});
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(seen.values(), flags_after(rows, vocabulary));
    return tokens.values();
  }

  // Of every row, one byte per token. The first generated tokens are listed in the choice, which marks them.
  static constexpr std::size_t kListed = 5;
  static std::vector<std::uint8_t> flags(std::span<const Row> rows, int vocabulary, std::size_t unmarked) {
    std::vector<std::uint8_t> flags(rows.size() * static_cast<std::size_t>(vocabulary));
    std::uint8_t* seen = flags.data();
    for (const Row& row : rows) {
      for (const TokenId token : row.prompt) seen[token] |= kInPrompt;
      for (std::size_t i = unmarked; i < row.generated.size(); ++i) seen[row.generated[i]] |= kGenerated;
      seen += vocabulary;
    }
    return flags;
  }
  static std::vector<std::uint8_t> flags_before(std::span<const Row> rows, int vocabulary) {
    return flags(rows, vocabulary, kListed);
  }
  static std::vector<std::uint8_t> flags_after(std::span<const Row> rows, int vocabulary) {
    return flags(rows, vocabulary, 0);
  }

  // The host's choice. Generated tokens are made so by a sampler that can choose nothing else.
  static TokenId expected(const Row& row, int vocabulary) {
    auto sampler = Sampler::create(row.options, vocabulary);
    EXPECT_TRUE(sampler.ok());
    sampler->add_prompt(row.prompt);
    if (row.generated.empty()) return *sampler->sample(row.logits);
    return with_generated(row, vocabulary);
  }

  // Penalties of generated tokens put into the logits, with the arithmetic of the sampler.
  static TokenId with_generated(const Row& row, int vocabulary) {
    Row changed = row;
    std::vector<int> seen(static_cast<std::size_t>(vocabulary), 0);
    for (const TokenId token : row.prompt) seen[static_cast<std::size_t>(token)] |= 1;
    for (const TokenId token : row.generated) seen[static_cast<std::size_t>(token)] |= 2;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      float& logit = changed.logits[i];
      if (seen[i] == 0) continue;
      logit = logit > 0 ? logit / row.options.repetition_penalty : logit * row.options.repetition_penalty;
      if ((seen[i] & 2) != 0) logit -= row.options.presence_penalty;
    }
    changed.prompt.clear();
    changed.generated.clear();
    changed.options.presence_penalty = 0;
    changed.options.repetition_penalty = 1;
    return expected(changed, vocabulary);
  }

  void expect_host_choices(std::span<const Row> rows, int vocabulary, int padding = 0) {
    const std::vector<TokenId> tokens = sample(rows, vocabulary, padding);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const SamplingOptions& o = rows[i].options;
      EXPECT_EQ(tokens[i], expected(rows[i], vocabulary))
          << "row " << i << " of " << vocabulary << ": temperature " << o.temperature << " top_k " << o.top_k
          << " top_p " << o.top_p << " min_p " << o.min_p << " seed " << o.seed;
    }
  }

  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(random_); }
  int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool chance() { return whole(0, 1) == 1; }

  Logits random_logits(int vocabulary) {
    Logits logits(static_cast<std::size_t>(vocabulary));
    std::normal_distribution<float> normal(0.0F, uniform(0.1F, 6.0F));
    const bool ties = chance();
    for (float& logit : logits) logit = ties ? std::round(normal(random_)) / 2 : normal(random_);
    return logits;
  }

  Row random_row(int vocabulary) {
    Row row;
    row.logits = random_logits(vocabulary);
    row.options.temperature = whole(0, 9) == 0 ? 0.0F : uniform(0.2F, 2.0F);
    if (chance()) row.options.top_k = whole(1, 2 * vocabulary);
    if (chance()) row.options.top_k = whole(1, 40);
    if (chance()) row.options.top_p = whole(0, 9) == 0 ? 0.0F : uniform(0.05F, 0.9999F);
    if (chance()) row.options.min_p = uniform(0.0F, 0.3F);
    row.options.seed = random_();
    if (!chance()) return row;
    row.options.repetition_penalty = uniform(0.8F, 1.5F);
    row.options.presence_penalty = uniform(-1.0F, 2.0F);
    for (int i = 0; i < 20; ++i) (chance() ? row.prompt : row.generated).push_back(whole(0, vocabulary - 1));
    return row;
  }

  cudaStream_t stream_ = nullptr;
  std::mt19937 random_{23};
};

INSTANTIATE_TEST_SUITE_P(Orders, CudaSampling,
                         ::testing::Values(emulation::ThreadOrder::kForward, emulation::ThreadOrder::kReverse));

TEST_P(CudaSampling, ChoosesAsTheHostDoes) {
  for (const int vocabulary : {1, 2, 7, 63, 500, 3001}) {
    for (int repeat = 0; repeat < 2; ++repeat) {
      std::vector<Row> rows;
      for (int i = 0; i < 10; ++i) rows.push_back(random_row(vocabulary));
      expect_host_choices(rows, vocabulary, whole(0, 3));
    }
  }
}

TEST_P(CudaSampling, WholeVocabulary) {
  constexpr int kVocabulary = 151'936;
  std::vector<Row> rows(4);
  for (Row& row : rows) {
    row.logits.resize(kVocabulary);
    std::normal_distribution<float> normal(0.0F, 2.5F);
    for (float& logit : row.logits) logit = normal(random_);
    row.options.temperature = 0.7F;
    row.options.seed = random_();
  }
  rows[1].options.top_k = 20;
  rows[1].options.top_p = 0.8F;
  rows[2].options.top_p = 0.95F;
  rows[3].options.temperature = 0;
  expect_host_choices(rows, kVocabulary);
}

TEST_P(CudaSampling, EqualsRankByIndex) {
  Row row;
  row.logits.assign(700, 1.0F);
  std::vector<Row> rows(8, row);
  rows[1].options.temperature = 1;
  rows[1].options.top_k = 1;
  for (std::size_t i = 2; i < rows.size(); ++i) {
    rows[i].options.temperature = 1;
    rows[i].options.top_k = 3;
    rows[i].options.seed = i;
    rows[i].logits[5] = -0.0F;
    rows[i].logits[4] = 0.0F;
  }
  expect_host_choices(rows, 700);
  EXPECT_EQ(sample(rows, 700)[0], 0);
}

TEST_P(CudaSampling, NumbersThatAreNoneAreReportedForTheirRow) {
  Row row;
  row.logits.assign(300, 0.5F);
  row.options.temperature = 1;
  std::vector<Row> rows(4, row);
  rows[1].logits[299] = std::numeric_limits<float>::quiet_NaN();
  rows[2].logits[0] = -std::numeric_limits<float>::infinity();
  rows[2].options.temperature = 0;
  const std::vector<TokenId> tokens = sample(rows, 300);
  EXPECT_EQ(tokens[1], kNoToken);
  EXPECT_EQ(tokens[2], kNoToken);
  EXPECT_EQ(tokens[0], expected(rows[0], 300));
  EXPECT_EQ(tokens[3], tokens[0]);
}

TEST_P(CudaSampling, ARowDoesNotDependOnTheOthers) {
  std::vector<Row> rows;
  for (int i = 0; i < 5; ++i) rows.push_back(random_row(400));
  const std::vector<TokenId> together = sample(rows, 400);
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(sample({&rows[i], 1}, 400)[0], together[i]);
}

}  // namespace
}  // namespace lectern::engine::cuda
