// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "cuda/mma.h"
#include "cuda/stored_groups.h"

// Products of stored weights with a few rows of activations, on the arithmetic units: bound by the bytes of the
// weights, which are read once for all rows. Blocks of codes meet activations of 8 bits with a scale for every 32; the
// numbers of F32, F16, BF16 and F8 meet floats. Every operation is written with its rounding, so that a row's sum has
// the same bits whatever the number of rows it is computed with.
namespace lectern::engine::cuda {

// --- activations of 8 bits ------------------------------------------------------------------------------------------

// Rows of `groups` groups; the first and the last 16 columns of each apart, as weights have them.
struct CodedRows {
  const std::uint8_t* low = nullptr;   // [rows, groups, 16]
  const std::uint8_t* high = nullptr;  // [rows, groups, 16]
  const int2* facts = nullptr;         // [rows, groups]: the bits of the scale; the sums of low and of high codes
  std::int64_t groups = 0;
  std::int64_t last = 0;  // the last row; products repeat it where they take more rows than there are
};

// Bytes of `rows` rows; `memory`, aligned to 16, then begins with `low`.
__host__ __device__ constexpr std::int64_t coded_bytes(std::int64_t rows, std::int64_t cols) {
  return rows * (cols + cols / 4);
}
__host__ __device__ inline CodedRows coded_rows(const void* memory, std::int64_t rows, std::int64_t cols) {
  const auto* low = static_cast<const std::uint8_t*>(memory);
  return {low, low + rows * cols / 2, reinterpret_cast<const int2*>(low + rows * cols), cols / kGroup, rows - 1};
}
__device__ inline CodedRows from_row(const CodedRows& rows, std::int64_t first) {
  const std::int64_t at = first * rows.groups;
  return {rows.low + 16 * at, rows.high + 16 * at, rows.facts + at, rows.groups, rows.last - first};
}

// Codes eight numbers of each lane; four neighbouring lanes have a group. All lanes of the warp must call this; `valid`
// is the same for the four. `group` counts from the beginning of `to`, through all rows. Numbers that are none make the
// scale one of them.
__device__ inline void code_group(const float (&x)[8], std::int64_t group, bool valid, const CodedRows& to) {
  const int part = static_cast<int>(threadIdx.x) % 4;
  unsigned largest = 0;  // as integers, because those compare a NaN above all numbers
  for (const float value : x) largest = max(largest, __float_as_uint(value) & 0x7fffffffU);
  largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 1));
  largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 2));
  const float scale = __fdiv_rn(__uint_as_float(largest), 127.0F);
  const float inverse = scale > 1e-37F ? __fdiv_rn(1.0F, scale) : 0.0F;
  int sum = 0;
  std::uint32_t words[2] = {0, 0};
  for (int i = 0; i < 8; ++i) {
    const int code = max(-127, min(127, __float2int_rn(__fmul_rn(x[i], inverse))));
    sum += code;
    words[i / 4] |= (static_cast<std::uint32_t>(code) & 255U) << (8 * (i % 4));
  }
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  const int high_sum = __shfl_xor_sync(kAllLanes, sum, 2);
  if (!valid) return;
  const std::uint8_t* plane = part < 2 ? to.low : to.high;
  auto* codes = const_cast<std::uint8_t*>(plane) + 16 * group + 8 * (part % 2);
  *reinterpret_cast<uint2*>(codes) = make_uint2(words[0], words[1]);
  if (part != 0) return;
  const unsigned sums = (static_cast<unsigned>(sum) & 0xffffU) | (static_cast<unsigned>(high_sum) << 16);
  const_cast<int2*>(to.facts)[group] = make_int2(__float_as_int(scale), static_cast<int>(sums));
}

// Codes `groups` groups of x with the threads of a block, of which there are a multiple of 32. x is aligned to 16.
// Before others read them: a barrier.
__device__ inline void code_by_block(const float* x, std::int64_t groups, const CodedRows& to) {
  for (std::int64_t first = 0; first < groups; first += blockDim.x / 4) {
    const std::int64_t group = first + threadIdx.x / 4;
    const bool valid = group < groups;
    float4 from[2] = {make_float4(0.0F, 0.0F, 0.0F, 0.0F), make_float4(0.0F, 0.0F, 0.0F, 0.0F)};
    if (valid) {
      const auto* at = reinterpret_cast<const float4*>(x + kGroup * group) + 2 * (threadIdx.x % 4);
      from[0] = at[0];
      from[1] = at[1];
    }
    const float values[8] = {from[0].x, from[0].y, from[0].z, from[0].w, from[1].x, from[1].y, from[1].z, from[1].w};
    code_group(values, group, valid, to);
  }
}

