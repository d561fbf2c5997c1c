// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define LECTERN_EVERYWHERE __host__ __device__
#else
#define LECTERN_EVERYWHERE
#endif

namespace lectern::engine::bench {

// A permutation of the 64-bit numbers whose bits look random (Steele et al. 2014, SplitMix).
LECTERN_EVERYWHERE inline std::uint64_t random_bits(std::uint64_t index) {
  std::uint64_t bits = (index + 1) * 0x9e3779b97f4a7c15U;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9U;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebU;
  return bits ^ (bits >> 31);
}

// Sum of four even draws, mean 0 and variance 1: close to normal, never beyond 3.5.
LECTERN_EVERYWHERE inline float random_normal(std::uint64_t index) {
  const std::uint64_t bits = random_bits(index);
  const auto sum = static_cast<float>((bits & 0xffffU) + ((bits >> 16) & 0xffffU) + ((bits >> 32) & 0xffffU) +
                                      ((bits >> 48) & 0xffffU));
  return (sum - 131070.0F) * 2.6428777e-5F;  // sqrt(3) / 65536
}

}  // namespace lectern::engine::bench
