// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "cuda/warp.h"

// What norms are made of, for all kernels that must get the same bits.
namespace lectern::engine::cuda {

inline constexpr std::int64_t kQuad = 4;         // numbers that one access of 16 bytes moves
inline constexpr std::int64_t kWarpWidth = 512;  // groups up to this width take a warp, wider ones a block

// Up to four numbers from `from` on, the others 0. `wide`: 16-byte accesses are possible.
__device__ inline float4 load_quad(const float* from, std::int64_t count, bool wide) {
  if (wide && count >= kQuad) return *reinterpret_cast<const float4*>(from);
  float4 quad = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
  if (count > 0) quad.x = from[0];
  if (count > 1) quad.y = from[1];
  if (count > 2) quad.z = from[2];
  if (count > 3) quad.w = from[3];
  return quad;
}

__device__ inline void store_quad(const float4& quad, float* to, std::int64_t count, bool wide) {
  if (wide && count >= kQuad) {
    *reinterpret_cast<float4*>(to) = quad;
    return;
  }
  if (count > 0) to[0] = quad.x;
  if (count > 1) to[1] = quad.y;
  if (count > 2) to[2] = quad.z;
  if (count > 3) to[3] = quad.w;
}

__device__ inline float square_of(const float4& a) { return fmaf(a.w, a.w, fmaf(a.z, a.z, fmaf(a.y, a.y, a.x * a.x))); }

inline constexpr int kMostNormWarps = 16;

// Warps that share a group: thread i of them takes quads i, i + 32 warps, ..
__host__ __device__ constexpr int norm_warps(std::int64_t width) {
  if (width <= kWarpWidth) return 1;
  const std::int64_t warps = (width + kWarp * kQuad - 1) / (kWarp * kQuad);
  return warps < kMostNormWarps ? static_cast<int>(warps) : kMostNormWarps;
}

__device__ inline float norm_factor(float squares, std::int64_t width, float eps) {
  return 1.0F / sqrtf(squares / static_cast<float>(width) + eps);
}

// The factors of `groups` groups that lie behind one another, by all threads of a block; partial: shared memory,
// norm_warps() of each group. The block's warps stand for those that share a group when it is normed on its own.
__device__ inline void find_norm_factors(const float* x, int groups, int width, float eps, bool wide, float* factors,
                                         float* partial) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int block_warps = static_cast<int>(blockDim.x) / kWarp;
  const int warps = norm_warps(width);
  for (int item = warp; item < groups * warps; item += block_warps) {
    const float* from = x + static_cast<std::int64_t>(item / warps) * width;
    float total = 0.0F;
    for (int at = (item % warps * kWarp + lane) * static_cast<int>(kQuad); at < width;
         at += warps * kWarp * static_cast<int>(kQuad)) {
      total += square_of(load_quad(from + at, width - at, wide));
    }
    total = warp_sum(total);
    if (lane == 0) partial[item] = total;
  }
  __syncthreads();
  for (int group = warp; group < groups; group += block_warps) {
    const float squares = warp_sum(lane < warps ? partial[group * warps + lane] : 0.0F);
    if (lane == 0) factors[group] = norm_factor(squares, width, eps);
  }
  __syncthreads();
}

}  // namespace lectern::engine::cuda