// --- one lane's part ------------------------------------------------------------------------------------------------

// The 32 activations that meet a group.
struct ActivationGroup {
  uint4 low;
  uint4 high;
  float scale;
  int low_sum;
  int high_sum;
};

__device__ inline ActivationGroup activation_group(const CodedRows& x, std::int64_t row, int group) {
  // Whole pieces are counted, in 32 bits: an address then takes one instruction.
  const unsigned at =
      static_cast<unsigned>(min(row, x.last)) * static_cast<unsigned>(x.groups) + static_cast<unsigned>(group);
  const int2 facts = x.facts[at];
  return {reinterpret_cast<const uint4*>(x.low)[at], reinterpret_cast<const uint4*>(x.high)[at],
          __int_as_float(facts.x), static_cast<std::int16_t>(facts.y & 0xffff), facts.y >> 16};
}

__device__ inline int dot_16(const std::uint32_t (&codes)[4], const uint4& x, int sum) {
  sum = dot_s8(codes[0], x.x, sum);
  sum = dot_s8(codes[1], x.y, sum);
  sum = dot_s8(codes[2], x.z, sum);
  return dot_s8(codes[3], x.w, sum);
}

// sum + the product of a group
template <DType Type>
__device__ inline float add_group(const GroupCodes& codes, const GroupFactors& factors, const ActivationGroup& x,
                                  float sum) {
  using S = Stored<Type>;
  float product;
  if constexpr (S::kHalves) {
    const int low = dot_16(codes.low, x.low, -S::kShift * x.low_sum);
    const int high = dot_16(codes.high, x.high, -S::kShift * x.high_sum);
    product =
        __fmaf_rn(factors.scale[1], static_cast<float>(high), __fmul_rn(factors.scale[0], static_cast<float>(low)));
    if constexpr (S::kOffset) {
      product = __fmaf_rn(-factors.offset[0], static_cast<float>(x.low_sum), product);
      product = __fmaf_rn(-factors.offset[1], static_cast<float>(x.high_sum), product);
    }
  } else {
    const int both = x.low_sum + x.high_sum;
    const int dot = dot_16(codes.high, x.high, dot_16(codes.low, x.low, -S::kShift * both));
    product = __fmul_rn(factors.scale[0], static_cast<float>(dot));
    if constexpr (S::kOffset) product = __fmaf_rn(-factors.offset[0], static_cast<float>(both), product);
  }
  return __fmaf_rn(x.scale, product, sum);
}

// Whether the weights of the next step are on their way while those of this one are multiplied. With eight rows the
// registers are needed for sums, and other warps have enough to do in the meantime.
template <int Rows>
inline constexpr bool kReadsAhead = Rows < 8;

// sums[r][t] += the products of groups first, first + step, ... of weight row r with row t of x.
template <DType Type, int WeightRows, int Rows>
__device__ inline void add_groups(const StoredRow (&rows)[WeightRows], int first, int step, const CodedRows& x,
                                  float (&sums)[WeightRows][Rows]) {
  const int groups = static_cast<int>(x.groups);
  RawGroup<Type> raw[WeightRows];
  const auto load = [&](int group) {
    if (group >= groups) return;
#pragma unroll
    for (int r = 0; r < WeightRows; ++r) raw[r] = load_group<Type>(rows[r], group);
  };
  if constexpr (kReadsAhead<Rows>) load(first);
#pragma unroll 1
  for (int group = first; group < groups; group += step) {
    if constexpr (!kReadsAhead<Rows>) load(group);
    GroupCodes codes[WeightRows];
    GroupFactors factors[WeightRows];
#pragma unroll
    for (int r = 0; r < WeightRows; ++r) {
      codes[r] = expand_codes<Type>(raw[r]);
      factors[r] = expand_factors<Type>(raw[r], group);
    }
    if constexpr (kReadsAhead<Rows>) load(group + step);
#pragma unroll
    for (int t = 0; t < Rows; ++t) {
      const ActivationGroup at = activation_group(x, t, group);
#pragma unroll
      for (int r = 0; r < WeightRows; ++r) sums[r][t] = add_group<Type>(codes[r], factors[r], at, sums[r][t]);
    }
  }
}

// --- numbers --------------------------------------------------------------------------------------------------------

// Rows of floats; `aligned`: every row begins on 16 bytes.
struct FloatRows {
  const float* data = nullptr;
  std::int64_t stride = 0;
  std::int64_t cols = 0;
  std::int64_t last = 0;  // as in CodedRows
  std::int64_t aligned = 0;
};

// Numbers in 16 bytes.
template <DType Type>
inline constexpr int kChunk = 16 / static_cast<int>(block_size(Type).bytes);

