// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/delta_chunks.h"
#include "cuda/mma.h"

// Products of matrices of a chunk on the matrix units, for the two kernels of the chunked delta rule.
namespace lectern::engine::cuda::delta {

inline constexpr int kRows = static_cast<int>(kChunkRows);
inline constexpr int kHead = 128;  // key_dim and value_dim
inline constexpr int kThreads = 256;
inline constexpr int kTile = 16;
inline constexpr int kRowTiles = kRows / kTile;
inline constexpr int kStep = 8;  // columns of a fragment
inline constexpr int kRowSteps = kRows / kStep;
inline constexpr int kHeadSteps = kHead / kStep;
// Fragments, in float4.
inline constexpr int kFragment = kWarp;
inline constexpr int kKeyMatrix = kRowTiles * kHeadSteps * kFragment;
inline constexpr int kPairMatrix = kRowTiles * kRowSteps * kFragment;

// A number as the sum of two TF32 numbers, of which the matrix units ignore the last 13 bits: exact to 4e-7. Products
// of such sums leave out only that of the lower parts, at most 1e-6. (BF16 in two parts would take half the time, but
// errs by 6e-5 where keys resemble one another.)
struct Split {
  std::uint32_t upper;
  std::uint32_t lower;
};

__device__ inline Split split(float a) {
  const std::uint32_t upper = __float_as_uint(a) & 0xffffe000U;
  return {upper, __float_as_uint(a - __uint_as_float(upper))};
}

// A fragment of the left side of a product: 16 rows, 8 columns. The matrix units' columns i and i + 4 are columns 2 i
// and 2 i + 1 of the matrix, on the right side too, so that what they give is laid out as they want it.
struct LeftFragment {
  std::uint32_t upper[4];
  std::uint32_t lower[4];

  __device__ explicit LeftFragment(const float4& numbers) {
    const float list[4] = {numbers.x, numbers.y, numbers.z, numbers.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Split s = split(list[i]);
      upper[i] = s.upper;
      lower[i] = s.lower;
    }
  }
};

// The same of the right side, 8 rows and 8 columns: rows 2 pair and 2 pair + 1 of one column to a lane.
struct RightFragment {
  std::uint32_t upper[2];
  std::uint32_t lower[2];

  __device__ RightFragment(float first, float second) {
    const Split a = split(first);
    const Split b = split(second);
    upper[0] = a.upper;
    upper[1] = b.upper;
    lower[0] = a.lower;
    lower[1] = b.lower;
  }
};

// d += a b
__device__ inline void multiply(float (&d)[4], const LeftFragment& a, const RightFragment& b) {
  mma_tf32(d, a.lower, b.upper);
  mma_tf32(d, a.upper, b.lower);
  mma_tf32(d, a.upper, b.upper);
}

struct Lane {
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int warp = static_cast<int>(threadIdx.x) / kWarp;
  int row = lane / 4;   // of a fragment, and row + 8
  int pair = lane % 4;  // columns 2 pair and 2 pair + 1, and those + 8
  __device__ Lane() {}
};

}  // namespace lectern::engine::cuda::delta
