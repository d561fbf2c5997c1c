// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "cuda/platform.h"

// Rotary positions, for all kernels that must get the same bits.
namespace lectern::engine::cuda {

// cos and sin of an angle to the accuracy of a float, however large it is: whole and quarter turns are taken off in
// double, and the rest, at most pi / 4, goes into the Taylor series.
__device__ inline float2 direction(double angle) {
  constexpr double kTurn = 6.283185307179586476925;
  const double turns = angle * (1.0 / kTurn);
  const double quarters = rint(turns * 4.0);
  const auto x = static_cast<float>((turns - quarters * 0.25) * kTurn);
  const float square = x * x;
  float s = 2.7557319e-6F;
  s = fmaf(s, square, -1.9841270e-4F);
  s = fmaf(s, square, 8.3333333e-3F);
  s = fmaf(s, square, -1.6666667e-1F);
  s = fmaf(s * square, x, x);
  float c = -2.7557319e-7F;
  c = fmaf(c, square, 2.4801587e-5F);
  c = fmaf(c, square, -1.3888889e-3F);
  c = fmaf(c, square, 4.1666667e-2F);
  c = fmaf(c, square, -0.5F);
  c = fmaf(c, square, 1.0F);
  const int quarter = static_cast<int>(static_cast<long long>(quarters) & 3);
  const float across = (quarter & 1) != 0 ? -s : c;
  const float up = (quarter & 1) != 0 ? c : s;
  return (quarter & 2) != 0 ? make_float2(-across, -up) : make_float2(across, up);
}

// What changes from pass to pass.
struct RotaryPlace {
  double first;  // position of row 0
  double magnitude;
};

// What row `row` turns a pair by.
__device__ inline float2 rotary_direction(const RotaryPlace& place, std::int64_t row, double inverse_frequency) {
  const auto magnitude = static_cast<float>(place.magnitude);
  const float2 d = direction((place.first + static_cast<double>(row)) * inverse_frequency);
  return make_float2(d.x * magnitude, d.y * magnitude);
}

// Every operation with its rounding, because compilers fuse as they like.
__device__ inline void rotate_pair(const float2& d, float& first, float& second) {
  const float a = first;
  const float b = second;
  first = __fmaf_rn(a, d.x, -__fmul_rn(b, d.y));
  second = __fmaf_rn(b, d.x, __fmul_rn(a, d.y));
}

}  // namespace lectern::engine::cuda
