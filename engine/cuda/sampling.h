// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "cuda/platform.h"
#include "engine/types.h"

// Turns logits into tokens on the device, by the rules of runtime/sampler.h and with the same choice for the same
// random number wherever rounding does not decide: weights are numbers of 2^-44 here, whose sums are exact and do not
// depend on the order of the threads. Nothing is sorted: thresholds are found digit by digit.
namespace lectern::engine::cuda {

inline constexpr std::uint8_t kInPrompt = 1;  // flags of SampledRow::seen
inline constexpr std::uint8_t kGenerated = 2;
inline constexpr TokenId kNoToken = -1;

// How one row is drawn, in device memory; the fields mean what they mean in SamplingOptions. A row of temperature 0
// takes the best token.
struct SampledRow {
  double uniform = 0;                  // the random number, in [0, 1)
  const std::uint8_t* seen = nullptr;  // [vocabulary] on the device: where each token occurred; null: nowhere
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float presence_penalty = 0;
  float repetition_penalty = 1;
  std::int32_t top_k = 0;
};

struct Sampling {
  const float* logits = nullptr;        // [rows, stride]
  const SampledRow* options = nullptr;  // [rows]
  TokenId* tokens = nullptr;            // [rows]; kNoToken where a logit is NaN or infinite
  std::byte* memory = nullptr;          // sampling_bytes(), not initialised
  std::int64_t stride = 0;
  std::int32_t vocabulary = 0;  // columns from here on are padding
  std::int32_t rows = 0;
};

inline constexpr int kSamplingSlices = 64;  // blocks that share a row
inline constexpr int kSamplingThreads = 256;

std::int64_t sampling_bytes(std::int64_t rows, std::int64_t vocabulary);

__global__ void find_best(Sampling job);
__global__ void weigh_tokens(Sampling job);
__global__ void draw_tokens(Sampling job);
__global__ void mark_seen(std::uint8_t* seen, const TokenId* tokens, std::int32_t count, std::int32_t vocabulary,
                          std::uint32_t flag);

// Queues the kernels with run(grid, kernel, arguments...).
template <class Run>
void sample_rows(const Run& run, const Sampling& job) {
  const Grid grid = {dim3(kSamplingSlices, static_cast<unsigned>(job.rows)), kSamplingThreads};
  run(grid, find_best, job);
  run(grid, weigh_tokens, job);
  run(grid, draw_tokens, job);
}

// seen[token] |= flag for every token of the list within the vocabulary.
template <class Run>
void mark_tokens(const Run& run, std::uint8_t* seen, const TokenId* tokens, std::int32_t count, std::int32_t vocabulary,
                 std::uint8_t flag) {
  run(Grid{1, kSamplingThreads}, mark_seen, seen, tokens, count, vocabulary, std::uint32_t{flag});
}

}  // namespace lectern::engine::cuda