// The numbers of a chunk; those of F8 are 2^-8 of their value, without the matrix's scale (NaN codes count as 480).
template <DType Type>
__device__ inline void expand_chunk(const std::uint32_t (&words)[4], float (&values)[kChunk<Type>]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (Type == DType::kF32) {
      values[i] = __uint_as_float(words[i]);
    } else if constexpr (Type == DType::kBF16) {
      values[2 * i] = low_bf16(words[i]);
      values[2 * i + 1] = high_bf16(words[i]);
    } else if constexpr (Type == DType::kF16) {
      values[2 * i] = f16_to_float(words[i] & 0xffffU);
      values[2 * i + 1] = f16_to_float(words[i] >> 16);
    } else {
      // Sign, exponent and fraction moved to where halves have them.
      const std::uint32_t even = ((words[i] & 0x00800080U) << 8) | ((words[i] & 0x007f007fU) << 7);
      const std::uint32_t odd = (words[i] & 0x80008000U) | ((words[i] & 0x7f007f00U) >> 1);
      values[4 * i] = f16_to_float(even & 0xffffU);
      values[4 * i + 1] = f16_to_float(odd & 0xffffU);
      values[4 * i + 2] = f16_to_float(even >> 16);
      values[4 * i + 3] = f16_to_float(odd >> 16);
    }
  }
}

// Four numbers of x, zeros behind the end of the row.
__device__ inline float4 four_of(const FloatRows& x, std::int64_t row, std::int64_t col) {
  const float* at =
      x.data + (static_cast<unsigned>(min(row, x.last)) * static_cast<unsigned>(x.stride) + static_cast<unsigned>(col));
  if (x.aligned != 0 && col + 4 <= x.cols) return *reinterpret_cast<const float4*>(at);
  return make_float4(col < x.cols ? at[0] : 0.0F, col + 1 < x.cols ? at[1] : 0.0F, col + 2 < x.cols ? at[2] : 0.0F,
                     col + 3 < x.cols ? at[3] : 0.0F);
}

// The same where every row begins on 16 bytes and goes on to the end of the last chunk.
__device__ inline float4 four_of_padded(const FloatRows& x, std::int64_t row, std::int64_t col) {
  const unsigned at =
      static_cast<unsigned>(min(row, x.last)) * (static_cast<unsigned>(x.stride) / 4) + static_cast<unsigned>(col) / 4;
  return reinterpret_cast<const float4*>(x.data)[at];
}

// sum + the product of a chunk; `scale` is that of F8.
template <DType Type, bool Padded = false>
__device__ inline float add_chunk(const float (&values)[kChunk<Type>], float scale, const FloatRows& x,
                                  std::int64_t row, std::int64_t col, float sum) {
  float product = Type == DType::kF8E4M3 ? 0.0F : sum;
#pragma unroll
  for (int i = 0; i < kChunk<Type>; i += 4) {
    const float4 four = Padded ? four_of_padded(x, row, col + i) : four_of(x, row, col + i);
    product = __fmaf_rn(values[i], four.x, product);
    product = __fmaf_rn(values[i + 1], four.y, product);
    product = __fmaf_rn(values[i + 2], four.z, product);
    product = __fmaf_rn(values[i + 3], four.w, product);
  }
  return Type == DType::kF8E4M3 ? __fmaf_rn(scale, product, sum) : product;
}

// 2^8 times the scale of F8 for a column of a row.
__device__ inline float f8_scale(const DeviceMatrix& w, std::int64_t row, std::int64_t col) {
  const std::int64_t across = (w.cols + 127) / 128;
  return 256.0F * reinterpret_cast<const float*>(w.scales)[row / 128 * across + col / 128];
}

template <DType Type>
__host__ __device__ constexpr int chunks_of(std::int64_t cols) {
  return static_cast<int>((cols + kChunk<Type> - 1) / kChunk<Type>);
}

