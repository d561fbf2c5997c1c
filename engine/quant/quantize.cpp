// SPDX-License-Identifier: Apache-2.0
// One function `encode` for each block of 32; those of 256 are in superblocks.cpp.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/blocks.h"
#include "quant/formats.h"
#include "quant/scale_search.h"
#include "quant/superblocks.h"

namespace lectern::engine {
namespace {

constexpr std::size_t kElements = 32;
using Numbers = std::span<const float, kElements>;
using Codes = std::array<std::uint8_t, kElements>;

Bytes<16> pack_nibbles(const Codes& codes) {
  Bytes<16> nibbles;
  for (std::size_t i = 0; i < 16; ++i)
    nibbles[i] = static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
  return nibbles;
}

Bytes<4> pack_fifth_bits(const Codes& codes) {
  Bytes<4> bits{};
  for (std::size_t i = 0; i < kElements; ++i) bits[i / 8] |= static_cast<std::uint8_t>((codes[i] >> 4) << (i % 8));
  return bits;
}

// Codes from 0 to 2 half - 1 for the numbers (code - half) scale.
Codes signed_codes(Numbers x, float scale, int half) {
  const float inverse = inverse_of(scale);
  const auto middle = static_cast<float>(half);
  Codes codes;
  for (std::size_t i = 0; i < kElements; ++i)
    codes[i] = static_cast<std::uint8_t>(nearest_code(inverse * x[i], -middle, middle - 1.0F) + middle);
  return codes;
}

Codes line_codes(Numbers x, float scale, float base, float highest) {
  const float inverse = inverse_of(scale);
  Codes codes;
  for (std::size_t i = 0; i < kElements; ++i)
    codes[i] = static_cast<std::uint8_t>(nearest_code(inverse * (x[i] - base), 0.0F, highest));
  return codes;
}

void encode(Numbers x, BlockQ80& block) {
  constexpr float kHighest = 127.0F;
  float largest = 0.0F;
  for (const float number : x) largest = std::max(largest, std::fabs(number));
  const float inverse = inverse_of(store(largest / kHighest, block.scale));
  for (std::size_t i = 0; i < kElements; ++i)
    block.codes[i] = static_cast<std::int8_t>(nearest_code(inverse * x[i], -kHighest, kHighest));
}

void encode(Numbers x, BlockQ40& block) {
  const float scale = store(search_scale(x, -8.0F, 7.0F), block.scale);
  block.nibbles = pack_nibbles(signed_codes(x, scale, 8));
}

void encode(Numbers x, BlockQ50& block) {
  const float scale = store(search_scale(x, -16.0F, 15.0F), block.scale);
  const Codes codes = signed_codes(x, scale, 16);
  block.fifth = pack_fifth_bits(codes);
  block.nibbles = pack_nibbles(codes);
}

void encode(Numbers x, BlockQ41& block) {
  const Line line = search_line(x, 15.0F, Base::kAny);
  const float base = store(line.base, block.base);
  block.nibbles = pack_nibbles(line_codes(x, store(line.scale, block.scale), base, 15.0F));
}

void encode(Numbers x, BlockQ51& block) {
  const Line line = search_line(x, 31.0F, Base::kAny);
  const float base = store(line.base, block.base);
  const Codes codes = line_codes(x, store(line.scale, block.scale), base, 31.0F);
  block.fifth = pack_fifth_bits(codes);
  block.nibbles = pack_nibbles(codes);
}

void encode(Numbers x, BlockIq4Nl& block) {
  const float inverse = inverse_of(store(search_scale(x, kIq4Codebook), block.scale));
  Codes codes;
  for (std::size_t i = 0; i < kElements; ++i) codes[i] = kIq4Codebook.nearest(inverse * x[i]);
  block.nibbles = pack_nibbles(codes);
}

void encode(Numbers x, BlockMxfp4& block) {
  static constexpr Codebook kCodebook(kMxfp4Values);
  float largest = 0.0F;
  for (const float number : x) largest = std::max(largest, std::fabs(number));
  // With the first exponent the largest number is 8 to 16 units and the largest code 12; the next two leave more room.
  const int first = std::clamp(largest > 0.0F ? std::ilogb(largest) - 3 + 128 : 0, 2, 252);
  const float inverse = 1.0F / mxfp4_scale(static_cast<std::uint8_t>(first));
  std::array<float, kElements> units;
  for (std::size_t i = 0; i < kElements; ++i) units[i] = inverse * x[i];

  int best = 0;
  float least = scale_error<kElements>(units, 1.0F, kCodebook);
  for (int further = 1; further < 3; ++further) {
    const float error = scale_error<kElements>(units, std::ldexp(1.0F, further), kCodebook);
    if (error >= least) continue;
    least = error;
    best = further;
  }
  block.exponent = static_cast<std::uint8_t>(first + best);
  Codes codes;
  for (std::size_t i = 0; i < kElements; ++i) codes[i] = kCodebook.nearest(std::ldexp(1.0F, -best) * units[i]);
  block.nibbles = pack_nibbles(codes);
}

template <class Block>
void encode_all(const float* values, std::int64_t count, void* blocks) {
  constexpr auto kCount = static_cast<std::size_t>(block_size(Block::kType).elements);
  auto* at = static_cast<std::byte*>(blocks);
  for (std::int64_t i = 0; i < count; i += kCount, at += sizeof(Block)) {
    std::array<float, kCount> numbers;
    std::copy_n(values + i, kCount, numbers.begin());
    // More than any block with a half for a scale holds, and little enough for sums of squares.
    constexpr float kLimit = Block::kType == DType::kMxfp4 ? std::numeric_limits<float>::max() : 1e9F;
    for (float& number : numbers) number = std::clamp(number, -kLimit, kLimit);
    Block block{};
    encode(std::span<const float, kCount>(numbers), block);
    std::memcpy(at, &block, sizeof(block));
  }
}

// To nearest even.
std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

template <class Convert>
void convert_all(const float* values, std::int64_t count, void* numbers, Convert convert) {
  auto* at = static_cast<std::byte*>(numbers);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint16_t bits = convert(values[i]);
    std::memcpy(at + 2 * i, &bits, sizeof(bits));
  }
}

}  // namespace

