// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "golden/golden_files.h"
#include "quant/formats.h"

namespace lectern::engine {
namespace {

using Blocks = std::vector<std::uint8_t>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> dequantized(DType type, const Blocks& blocks) {
  const BlockSize size = block_size(type);
  const std::int64_t count = static_cast<std::int64_t>(blocks.size()) / size.bytes * size.elements;
  std::vector<float> values(static_cast<std::size_t>(count));
  dequantize(type, blocks.data(), count, values.data());
  return values;
}

Blocks quantized(DType type, const std::vector<float>& values) {
  const auto count = static_cast<std::int64_t>(values.size());
  Blocks blocks(static_cast<std::size_t>(bytes_of(type, count)));
  quantize(type, values.data(), count, blocks.data());
  return blocks;
}

std::vector<float> there_and_back(DType type, const std::vector<float>& values) {
  return dequantized(type, quantized(type, values));
}

// Equal bit for bit.
::testing::AssertionResult same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " numbers";
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i]))
      return ::testing::AssertionFailure() << "number " << i << ": " << a[i] << " and " << b[i];
  }
  return ::testing::AssertionSuccess();
}

std::vector<float> normal_numbers(std::size_t count, float deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// --- numbers of 16 and 8 bits ---

// sign (-1)^s, exponent field, mantissa field: written as the formats' definitions have it.
double small_float(unsigned code, int exponent_bits, int mantissa_bits) {
  const unsigned mantissa = code & ((1U << mantissa_bits) - 1);
  const unsigned exponent = (code >> mantissa_bits) & ((1U << exponent_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double whole = exponent == 0 ? mantissa : mantissa + (1U << mantissa_bits);
  const double size = std::ldexp(whole, static_cast<int>(std::max(exponent, 1U)) - bias - mantissa_bits);
  return (code >> (mantissa_bits + exponent_bits)) != 0 ? -size : size;
}

TEST(Half, EveryCodeHasItsValue) {
  for (unsigned code = 0; code < 0x10000U; ++code) {
    const float value = half_to_float(static_cast<std::uint16_t>(code));
    if ((code & 0x7c00U) == 0x7c00U) {
      EXPECT_EQ(std::isnan(value), (code & 0x3ffU) != 0) << code;
      if (!std::isnan(value)) {
        EXPECT_EQ(value, code == 0x7c00U ? kInfinity : -kInfinity);
      }
      continue;
    }
    ASSERT_EQ(value, small_float(code, 5, 10)) << code;
    ASSERT_EQ(std::signbit(value), code >= 0x8000U) << code;
  }
}

TEST(Half, EveryValueHasItsCode) {
  for (unsigned code = 0; code < 0x10000U; ++code) {
    const float value = half_to_float(static_cast<std::uint16_t>(code));
    const std::uint16_t back = float_to_half(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(back))) << code;
    } else {
      ASSERT_EQ(back, code);
    }
  }
}

TEST(Half, RoundsToNearestAndMiddlesToEven) {
  for (unsigned code = 0; code < 0x7bffU; ++code) {
    const float low = half_to_float(static_cast<std::uint16_t>(code));
    const float high = half_to_float(static_cast<std::uint16_t>(code + 1));
    const float middle = (low + high) / 2.0F;  // exact
    ASSERT_EQ(float_to_half(middle), code + (code & 1U)) << middle;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0F)), code) << middle;
    ASSERT_EQ(float_to_half(std::nextafter(middle, kInfinity)), code + 1) << middle;
    ASSERT_EQ(float_to_half(-middle), 0x8000U | (code + (code & 1U))) << middle;
  }
}