// As add_groups, for chunks; `rows` are numbers of rows of w. x as for four_of_padded().
template <DType Type, int WeightRows, int Rows>
__device__ inline void add_chunks(const DeviceMatrix& w, const std::int64_t (&rows)[WeightRows], int first, int step,
                                  const FloatRows& x, float (&sums)[WeightRows][Rows]) {
  const int chunks = chunks_of<Type>(w.cols);
  const std::uint8_t* from[WeightRows];
#pragma unroll
  for (int r = 0; r < WeightRows; ++r) from[r] = w.codes + rows[r] * w.row_bytes;
  std::uint32_t raw[WeightRows][4];
  const auto load = [&](int chunk) {
    if (chunk >= chunks) return;
#pragma unroll
    for (int r = 0; r < WeightRows; ++r) load_16_bytes(from[r] + 16LL * chunk, raw[r]);
  };
  if constexpr (kReadsAhead<Rows>) load(first);
#pragma unroll 1
  for (int chunk = first; chunk < chunks; chunk += step) {
    if constexpr (!kReadsAhead<Rows>) load(chunk);
    const std::int64_t col = static_cast<std::int64_t>(chunk) * kChunk<Type>;
    float values[WeightRows][kChunk<Type>];
    float scales[WeightRows];
#pragma unroll
    for (int r = 0; r < WeightRows; ++r) {
      expand_chunk<Type>(raw[r], values[r]);
      scales[r] = Type == DType::kF8E4M3 ? f8_scale(w, rows[r], col) : 1.0F;
    }
    if constexpr (kReadsAhead<Rows>) load(chunk + step);
#pragma unroll
    for (int t = 0; t < Rows; ++t) {
#pragma unroll
      for (int r = 0; r < WeightRows; ++r) {
        sums[r][t] = add_chunk<Type, true>(values[r], scales[r], x, t, col, sums[r][t]);
      }
    }
  }
}

// --- a warp ---------------------------------------------------------------------------------------------------------

// How rows of a matrix are divided: `lanes` neighbouring lanes of each of `warps` warps share a row, so that a warp
// has 32 / lanes rows at a time. Depends on the matrix and the device alone, never on the activations.
struct RowShare {
  std::int32_t lanes = kWarp;  // 1, 2, 4, .. 32
  std::int32_t warps = 1;      // 1, 2, 4, 8
};

// Sum over `lanes` neighbouring lanes; all lanes of the warp must call it.
__device__ inline float share_sum(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// The activations that meet a type: CodedRows or FloatRows.
template <DType Type>
using Activations = std::conditional_t<kIsCoded<Type>, CodedRows, FloatRows>;

template <DType Type>
__host__ __device__ constexpr int units_of(std::int64_t cols) {
  if constexpr (kIsCoded<Type>) {
    return static_cast<int>(cols / kGroup);
  } else {
    return chunks_of<Type>(cols);
  }
}

// sums[r][t] = this lane's part of the product of row rows[r] with row t of x; the parts of lanes first % step ==
// 0 .. step - 1 together are the product. Rows of w must exist: repeat one where there are fewer.
template <DType Type, int WeightRows, int Rows>
__device__ inline void dot_rows(const DeviceMatrix& w, const std::int64_t (&rows)[WeightRows], int first, int step,
                                const Activations<Type>& x, float (&sums)[WeightRows][Rows]) {
#pragma unroll
  for (int r = 0; r < WeightRows; ++r) {
#pragma unroll
    for (int t = 0; t < Rows; ++t) sums[r][t] = 0.0F;
  }
  if constexpr (kIsCoded<Type>) {
    StoredRow stored[WeightRows];
#pragma unroll
    for (int r = 0; r < WeightRows; ++r) stored[r] = stored_row<Type>(w, rows[r]);
    add_groups<Type>(stored, first, step, x, sums);
  } else {
    add_chunks<Type>(w, rows, first, step, x, sums);
  }
}

// Calls work.template operator()<Type>() for a type known at run time, on the host.
template <class Work>
void with_type(DType type, const Work& work) {
  switch (type) {
    case DType::kF32:
      return work.template operator()<DType::kF32>();
    case DType::kF16:
      return work.template operator()<DType::kF16>();
    case DType::kBF16:
      return work.template operator()<DType::kBF16>();
    case DType::kF8E4M3:
      return work.template operator()<DType::kF8E4M3>();
    case DType::kQ8_0:
      return work.template operator()<DType::kQ8_0>();
    case DType::kQ4_0:
      return work.template operator()<DType::kQ4_0>();
    case DType::kQ4_1:
      return work.template operator()<DType::kQ4_1>();
    case DType::kQ5_0:
      return work.template operator()<DType::kQ5_0>();
    case DType::kQ5_1:
      return work.template operator()<DType::kQ5_1>();
    case DType::kQ2K:
      return work.template operator()<DType::kQ2K>();
    case DType::kQ3K:
      return work.template operator()<DType::kQ3K>();
    case DType::kQ4K:
      return work.template operator()<DType::kQ4K>();
    case DType::kQ5K:
      return work.template operator()<DType::kQ5K>();
    case DType::kQ6K:
      return work.template operator()<DType::kQ6K>();
    case DType::kIq4Nl:
      return work.template operator()<DType::kIq4Nl>();
    case DType::kIq4Xs:
      return work.template operator()<DType::kIq4Xs>();
    case DType::kMxfp4:
      return work.template operator()<DType::kMxfp4>();
  }
}

}  // namespace lectern::engine::cuda
