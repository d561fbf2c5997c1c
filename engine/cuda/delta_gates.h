// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/platform.h"
#include "ops/backend.h"

// The factors and gates of the gated delta rule, see Backend::delta_rule().
namespace lectern::engine::cuda {

inline constexpr float kLengthEpsilon = 1e-6F;
inline constexpr float kStrongestDecay = -1e4F;  // exp() of it is 0; keeps running sums finite

// `squares`: the sum of x^2 over a head.
__device__ inline float key_scale(float squares) { return 1.0F / sqrtf(squares + kLengthEpsilon); }
__device__ inline float query_scale(float squares, int key_dim) {
  return key_scale(squares) / sqrtf(static_cast<float>(key_dim));
}

__device__ inline float softplus(float x) { return x > 20.0F ? x : log1pf(expf(x)); }

// g = rate softplus(a + dt_bias). A rate without bound times 0 is no number, which fmaxf() passes over.
__device__ inline float log_decay(float a, const DeltaGates& gates, int head) {
  return fmaxf(gates.rate[head] * softplus(a + gates.dt_bias[head]), kStrongestDecay);
}

}  // namespace lectern::engine::cuda
