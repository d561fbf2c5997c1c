// SPDX-License-Identifier: Apache-2.0
// Quantisers of the blocks of 256.
#pragma once

#include <algorithm>
#include <span>

#include "quant/blocks.h"
#include "quant/formats.h"
#include "quant/scale_search.h"

namespace lectern::engine {

inline constexpr Codebook kIq4Codebook(kIq4Values);

// What of `scale` the block keeps: a half, and a finite one.
inline float store(float scale, StoredHalf& half) {
  constexpr float kLargestHalf = 65504.0F;
  half.set_bits(float_to_half(std::clamp(scale, -kLargestHalf, kLargestHalf)));
  return half_to_float(half.bits());
}

void encode(std::span<const float, 256> x, BlockQ2K& block);
void encode(std::span<const float, 256> x, BlockQ3K& block);
void encode(std::span<const float, 256> x, BlockQ4K& block);
void encode(std::span<const float, 256> x, BlockQ5K& block);
void encode(std::span<const float, 256> x, BlockQ6K& block);
void encode(std::span<const float, 256> x, BlockIq4Xs& block);

}  // namespace lectern::engine
