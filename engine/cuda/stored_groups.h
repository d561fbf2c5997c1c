// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/numbers.h"
#include "cuda/weights.h"

// Reading weights of blocks on the device: a group of 32 columns as integers of 8 bits and factors, such that
//   weight = scale (code - kShift) - offset,
// each operation rounded once, in the order of quant/dequantize.cpp: the same bits.
namespace lectern::engine::cuda {

template <DType Type>
struct Stored {
  static constexpr PlaneBytes kBytes = plane_bytes(Type);
  static constexpr int kBlock = static_cast<int>(block_size(Type).elements);
  static constexpr std::int64_t kBlockBytes = block_size(Type).bytes;
  static constexpr bool kLarge = kBlock == 256;
  static constexpr int kCodeBits = kBytes.codes * 8 / kBlock;
  static constexpr int kHighBits = kBytes.high * 8 / kBlock;
  static constexpr bool kTable = Type == DType::kIq4Nl || Type == DType::kIq4Xs || Type == DType::kMxfp4;
  // Two scales to a group instead of one.
  static constexpr bool kHalves = Type == DType::kQ2K || Type == DType::kQ3K || Type == DType::kQ6K;
  static constexpr bool kOffset =
      Type == DType::kQ4_1 || Type == DType::kQ5_1 || Type == DType::kQ2K || Type == DType::kQ4K || Type == DType::kQ5K;
  static constexpr int kShift = Type == DType::kQ4_0   ? 8
                                : Type == DType::kQ5_0 ? 16
                                : Type == DType::kQ3K  ? 4
                                : Type == DType::kQ6K  ? 32
                                                       : 0;
};

// A row of a matrix; `second` is its plane of high bits, for Q8_0 the second half of its codes.
struct StoredRow {
  const std::uint8_t* codes;
  const std::uint8_t* second;
  const std::uint8_t* scales;
  const std::uint8_t* super;
};

template <DType Type>
__device__ inline StoredRow stored_row(const DeviceMatrix& w, std::int64_t row) {
  using S = Stored<Type>;
  const std::int64_t blocks = row * (w.cols / S::kBlock);
  const std::uint8_t* codes = w.codes + row * w.row_bytes;
  const std::uint8_t* second = Type == DType::kQ8_0 ? codes + w.cols / 2 : w.high + blocks * S::kBytes.high;
  return {codes, second, w.scales + blocks * S::kBytes.scales, w.super + blocks * S::kBytes.super};
}

// The bits of a group as they are stored, so that several can be on their way at the same time.
template <DType Type>
struct RawGroup {
  static constexpr int kScaleWords = Type == DType::kQ4K || Type == DType::kQ5K     ? 4
                                     : Type == DType::kIq4Xs || Type == DType::kQ2K ? 2
                                     : Type == DType::kQ6K                          ? 2
                                     : Type == DType::kQ3K                          ? 3
                                                                                    : 1;
  std::uint32_t codes[Stored<Type>::kCodeBits];
  std::uint32_t high[Stored<Type>::kHighBits > 0 ? Stored<Type>::kHighBits : 1];
  std::uint32_t scales[kScaleWords];
};

__device__ inline void load_16_bytes(const std::uint8_t* from, std::uint32_t* to) {
  const uint4 words = __ldcs(reinterpret_cast<const uint4*>(from));
  to[0] = words.x;
  to[1] = words.y;
  to[2] = words.z;
  to[3] = words.w;
}

__device__ inline void load_8_bytes(const std::uint8_t* from, std::uint32_t* to) {
  const uint2 words = __ldcs(reinterpret_cast<const uint2*>(from));
  to[0] = words.x;
  to[1] = words.y;
}

__device__ inline std::uint32_t load_half(const std::uint8_t* from) {
  return *reinterpret_cast<const std::uint16_t*>(from);
}

template <DType Type>
__device__ inline void load_scales(const StoredRow& row, int group, RawGroup<Type>& raw) {
  using S = Stored<Type>;
  const int block = group / 8;  // of 256 columns
  const int j = group % 8;
  if constexpr (Type == DType::kMxfp4) {
    raw.scales[0] = row.scales[group];
  } else if constexpr (!S::kLarge && S::kBytes.scales == 4) {
    raw.scales[0] = *reinterpret_cast<const std::uint32_t*>(row.scales + 4 * group);
  } else if constexpr (!S::kLarge) {
    raw.scales[0] = load_half(row.scales + 2 * group);
  } else if constexpr (S::kBytes.scales == 16 && S::kBytes.super == 0) {
    const uint4 words = *reinterpret_cast<const uint4*>(row.scales + 16 * block);
    raw.scales[0] = words.x;
    raw.scales[1] = words.y;
    raw.scales[2] = words.z;
    raw.scales[3] = words.w;
  } else if constexpr (Type == DType::kIq4Xs) {
    const uint2 words = *reinterpret_cast<const uint2*>(row.scales + 8 * block);
    raw.scales[0] = words.x;
    raw.scales[1] = words.y;
  } else if constexpr (Type == DType::kQ3K) {
    const std::uint8_t* scales = row.scales + 12 * block;
    raw.scales[0] = load_half(scales + 2 * (j % 4)) >> (j < 4 ? 0 : 4);
    raw.scales[1] = load_half(scales + 8 + 2 * (j % 2)) >> (2 * (j / 2));
    raw.scales[2] = load_half(row.super + 2 * block);
  } else {  // Q2_K, Q6_K
    raw.scales[0] = load_half(row.scales + 16 * block + 2 * j);
    raw.scales[1] = Type == DType::kQ6K ? load_half(row.super + 2 * block)
                                        : *reinterpret_cast<const std::uint32_t*>(row.super + 4 * block);
  }
}

template <DType Type>
__device__ inline RawGroup<Type> load_group(const StoredRow& row, int group) {
  using S = Stored<Type>;
  RawGroup<Type> raw;
  if constexpr (S::kCodeBits == 8) {
    load_16_bytes(row.codes + 16 * group, raw.codes);
    load_16_bytes(row.second + 16 * group, raw.codes + 4);
  } else if constexpr (S::kCodeBits == 4) {
    load_16_bytes(row.codes + 16 * group, raw.codes);
  } else {
    load_8_bytes(row.codes + 8 * group, raw.codes);
  }
  if constexpr (S::kHighBits == 2) {
    load_8_bytes(row.second + 8 * group, raw.high);
  } else if constexpr (S::kHighBits == 1) {
    raw.high[0] = __ldcs(reinterpret_cast<const std::uint32_t*>(row.second + 4 * group));
  } else {
    raw.high[0] = 0;
  }
  load_scales<Type>(row, group, raw);
  return raw;
}

// Bytes of `low` and `high` as 8-bit integers, signed for Q8_0 and tables.
struct GroupCodes {
  std::uint32_t low[4];
  std::uint32_t high[4];
};

// Moves bits up by `places`, down where that is negative.
template <int Places>
__device__ inline std::uint32_t moved(std::uint32_t bits) {
  if constexpr (Places >= 0) {
    return bits << Places;
  } else {
    return bits >> -Places;
  }
}

// kIq4Values and kMxfp4Values, as bytes.
template <DType Type>
__device__ inline std::uint32_t look_up(std::uint32_t places) {
  constexpr bool kFloat = Type == DType::kMxfp4;
  constexpr std::uint32_t k0 = kFloat ? 0x03020100U : 0xbfad9881U;
  constexpr std::uint32_t k4 = kFloat ? 0x0c080604U : 0xf6eaddcfU;
  constexpr std::uint32_t k8 = kFloat ? 0xfdfeff00U : 0x26190d01U;
  constexpr std::uint32_t k12 = kFloat ? 0xf4f8fafcU : 0x71594535U;
  const std::uint32_t first = __byte_perm(k0, k4, places & 0x7777U);
  const std::uint32_t last = __byte_perm(k8, k12, places & 0x7777U);
  return __byte_perm(first, last, 0x3210U | ((places >> 1) & 0x4444U));
}

template <DType Type, int I>
__device__ inline void expand_word(const RawGroup<Type>& raw, GroupCodes& codes) {
  using S = Stored<Type>;
  if constexpr (S::kCodeBits == 8) {
    codes.low[I] = raw.codes[I];
    codes.high[I] = raw.codes[4 + I];
  } else if constexpr (S::kTable) {
    codes.low[I] = look_up<Type>(raw.codes[I]);
    codes.high[I] = look_up<Type>(raw.codes[I] >> 16);
  } else if constexpr (S::kCodeBits == 4) {
    codes.low[I] = raw.codes[I] & 0x0f0f0f0fU;
    codes.high[I] = (raw.codes[I] >> 4) & 0x0f0f0f0fU;
  } else {
    codes.low[I] = (raw.codes[0] >> (2 * I)) & 0x03030303U;
    codes.high[I] = (raw.codes[1] >> (2 * I)) & 0x03030303U;
  }
  if constexpr (S::kHighBits == 2) {
    codes.low[I] |= moved<4 - 2 * I>(raw.high[0]) & 0x30303030U;
    codes.high[I] |= moved<4 - 2 * I>(raw.high[1]) & 0x30303030U;
  } else if constexpr (S::kHighBits == 1) {
    constexpr int kPlace = S::kCodeBits;  // of the bit in the code
    constexpr std::uint32_t kMask = 0x01010101U << kPlace;
    codes.low[I] |= moved<kPlace - I>(raw.high[0]) & kMask;
    codes.high[I] |= moved<kPlace - 4 - I>(raw.high[0]) & kMask;
  }
}

template <DType Type>
__device__ inline GroupCodes expand_codes(const RawGroup<Type>& raw) {
  GroupCodes codes;
  expand_word<Type, 0>(raw, codes);
  expand_word<Type, 1>(raw, codes);
  expand_word<Type, 2>(raw, codes);
  expand_word<Type, 3>(raw, codes);
  return codes;
}

// [0] for low, [1] for high; the same twice unless kHalves. Offsets are 0 unless kOffset.
struct GroupFactors {
  float scale[2];
  float offset[2];
};

// 2^(exponent - 128)
__device__ inline float power_of_two(std::uint32_t exponent) {
  return __uint_as_float(exponent < 2 ? 0x00200000U << exponent : (exponent - 1U) << 23);
}

// Scale and minimum of group j of Q4_K and Q5_K, six bits each, from the block's 16 bytes.
__device__ inline GroupFactors six_bit_factors(const std::uint32_t (&block)[4], int j) {
  const std::uint32_t low = __byte_perm(block[1], block[2], static_cast<std::uint32_t>(j));
  const std::uint32_t high = block[3] >> (4 * j);
  const std::uint32_t scale = (low & 15U) | ((high << 4) & 48U);
  const std::uint32_t minimum = ((low >> 4) & 15U) | ((high << 2) & 48U);
  const float s = __fmul_rn(f16_to_float(block[0] & 0xffffU), static_cast<float>(scale));
  const float m = __fmul_rn(f16_to_float(block[0] >> 16), static_cast<float>(minimum));
  return {{s, s}, {m, m}};
}

__device__ inline GroupFactors two_factors(float d, int low, int high) {
  return {{__fmul_rn(d, static_cast<float>(low)), __fmul_rn(d, static_cast<float>(high))}, {0.0F, 0.0F}};
}

template <DType Type>
__device__ inline GroupFactors expand_factors(const RawGroup<Type>& raw, int group) {
  [[maybe_unused]] const int j = group % 8;
  if constexpr (Type == DType::kMxfp4) {
    const float d = power_of_two(raw.scales[0]);
    return {{d, d}, {0.0F, 0.0F}};
  } else if constexpr (Type == DType::kQ4_1 || Type == DType::kQ5_1) {
    const float d = f16_to_float(raw.scales[0] & 0xffffU);
    const float base = f16_to_float(raw.scales[0] >> 16);
    return {{d, d}, {-base, -base}};
  } else if constexpr (Type == DType::kQ4K || Type == DType::kQ5K) {
    return six_bit_factors(raw.scales, j);
  } else if constexpr (Type == DType::kIq4Xs) {
    const std::uint32_t low = (raw.scales[1] >> (4 * j)) & 15U;
    const std::uint32_t high = (raw.scales[0] >> (16 + 2 * j)) & 3U;
    const int scale = static_cast<int>(low | (high << 4)) - 32;
    return two_factors(f16_to_float(raw.scales[0] & 0xffffU), scale, scale);
  } else if constexpr (Type == DType::kQ3K) {
    const std::uint32_t both = (raw.scales[0] & 0x0f0fU) | ((raw.scales[1] & 0x0303U) << 4);
    return two_factors(f16_to_float(raw.scales[2]), static_cast<int>(both & 255U) - 32,
                       static_cast<int>(both >> 8) - 32);
  } else if constexpr (Type == DType::kQ6K) {
    return two_factors(f16_to_float(raw.scales[1]), static_cast<std::int8_t>(raw.scales[0] & 255U),
                       static_cast<std::int8_t>(raw.scales[0] >> 8));
  } else if constexpr (Type == DType::kQ2K) {
    const std::uint32_t both = raw.scales[0];
    GroupFactors factors = two_factors(f16_to_float(raw.scales[1] & 0xffffU), static_cast<int>(both & 15U),
                                       static_cast<int>((both >> 8) & 15U));
    const float m = f16_to_float(raw.scales[1] >> 16);
    factors.offset[0] = __fmul_rn(m, static_cast<float>((both >> 4) & 15U));
    factors.offset[1] = __fmul_rn(m, static_cast<float>(both >> 12));
    return factors;
  } else {
    const float d = f16_to_float(raw.scales[0]);
    return {{d, d}, {0.0F, 0.0F}};
  }
}

// Byte `k` of a register of codes as the weight it stands for; `half` 0 for low, 1 for high.
template <DType Type>
__device__ inline float weight_value(std::uint32_t codes, int k, const GroupFactors& factors, int half) {
  using S = Stored<Type>;
  const int code = static_cast<std::int8_t>((codes >> (8 * k)) & 255U) - S::kShift;
  const float value = __fmul_rn(static_cast<float>(code), factors.scale[half]);
  return S::kOffset ? __fsub_rn(value, factors.offset[half]) : value;
}

}  // namespace lectern::engine::cuda