void quantize(DType type, const float* values, std::int64_t count, void* blocks) {
  switch (type) {
    case DType::kF32:
      if (count > 0) std::memcpy(blocks, values, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case DType::kF16:
      return convert_all(values, count, blocks, float_to_half);
    case DType::kBF16:
      return convert_all(values, count, blocks, float_to_bfloat16);
    case DType::kF8E4M3:
      return;
    case DType::kQ8_0:
      return encode_all<BlockQ80>(values, count, blocks);
    case DType::kQ4_0:
      return encode_all<BlockQ40>(values, count, blocks);
    case DType::kQ4_1:
      return encode_all<BlockQ41>(values, count, blocks);
    case DType::kQ5_0:
      return encode_all<BlockQ50>(values, count, blocks);
    case DType::kQ5_1:
      return encode_all<BlockQ51>(values, count, blocks);
    case DType::kQ2K:
      return encode_all<BlockQ2K>(values, count, blocks);
    case DType::kQ3K:
      return encode_all<BlockQ3K>(values, count, blocks);
    case DType::kQ4K:
      return encode_all<BlockQ4K>(values, count, blocks);
    case DType::kQ5K:
      return encode_all<BlockQ5K>(values, count, blocks);
    case DType::kQ6K:
      return encode_all<BlockQ6K>(values, count, blocks);
    case DType::kIq4Nl:
      return encode_all<BlockIq4Nl>(values, count, blocks);
    case DType::kIq4Xs:
      return encode_all<BlockIq4Xs>(values, count, blocks);
    case DType::kMxfp4:
      return encode_all<BlockMxfp4>(values, count, blocks);
  }
}

}  // namespace lectern::engine
