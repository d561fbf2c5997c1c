// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/products.h"

// Products of stored weights with up to eight rows by the warps of a block.
namespace lectern::engine::cuda {

inline constexpr int kBlockWarps = 8;
inline constexpr unsigned kBlockThreads = kBlockWarps * kWarp;

// y: [T, w.rows]
struct RowProduct {
  DeviceMatrix w;
  float* y;
  std::int64_t rows;  // T
  RowShare share;
  std::int64_t accumulate;
};

__device__ inline void put(const RowProduct& p, std::int64_t t, std::int64_t row, float value) {
  float* to = p.y + t * p.w.rows + row;
  *to = p.accumulate != 0 ? *to + value : value;
}

// Sums of the warps that share rows, in shared memory.
template <int Values>
using Partial = float[kBlockWarps][Values];

// Rows [first, first + rows_at_once) of the weights, by the p.share.warps warps of which this is number `part`, for
// rows 0 to `last` of x, which are rows t_first and on of the product.
template <DType Type, int WeightRows, int Rows>
__device__ inline void multiply_rows(const RowProduct& p, const Activations<Type>& x, std::int64_t first,
                                     std::int64_t t_first, Partial<WeightRows * Rows>& partial) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int part = warp % p.share.warps;
  const int lanes = p.share.lanes;
  std::int64_t rows[WeightRows];
  bool exists[WeightRows];
#pragma unroll
  for (int r = 0; r < WeightRows; ++r) {
    rows[r] = first + r * (kWarp / lanes) + lane / lanes;
    exists[r] = rows[r] < p.w.rows;
    if (!exists[r]) rows[r] = p.w.rows - 1;
  }
  float sums[WeightRows][Rows];
  dot_rows<Type, WeightRows, Rows>(p.w, rows, part * lanes + lane % lanes, p.share.warps * lanes, x, sums);
#pragma unroll
  for (int r = 0; r < WeightRows; ++r) {
#pragma unroll
    for (int t = 0; t < Rows; ++t) {
      const float sum = share_sum(sums[r][t], lanes);
      if (p.share.warps > 1) {
        if (lane == 0) partial[warp][r * Rows + t] = sum;
      } else if (lane % lanes == (r * Rows + t) % lanes && t <= x.last && exists[r]) {
        put(p, t_first + t, rows[r], sum);
      }
    }
  }
  if (p.share.warps == 1) return;
  __syncthreads();
  if (part == 0 && lane < WeightRows * Rows && lane % Rows <= x.last && first + lane / Rows < p.w.rows) {
    float sum = partial[warp][lane];
    for (int other = 1; other < p.share.warps; ++other) sum += partial[warp + other][lane];
    put(p, t_first + lane % Rows, first + lane / Rows, sum);
  }
  __syncthreads();
}

// Rows of the weights that a warp multiplies at the same time: their loads overlap, and they share what is read of x.
inline constexpr int kWeightRows = 2;

// Rows of the weights that a block multiplies at a time.
__host__ __device__ constexpr std::int64_t step_rows(const RowShare& share) {
  return std::int64_t{kWeightRows} * (kWarp / share.lanes) * (kBlockWarps / share.warps);
}

// The part of the weights' rows that block `block` of `blocks` has.
template <DType Type, int Rows>
__device__ inline void multiply_share(const RowProduct& p, const Activations<Type>& x, std::int64_t block,
                                      std::int64_t blocks, std::int64_t t_first, Partial<kWeightRows * Rows>& partial) {
  const int team = static_cast<int>(threadIdx.x) / kWarp / p.share.warps;
  const int own = team * kWeightRows * (kWarp / p.share.lanes);
  const std::int64_t step = step_rows(p.share);
  for (std::int64_t first = block * step; first < p.w.rows; first += blocks * step) {
    multiply_rows<Type, kWeightRows, Rows>(p, x, first + own, t_first, partial);
  }
}

// Blocks that must fit on a multiprocessor.
template <int Rows>
inline constexpr int kLeastBlocks = Rows == 1 ? 3 : 2;

inline RowShare share_of(int units, std::int64_t rows, int multiprocessors) {
  RowShare share;
  share.lanes = 1;
  while (share.lanes < kWarp && share.lanes < units) share.lanes *= 2;
  // Sixteen warps on each multiprocessor, if every lane still has something to read.
  while (share.warps < kBlockWarps && 2 * share.warps * share.lanes <= units &&
         rows * share.lanes / kWarp * share.warps < std::int64_t{16} * multiprocessors) {
    share.warps *= 2;
  }
  return share;
}

inline unsigned quotient_up(std::int64_t number, std::int64_t divisor) {
  return static_cast<unsigned>((number + divisor - 1) / divisor);
}

}  // namespace lectern::engine::cuda
