// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/platform.h"

// The 8- and 16-bit number formats on the device, the same bits as quant/half.cpp gives on the host.
namespace lectern::engine::cuda {

__device__ inline float bf16_to_float(std::uint32_t bits) { return __uint_as_float(bits << 16); }

// Two BF16 numbers in one register, the first in the lower half.
__device__ inline float low_bf16(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000U); }

// To the nearest, ties to even; NaN stays NaN.
__device__ inline std::uint32_t float_to_bf16(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return (bits >> 16) | 0x40U;
  return (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
}

__device__ inline std::uint32_t pack_bf16(float low, float high) {
#if defined(__CUDA_ARCH__)
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return float_to_bf16(low) | (float_to_bf16(high) << 16);
#endif
}

// a * b + c of two BF16 numbers each, rounded once to the nearest.
__device__ inline std::uint32_t fma_bf16_pairs(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#if defined(__CUDA_ARCH__)
  std::uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  return pair;
#else
  return pack_bf16(low_bf16(a) * low_bf16(b) + low_bf16(c), high_bf16(a) * high_bf16(b) + high_bf16(c));
#endif
}

__device__ inline float f16_to_float(std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(value) : "r"(bits));
  return value;
#else
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 31U;
  const std::uint32_t fraction = bits & 0x3ffU;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000U | (fraction << 13));
  if (exponent > 0) return __uint_as_float(sign | ((exponent + 112U) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8F;  // 2^-24
  return sign != 0 ? -magnitude : magnitude;
#endif
}

// E4M3 without infinities: 1.S, 4 exponent bits of bias 7, 3 fraction bits; 0x7f and 0xff are NaN.
__device__ inline float f8_to_float(std::uint32_t code) {
  const std::uint32_t sign = (code & 0x80U) << 24;
  const std::uint32_t magnitude = code & 0x7fU;
  if (magnitude == 0x7fU) return __uint_as_float(sign | 0x7fc00000U);
  // Exponent and fraction moved into place; multiplying by 2^120 rights the bias, for subnormal numbers too.
  const float value = __uint_as_float(magnitude << 20) * 1.329227995784916e36F;
  return __uint_as_float(sign | __float_as_uint(value));
}

}  // namespace lectern::engine::cuda
