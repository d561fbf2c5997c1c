// SPDX-License-Identifier: Apache-2.0
// One function `expand` for each block. The order of the operations is part of the formats: results agree bit for bit
// with the reference only if every line rounds as written.
#include <algorithm>
#include <bit>
#include <cstring>

#include "quant/blocks.h"
#include "quant/formats.h"

namespace lectern::engine {
namespace {

float value(StoredHalf half) { return half_to_float(half.bits()); }

// The nibble of element e in blocks of 32, and its bit 4.
int nibble(const std::uint8_t* nibbles, int e) { return e < 16 ? nibbles[e] & 15 : nibbles[e - 16] >> 4; }
int fifth_bit(const Bytes<4>& fifth, int e) { return (fifth[e / 8] >> (e % 8) & 1) << 4; }

void expand(const BlockQ80& block, float* y) {
  const float d = value(block.scale);
  for (int e = 0; e < 32; ++e) y[e] = static_cast<float>(block.codes[e]) * d;
}

void expand(const BlockQ40& block, float* y) {
  const float d = value(block.scale);
  for (int e = 0; e < 32; ++e) y[e] = static_cast<float>(nibble(block.nibbles.data(), e) - 8) * d;
}

void expand(const BlockQ41& block, float* y) {
  const float d = value(block.scale);
  const float base = value(block.base);
  for (int e = 0; e < 32; ++e) y[e] = static_cast<float>(nibble(block.nibbles.data(), e)) * d + base;
}

void expand(const BlockQ50& block, float* y) {
  const float d = value(block.scale);
  for (int e = 0; e < 32; ++e) {
    const int code = nibble(block.nibbles.data(), e) + fifth_bit(block.fifth, e);
    y[e] = static_cast<float>(code - 16) * d;
  }
}

void expand(const BlockQ51& block, float* y) {
  const float d = value(block.scale);
  const float base = value(block.base);
  for (int e = 0; e < 32; ++e) {
    const int code = nibble(block.nibbles.data(), e) + fifth_bit(block.fifth, e);
    y[e] = static_cast<float>(code) * d + base;
  }
}

void expand(const BlockIq4Nl& block, float* y) {
  const float d = value(block.scale);
  for (int e = 0; e < 32; ++e) y[e] = d * kIq4Values[nibble(block.nibbles.data(), e)];
}

void expand(const BlockMxfp4& block, float* y) {
  const float d = mxfp4_scale(block.exponent);
  for (int e = 0; e < 32; ++e) y[e] = kMxfp4Values[nibble(block.nibbles.data(), e)] * d;
}

// In blocks of 256, j counts the groups of 32 elements; `l` is the place in the group.

void expand(const BlockQ2K& block, float* y) {
  const float d = value(block.scale);
  const float m = value(block.minimum);
  for (int e = 0; e < 256; e += 16) {
    const float scale = d * static_cast<float>(block.scales[e / 16] & 15);
    const float minimum = m * static_cast<float>(block.scales[e / 16] >> 4);
    const std::uint8_t* codes = block.codes.data() + 32 * (e / 128) + e % 32;
    const int shift = 2 * (e % 128 / 32);
    for (int l = 0; l < 16; ++l) y[e + l] = scale * static_cast<float>(codes[l] >> shift & 3) - minimum;
  }
}

void expand(const BlockQ3K& block, float* y) {
  const float d = value(block.scale);
  for (int e = 0; e < 256; e += 16) {
    const float scale = d * static_cast<float>(six_bit_scale(block.scales, e / 16));
    const std::uint8_t* low = block.low.data() + 32 * (e / 128) + e % 32;
    const std::uint8_t* high = block.high.data() + e % 32;
    const int shift = 2 * (e % 128 / 32);
    const int j = e / 32;
    for (int l = 0; l < 16; ++l) {
      const int code = (low[l] >> shift & 3) + 4 * (high[l] >> j & 1);
      y[e + l] = scale * static_cast<float>(code - 4);
    }
  }
}

void expand(const BlockQ4K& block, float* y) {
  const float d = value(block.scale);
  const float m = value(block.minimum);
  for (int j = 0; j < 8; ++j) {
    const ScaleAndMinimum factors = scale_and_minimum(block.scales, j);
    const float scale = d * static_cast<float>(factors.scale);
    const float minimum = m * static_cast<float>(factors.minimum);
    const std::uint8_t* nibbles = block.nibbles.data() + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    for (int l = 0; l < 32; ++l) y[32 * j + l] = scale * static_cast<float>(nibbles[l] >> shift & 15) - minimum;
  }
}

void expand(const BlockQ5K& block, float* y) {
  const float d = value(block.scale);
  const float m = value(block.minimum);
  for (int j = 0; j < 8; ++j) {
    const ScaleAndMinimum factors = scale_and_minimum(block.scales, j);
    const float scale = d * static_cast<float>(factors.scale);
    const float minimum = m * static_cast<float>(factors.minimum);
    const std::uint8_t* nibbles = block.nibbles.data() + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    for (int l = 0; l < 32; ++l) {
      const int code = (nibbles[l] >> shift & 15) + 16 * (block.fifth[l] >> j & 1);
      y[32 * j + l] = scale * static_cast<float>(code) - minimum;
    }
  }
}

void expand(const BlockQ6K& block, float* y) {
  const float d = value(block.scale);
  for (int e = 0; e < 256; e += 16) {
    const float scale = d * static_cast<float>(block.scales[e / 16]);
    const int s = e % 128 / 32;
    const std::uint8_t* low = block.low.data() + 64 * (e / 128) + 32 * (s % 2) + e % 32;
    const std::uint8_t* high = block.high.data() + 32 * (e / 128) + e % 32;
    for (int l = 0; l < 16; ++l) {
      const int code = (low[l] >> (4 * (s / 2)) & 15) + 16 * (high[l] >> (2 * s) & 3);
      y[e + l] = scale * static_cast<float>(code - 32);
    }
  }
}

void expand(const BlockIq4Xs& block, float* y) {
  const float d = value(block.scale);
  for (int j = 0; j < 8; ++j) {
    const float scale = d * static_cast<float>(six_bit_scale(block, j));
    const std::uint8_t* nibbles = block.nibbles.data() + 16 * j;
    for (int e = 0; e < 32; ++e) y[32 * j + e] = scale * kIq4Values[nibble(nibbles, e)];
  }
}

template <class Block>
void expand_all(const void* blocks, std::int64_t count, float* values) {
  const auto* at = static_cast<const std::byte*>(blocks);
  for (std::int64_t i = 0; i < count; i += block_size(Block::kType).elements, at += sizeof(Block)) {
    Block block;
    std::memcpy(&block, at, sizeof(block));
    expand(block, values + i);
  }
}

// Numbers of 16 or 8 bits that `convert` makes a float of.
template <class Bits, class Convert>
void convert_all(const void* numbers, std::int64_t count, float* values, Convert convert) {
  const auto* at = static_cast<const std::byte*>(numbers);
  for (std::int64_t i = 0; i < count; ++i) {
    Bits bits = 0;
    std::memcpy(&bits, at + i * static_cast<std::int64_t>(sizeof(Bits)), sizeof(bits));
    values[i] = convert(bits);
  }
}

float bfloat16_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

}  // namespace

float mxfp4_scale(std::uint8_t exponent) {
  const std::uint32_t bits = exponent < 2 ? 0x00200000U << exponent : (exponent - 1U) << 23;
  return std::bit_cast<float>(bits);
}

void dequantize(DType type, const void* blocks, std::int64_t count, float* values) {
  switch (type) {
    case DType::kF32:
      if (count > 0) std::memcpy(values, blocks, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case DType::kF16:
      return convert_all<std::uint16_t>(blocks, count, values, half_to_float);
    case DType::kBF16:
      return convert_all<std::uint16_t>(blocks, count, values, bfloat16_to_float);
    case DType::kF8E4M3:
      return convert_all<std::uint8_t>(blocks, count, values, f8_e4m3_to_float);
    case DType::kQ8_0:
      return expand_all<BlockQ80>(blocks, count, values);
    case DType::kQ4_0:
      return expand_all<BlockQ40>(blocks, count, values);
    case DType::kQ4_1:
      return expand_all<BlockQ41>(blocks, count, values);
    case DType::kQ5_0:
      return expand_all<BlockQ50>(blocks, count, values);
    case DType::kQ5_1:
      return expand_all<BlockQ51>(blocks, count, values);
    case DType::kQ2K:
      return expand_all<BlockQ2K>(blocks, count, values);
    case DType::kQ3K:
      return expand_all<BlockQ3K>(blocks, count, values);
    case DType::kQ4K:
      return expand_all<BlockQ4K>(blocks, count, values);
    case DType::kQ5K:
      return expand_all<BlockQ5K>(blocks, count, values);
    case DType::kQ6K:
      return expand_all<BlockQ6K>(blocks, count, values);
    case DType::kIq4Nl:
      return expand_all<BlockIq4Nl>(blocks, count, values);
    case DType::kIq4Xs:
      return expand_all<BlockIq4Xs>(blocks, count, values);
    case DType::kMxfp4:
      return expand_all<BlockMxfp4>(blocks, count, values);
  }
}

void read_row(const HostMatrix& matrix, std::int64_t row, float* values) {
  const auto* blocks = static_cast<const std::byte*>(matrix.data) + row * bytes_of(matrix.dtype, matrix.cols);
  dequantize(matrix.dtype, blocks, matrix.cols, values);
  if (matrix.dtype != DType::kF8E4M3) return;

  constexpr std::int64_t kTile = 128;
  const float* scales = matrix.scales + row / kTile * ((matrix.cols + kTile - 1) / kTile);
  for (std::int64_t i = 0; i < matrix.cols; ++i) values[i] *= scales[i / kTile];
}

}  // namespace lectern::engine
