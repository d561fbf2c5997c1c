// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstdint>

#include "quant/formats.h"

namespace lectern::engine {

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 31U;
  const std::uint32_t mantissa = half & 0x3ffU;
  std::uint32_t bits = 0;
  if (exponent == 0) {
    bits = std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-24F);
  } else if (exponent == 31) {
    bits = 0x7f800000U | mantissa << 13;
  } else {
    bits = (exponent + 112) << 23 | mantissa << 13;
  }
  return std::bit_cast<float>(sign | bits);
}

std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U;
  } else if (magnitude < 0x38800000U) {
    // Below 2^-14: next to 0.5 the numbers of a float are 2^-24 apart, as the halves are here, so the sum rounds as
    // asked.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  } else {
    const std::uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
    half = std::min((rounded - 0x38000000U) >> 13, 0x7c00U);
  }
  return static_cast<std::uint16_t>(sign | half);
}

float f8_e4m3_to_float(std::uint8_t code) {
  const std::uint32_t sign = (code & 0x80U) << 24;
  const std::uint32_t exponent = (code >> 3) & 15U;
  const std::uint32_t mantissa = code & 7U;
  std::uint32_t bits = (exponent + 120) << 23 | mantissa << 20;
  if (exponent == 0) bits = std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-9F);
  if (exponent == 15 && mantissa == 7) bits = 0x7fc00000U;
  return std::bit_cast<float>(sign | bits);
}

}  // namespace lectern::engine
