// SPDX-License-Identifier: Apache-2.0
// The blocks of the GGUF weight types, byte for byte as in a file. Every member is made of bytes, so that a block has
// no padding and no alignment, and means the same on every machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/tensor.h"

namespace lectern::engine {

// An IEEE half, low byte first.
struct StoredHalf {
  std::array<std::uint8_t, 2> bytes;

  std::uint16_t bits() const { return static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8); }
  void set_bits(std::uint16_t bits) { bytes = {static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(bits >> 8)}; }
};

template <std::size_t kCount>
using Bytes = std::array<std::uint8_t, kCount>;

// Blocks of 32. Elements 0 to 15 are the low nibbles of `nibbles`, 16 to 31 the high ones; `fifth` has the codes' bit
// 4, a bit an element.
struct BlockQ80 {
  static constexpr DType kType = DType::kQ8_0;
  StoredHalf scale;
  std::array<std::int8_t, 32> codes;
};

struct BlockQ40 {
  static constexpr DType kType = DType::kQ4_0;
  StoredHalf scale;
  Bytes<16> nibbles;
};

struct BlockQ41 {
  static constexpr DType kType = DType::kQ4_1;
  StoredHalf scale;
  StoredHalf base;  // added
  Bytes<16> nibbles;
};

struct BlockQ50 {
  static constexpr DType kType = DType::kQ5_0;
  StoredHalf scale;
  Bytes<4> fifth;
  Bytes<16> nibbles;
};

struct BlockQ51 {
  static constexpr DType kType = DType::kQ5_1;
  StoredHalf scale;
  StoredHalf base;  // added
  Bytes<4> fifth;
  Bytes<16> nibbles;
};

struct BlockIq4Nl {
  static constexpr DType kType = DType::kIq4Nl;
  StoredHalf scale;
  Bytes<16> nibbles;  // places in kIq4Values
};

struct BlockMxfp4 {
  static constexpr DType kType = DType::kMxfp4;
  std::uint8_t exponent;
  Bytes<16> nibbles;  // places in kMxfp4Values
};

// Blocks of 256: sub-blocks of 16 or 32 with small integer scales of their own.

// 16 sub-blocks. `scales`: low nibble the scale, high nibble the minimum, which is subtracted. `codes`: byte 32 g + l
// has elements 128 g + 32 s + l, two bits each, s = 0 lowest.
struct BlockQ2K {
  static constexpr DType kType = DType::kQ2K;
  Bytes<16> scales;
  Bytes<64> codes;
  StoredHalf scale;
  StoredHalf minimum;
};

// 16 sub-blocks. `low` as the codes of Q2_K; `high`: bit j of byte l belongs to element 32 j + l. `scales`: six bits
// each, see six_bit_scale.
struct BlockQ3K {
  static constexpr DType kType = DType::kQ3K;
  Bytes<32> high;
  Bytes<64> low;
  Bytes<12> scales;
  StoredHalf scale;
};

// 8 sub-blocks. `nibbles`: byte 32 p + l has element 64 p + l low and 64 p + 32 + l high. `scales`: six bits each for
// scale and minimum, see scale_and_minimum.
struct BlockQ4K {
  static constexpr DType kType = DType::kQ4K;
  StoredHalf scale;
  StoredHalf minimum;
  Bytes<12> scales;
  Bytes<128> nibbles;
};

// As Q4_K; `fifth`: bit j of byte l is bit 4 of the code of element 32 j + l.
struct BlockQ5K {
  static constexpr DType kType = DType::kQ5K;
  StoredHalf scale;
  StoredHalf minimum;
  Bytes<12> scales;
  Bytes<32> fifth;
  Bytes<128> nibbles;
};

// 16 sub-blocks. `low`: byte 64 g + 32 (s mod 2) + l, nibble s div 2, and `high`: byte 32 g + l, two bits at 2 s,
// belong to element 128 g + 32 s + l.
struct BlockQ6K {
  static constexpr DType kType = DType::kQ6K;
  Bytes<128> low;
  Bytes<64> high;
  std::array<std::int8_t, 16> scales;
  StoredHalf scale;
};

// 8 sub-blocks whose nibbles lie as those of IQ4_NL, 16 bytes each; six-bit scales: low four bits of sub-block j in
// nibble j of `scales_low`, two bits at 2 j in `scales_high`.
struct BlockIq4Xs {
  static constexpr DType kType = DType::kIq4Xs;
  StoredHalf scale;
  Bytes<2> scales_high;
  Bytes<4> scales_low;
  Bytes<128> nibbles;
};

template <class Block>
constexpr bool kHasFileSize = sizeof(Block) == block_size(Block::kType).bytes && alignof(Block) == 1;
static_assert(kHasFileSize<BlockQ80> && kHasFileSize<BlockQ40> && kHasFileSize<BlockQ41> && kHasFileSize<BlockQ50> &&
              kHasFileSize<BlockQ51> && kHasFileSize<BlockIq4Nl> && kHasFileSize<BlockMxfp4>);
static_assert(kHasFileSize<BlockQ2K> && kHasFileSize<BlockQ3K> && kHasFileSize<BlockQ4K> && kHasFileSize<BlockQ5K> &&
              kHasFileSize<BlockQ6K> && kHasFileSize<BlockIq4Xs>);

inline constexpr std::array<std::int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                           1,    13,   25,  38,  53,  69,  89,  113};

// FP4 E2M1, doubled to be integers; the exponent below is one less to make up for it.
inline constexpr std::array<std::int8_t, 16> kMxfp4Values = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 2^(exponent - 128), exactly, subnormal for 0 and 1.
float mxfp4_scale(std::uint8_t exponent);

struct ScaleAndMinimum {
  int scale = 0;
  int minimum = 0;
};

// Sub-block j, 0 to 7, of Q4_K and Q5_K: both six bits, 0 to 63.
constexpr ScaleAndMinimum scale_and_minimum(const Bytes<12>& scales, int j) {
  if (j < 4) return {scales[j] & 63, scales[j + 4] & 63};
  return {(scales[j + 4] & 15) + 16 * (scales[j - 4] >> 6), (scales[j + 4] >> 4) + 16 * (scales[j] >> 6)};
}

// Sub-block k, 0 to 15, of Q3_K: -32 to 31.
constexpr int six_bit_scale(const Bytes<12>& scales, int k) {
  const int low = (scales[k % 8] >> (k < 8 ? 0 : 4)) & 15;
  const int high = (scales[8 + k % 4] >> (2 * (k / 4))) & 3;
  return low + 16 * high - 32;
}

// Sub-block j, 0 to 7, of IQ4_XS: -32 to 31.
constexpr int six_bit_scale(const BlockIq4Xs& block, int j) {
  const int low = (block.scales_low[j / 2] >> (4 * (j % 2))) & 15;
  const int high = (block.scales_high[j / 4] >> (2 * (j % 4))) & 3;
  return low + 16 * high - 32;
}

}  // namespace lectern::engine