TEST(Half, TooLargeBecomesInfinity) {
  EXPECT_EQ(float_to_half(std::nextafter(65520.0F, 0.0F)), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0F), 0x7c00);
  EXPECT_EQ(float_to_half(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(F8E4M3, EveryCodeHasItsValue) {
  for (unsigned code = 0; code < 256; ++code) {
    const float value = f8_e4m3_to_float(static_cast<std::uint8_t>(code));
    if ((code & 0x7fU) == 0x7fU) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(value, small_float(code, 4, 3)) << code;
      EXPECT_EQ(std::signbit(value), code >= 0x80U) << code;
    }
  }
  EXPECT_EQ(f8_e4m3_to_float(0x7e), 448.0F);
}

TEST(Dequantize, WidensPlainNumbers) {
  EXPECT_EQ(dequantized(DType::kBF16, {0x80, 0x3f, 0x01, 0xc0}), (std::vector<float>{1.0F, -2.015625F}));
  EXPECT_EQ(dequantized(DType::kF16, {0x00, 0x3c, 0x01, 0x00}), (std::vector<float>{1.0F, 0x1p-24F}));
  EXPECT_EQ(dequantized(DType::kF8E4M3, {0x38, 0xb9}), (std::vector<float>{1.0F, -1.125F}));
  EXPECT_EQ(dequantized(DType::kF32, {0, 0, 0xc0, 0x3f}), std::vector<float>{1.5F});
}

TEST(Quantize, RoundsBfloat16ToNearestEven) {
  const std::vector<float> values = {0x1.01p0F, 0x1.03p0F, 0x1.010002p0F, -0x1.00fffep0F};
  EXPECT_EQ(there_and_back(DType::kBF16, values), (std::vector<float>{1.0F, 0x1.04p0F, 0x1.02p0F, -1.0F}));
}

// --- blocks ---

// Relative: the root mean square error on normally distributed numbers divided by their deviation, which the
// quantisers of the formats' reference leave (llama.cpp, no importance matrix, 131,072 numbers).
struct BlockFormat {
  DType type;
  double reference_error;
};

std::ostream& operator<<(std::ostream& out, const BlockFormat& format) { return out << name_of(format.type); }

constexpr BlockFormat kBlockFormats[] = {{DType::kQ8_0, 0.00534}, {DType::kQ4_0, 0.0857},  {DType::kQ4_1, 0.0780},
                                         {DType::kQ5_0, 0.0426},  {DType::kQ5_1, 0.0378},  {DType::kQ2K, 0.2958},
                                         {DType::kQ3K, 0.1503},   {DType::kQ4K, 0.0710},   {DType::kQ5K, 0.0360},
                                         {DType::kQ6K, 0.01773},  {DType::kIq4Nl, 0.0785}, {DType::kIq4Xs, 0.0765},
                                         {DType::kMxfp4, 0.1141}};

class BlockFormats : public ::testing::TestWithParam<BlockFormat> {
 protected:
  DType type() const { return GetParam().type; }
};

TEST_P(BlockFormats, AgreeWithReferenceBitForBit) {
  const std::filesystem::path folder = golden::directory() / "quants";
  const std::string name(name_of(type()));
  std::ifstream file(folder / (name + ".blocks"), std::ios::binary);
  const Blocks blocks((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  ASSERT_GT(blocks.size(), 10U * static_cast<unsigned>(block_size(type()).bytes));
  EXPECT_TRUE(same_bits(dequantized(type(), blocks), golden::read_floats(folder / (name + ".f32"))));

  // Blocks may start anywhere.
  Blocks shifted(blocks.size() + 1);
  std::copy(blocks.begin(), blocks.end(), shifted.begin() + 1);
  std::vector<float> values(dequantized(type(), blocks).size());
  dequantize(type(), shifted.data() + 1, static_cast<std::int64_t>(values.size()), values.data());
  EXPECT_TRUE(same_bits(values, dequantized(type(), blocks)));
}

TEST_P(BlockFormats, LoseNoMoreThanReferenceQuantiser) {
  constexpr std::size_t kCount = std::size_t{1} << 17;
  for (const float deviation : {1e-2F, 30.0F}) {
    const std::vector<float> values = normal_numbers(kCount, deviation, 7);
    const std::vector<float> back = there_and_back(type(), values);
    double squares = 0.0;
    double largest = 0.0;
    for (std::size_t i = 0; i < kCount; ++i) {
      const double difference = (static_cast<double>(back[i]) - values[i]) / deviation;
      squares += difference * difference;
      largest = std::max(largest, std::fabs(difference));
    }
    // Samples of this size differ by up to 1 %.
    EXPECT_LE(std::sqrt(squares / kCount), 1.01 * GetParam().reference_error);
    EXPECT_LE(largest, 10.0 * GetParam().reference_error);
  }
}

TEST_P(BlockFormats, KeepZerosAndConstants) {
  for (const float constant : {0.0F, 0.375F, -0.375F}) {
    const std::vector<float> values(512, constant);
    for (const float value : there_and_back(type(), values)) ASSERT_NEAR(value, constant, 1e-3F);
  }
}

// Sizes that no scale can follow saturate or vanish, and disturb no other block.
TEST_P(BlockFormats, StayFiniteForAnyFiniteNumbers) {
  constexpr float kMost = std::numeric_limits<float>::max();
  for (const float size : {kMost, 1e20F, 1e6F, 1e-6F, 1e-20F, std::numeric_limits<float>::min(), 1e-42F}) {
    std::vector<float> values = normal_numbers(768, 0.25F, 3);
    for (std::size_t i = 256; i < 512; ++i) values[i] = std::clamp(values[i], -1.0F, 1.0F) * size;
    const std::vector<float> back = there_and_back(type(), values);
    for (const float value : back) ASSERT_TRUE(std::isfinite(value)) << size;
    for (std::size_t i = 0; i < 256; ++i) ASSERT_NEAR(back[i], values[i], 1.0F);
    if (size > 1.0F) continue;
    for (std::size_t i = 256; i < 512; ++i) ASSERT_LE(std::fabs(back[i]), 2.0F * size + 1e-6F);
  }
}

TEST_P(BlockFormats, QuantiseEachBlockByItself) {
  const std::vector<float> values = normal_numbers(1024, 0.02F, 11);
  const Blocks together = quantized(type(), values);
  EXPECT_EQ(together, quantized(type(), values));
  const auto elements = static_cast<std::size_t>(block_size(type()).elements);
  Blocks one_by_one;
  for (std::size_t i = 0; i < values.size(); i += elements) {
    const Blocks block = quantized(type(), {values.begin() + static_cast<std::ptrdiff_t>(i),
                                            values.begin() + static_cast<std::ptrdiff_t>(i + elements)});
    one_by_one.insert(one_by_one.end(), block.begin(), block.end());
  }
  EXPECT_EQ(together, one_by_one);
}

// Numbers a block can hold exactly: every code occurs where the sub-block has room for it, and among the factors of the
// sub-blocks the largest.
float representable(DType type, int e) {
  constexpr float kScale = 0x1.3p-6F;
  constexpr std::array<int, 16> kIq4 = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  constexpr std::array<int, 15> kFp4 = {0, 1, 2, 3, 4, 6, 8, 12, -1, -2, -3, -4, -6, -8, -12};
  const int sixteenth = e / 16;
  const int j = e / 32;
  const auto scaled = [](int code, int factor) { return kScale * static_cast<float>(code * factor); };
  switch (type) {
    case DType::kQ8_0:
      return scaled(e % 32 == 0 ? 127 : e % 32 * 7 - 110, 1);
    case DType::kQ4_0:
      return scaled(e % 16 - 8, 1);
    case DType::kQ5_0:
      return scaled(e % 32 - 16, 1);
    case DType::kQ4_1:
      return scaled(e % 16, 1) + 0.25F;
    case DType::kQ5_1:
      return scaled(e % 32, 1) - 0.25F;
    case DType::kQ2K:
      return scaled(e % 4, 15 - sixteenth % 4) - 0.0625F * static_cast<float>(15 - sixteenth);
    case DType::kQ3K:
      return scaled(e % 8 - 4, 4 * sixteenth - 32);
    case DType::kQ4K:
      return scaled(e % 16, 63 - 5 * j) - 0.0625F * static_cast<float>(63 - 9 * j);
    case DType::kQ5K:
      return scaled(e % 32, 63 - 5 * j) - 0.0625F * static_cast<float>(63 - 9 * j);
    case DType::kQ6K:
      return scaled(e % 16 == 5 ? -32 : e * 7 % 64 - 32, 15 * sixteenth - 128);
    case DType::kIq4Nl:
      return scaled(kIq4[static_cast<std::size_t>(e % 16)], 1);
    case DType::kIq4Xs:
      return scaled(kIq4[static_cast<std::size_t>(e % 16)], 8 * j - 32);
    default:
      return std::ldexp(static_cast<float>(kFp4[static_cast<std::size_t>(e % 15)]), -5);
  }
}

TEST_P(BlockFormats, KeepWhatTheyCanHold) {
  std::vector<float> values(256);
  for (std::size_t e = 0; e < values.size(); ++e) values[e] = representable(type(), static_cast<int>(e));
  const std::vector<float> back = there_and_back(type(), values);
  for (std::size_t e = 0; e < values.size(); ++e) ASSERT_EQ(back[e], values[e]) << "number " << e;
}

INSTANTIATE_TEST_SUITE_P(Quant, BlockFormats, ::testing::ValuesIn(kBlockFormats),
                         [](const auto& parameter) { return std::string(name_of(parameter.param.type)); });

// --- rows of a matrix ---

TEST(ReadRow, AppliesTheScalesOfF8Tiles) {
  constexpr std::int64_t kRows = 130;
  constexpr std::int64_t kCols = 300;
  Blocks codes(kRows * kCols);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 31 % 127);
  const std::vector<float> scales = {0.5F, 3.0F, 0.1F, -7.0F, 0.3F, 1e-3F};  // two rows of three tiles
  const HostMatrix matrix{DType::kF8E4M3, codes.data(), kRows, kCols, scales.data()};
  for (const std::int64_t row : {0, 127, 128, 129}) {
    std::vector<float> values(kCols);
    read_row(matrix, row, values.data());
    for (std::int64_t col = 0; col < kCols; ++col) {
      const float scale = scales[static_cast<std::size_t>(row / 128 * 3 + col / 128)];
      const float value = f8_e4m3_to_float(codes[static_cast<std::size_t>(row * kCols + col)]);
      ASSERT_EQ(values[static_cast<std::size_t>(col)], value * scale) << row << ", " << col;
    }
  }
}

TEST(ReadRow, FindsTheRowOfEveryFormat) {
  constexpr std::int64_t kCols = 512;
  const std::vector<float> values = normal_numbers(3 * kCols, 1.0F, 5);
  for (const DTypeFacts& facts : kDTypes) {
    if (facts.type == DType::kF8E4M3) continue;
    const Blocks blocks = quantized(facts.type, values);
    const std::vector<float> all = dequantized(facts.type, blocks);
    std::vector<float> row(kCols);
    read_row({facts.type, blocks.data(), 3, kCols, nullptr}, 2, row.data());
    EXPECT_TRUE(same_bits(row, {all.begin() + 2 * kCols, all.end()})) << facts.name;
  }
}

}  // namespace
}  // namespace lectern::engine
