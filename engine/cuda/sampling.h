// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/platform.h"
#include "engine/types.h"
#include "ops/token_choice.h"

// Turns logits into tokens on the device, by the rules of runtime/sampler.h and with the same choice for the same
// random number wherever rounding does not decide: weights are numbers of 2^-44 here, whose sums are exact and do not
// depend on the order of the threads. Nothing is sorted: thresholds are found digit by digit.
namespace lectern::engine::cuda {

struct Sampling {
  const float* logits = nullptr;         // [rows, columns]
  const TokenChoice* options = nullptr;  // [rows], on the device
  TokenId* tokens = nullptr;             // [rows]; kNoToken where a logit is NaN or infinite
  std::byte* memory = nullptr;           // sampling_bytes(), not initialised
  std::int32_t columns = 0;
  std::int32_t rows = 0;
};

// What the rows of a job need, which does not change when it is repeated.
struct SamplingSteps {
  bool draws = true;  // some are not of temperature 0
  bool marks = true;  // some have `seen`
};

inline constexpr int kMostSlices = 64;     // blocks that share a row
inline constexpr int kSliceTokens = 2048;  // as far as there are tokens for them
inline constexpr int kSamplingThreads = 256;

inline constexpr std::int64_t kMostSampledTokens = std::int64_t{1} << 18;  // whose weights a sum can hold

std::int64_t sampling_bytes(std::int64_t rows, std::int64_t columns);

__global__ void find_best(Sampling job);
__global__ void weigh_tokens(Sampling job);
__global__ void draw_tokens(Sampling job);
__global__ void mark_settled(Sampling job);

// Queues the kernels with run(grid, kernel, arguments...).
template <class Run>
void sample_rows(const Run& run, const Sampling& job, const SamplingSteps& steps) {
  const int slices = std::clamp((job.columns + kSliceTokens - 1) / kSliceTokens, 1, kMostSlices);
  const Grid grid = {dim3(static_cast<unsigned>(slices), static_cast<unsigned>(job.rows)), kSamplingThreads};
  run(grid, find_best, job);
  run(grid, weigh_tokens, job);
  if (steps.draws) run(grid, draw_tokens, job);
  if (steps.marks) run(Grid{1, kWarp}, mark_settled, job);
}

}  // namespace lectern::engine::cuda
