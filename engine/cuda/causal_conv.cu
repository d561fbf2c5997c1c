// SPDX-License-Identifier: Apache-2.0
// Causal depthwise convolution. A row's result is the same sum in the same order however the rows are cut.
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

constexpr int kConvThreads = 128;
constexpr std::int64_t kConvRows = 16;  // of one thread

// One thread for some rows of one channel, with the last inputs in registers.
template <int kTaps>
__global__ void convolve_few_taps(const float* u, const float* w, const float* state, float* y, std::int64_t rows,
                                  std::int64_t channels) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.y) * kConvThreads + static_cast<std::int64_t>(threadIdx.x);
  if (c >= channels) return;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kConvRows;
  const std::int64_t count = rows - first < kConvRows ? rows - first : kConvRows;
  float weights[kTaps];
  float inputs[kTaps];
#pragma unroll
  for (int j = 0; j < kTaps; ++j) weights[j] = w[c * kTaps + j];
#pragma unroll
  for (int j = 0; j < kTaps - 1; ++j) {
    const std::int64_t t = first - (kTaps - 1) + j;
    inputs[j + 1] = t < 0 ? state[(t + kTaps - 1) * channels + c] : u[t * channels + c];
  }
#pragma unroll 8
  for (std::int64_t i = 0; i < count; ++i) {
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) inputs[j] = inputs[j + 1];
    inputs[kTaps - 1] = u[(first + i) * channels + c];
    float sum = 0.0F;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) sum = fmaf(weights[j], inputs[j], sum);
    y[(first + i) * channels + c] = silu(sum);
  }
}

__global__ void convolve(const float* u, const float* w, std::int64_t taps, const float* state, float* y,
                         std::int64_t channels) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.y) * kConvThreads + static_cast<std::int64_t>(threadIdx.x);
  if (c >= channels) return;
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  float sum = 0.0F;
  for (std::int64_t j = 0; j < taps; ++j) {
    const std::int64_t t = row - taps + 1 + j;
    sum = fmaf(w[c * taps + j], t < 0 ? state[(t + taps - 1) * channels + c] : u[t * channels + c], sum);
  }
  y[row * channels + c] = silu(sum);
}

// One thread for all rows of one channel, at most kSmallBatchRows; afterwards either the state advances or u is kept.
__global__ void step_few_taps(const float* u, const float* w, float* state, float* kept, float* y, int rows,
                              std::int64_t channels) {
  constexpr int kTaps = 4;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kConvThreads + static_cast<std::int64_t>(threadIdx.x);
  if (c >= channels) return;
  float weights[kTaps];
  float inputs[kTaps - 1 + kSmallBatchRows];
#pragma unroll
  for (int j = 0; j < kTaps; ++j) weights[j] = w[c * kTaps + j];
#pragma unroll
  for (int j = 0; j < kTaps - 1; ++j) inputs[j] = state[j * channels + c];
#pragma unroll
  for (int t = 0; t < kSmallBatchRows; ++t) inputs[kTaps - 1 + t] = t < rows ? u[t * channels + c] : 0.0F;
#pragma unroll
  for (int t = 0; t < kSmallBatchRows; ++t) {
    if (t >= rows) break;
    float sum = 0.0F;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) sum = fmaf(weights[j], inputs[t + j], sum);
    y[t * channels + c] = silu(sum);
    if (kept != nullptr) {
      kept[t * channels + c] = inputs[kTaps - 1 + t];
    } else if (t == rows - 1) {
#pragma unroll
      for (int j = 0; j < kTaps - 1; ++j) state[j * channels + c] = inputs[t + 1 + j];
    }
  }
}

// Row i takes the place of an earlier one, so that what is still to be read comes later.
__global__ void keep_last_rows(const float* u, std::int64_t rows, std::int64_t kept, std::int64_t channels,
                               float* state) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kConvThreads + static_cast<std::int64_t>(threadIdx.x);
  if (c >= channels) return;
  for (std::int64_t i = 0; i < kept; ++i) {
    const std::int64_t t = rows - kept + i;
    state[i * channels + c] = t < 0 ? state[(kept + t) * channels + c] : u[t * channels + c];
  }
}

}  // namespace

void CudaBackend::causal_conv(const Tensor& u, const float* w, std::int64_t taps, const float* state, const Tensor& y) {
  const unsigned columns = blocks_for(u.cols, kConvThreads);
  if (taps == 4) {
    const Grid grid = {dim3(blocks_for(u.rows, kConvRows), columns), kConvThreads, 0};
    run(grid, convolve_few_taps<4>, u.data, w, state, y.data, u.rows, u.cols);
    return;
  }
  run({dim3(static_cast<unsigned>(u.rows), columns), kConvThreads, 0}, convolve, u.data, w, taps, state, y.data,
      u.cols);
}

void CudaBackend::step_conv(const Tensor& u, const float* w, std::int64_t taps, float* state, float* kept,
                            const Tensor& y) {
  if (taps != 4 || u.rows > kSmallBatchRows) return Backend::step_conv(u, w, taps, state, kept, y);
  run({blocks_for(u.cols, kConvThreads), kConvThreads, 0}, step_few_taps, u.data, w, state, kept, y.data,
      static_cast<int>(u.rows), u.cols);
}

void CudaBackend::advance_conv(const Tensor& u, std::int64_t taps, float* state) {
  run({blocks_for(u.cols, kConvThreads), kConvThreads, 0}, keep_last_rows, u.data, u.rows, taps - 1, u.cols, state);
}

}  // namespace lectern::engine::cuda
