// SPDX-License-Identifier: Apache-2.0
// Products with quantised weights as 8-bit integers, for processors with AVX2.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "ops/backend.h"

namespace lectern::engine::cpu::avx2_int8 {
namespace {

#include "cpu/block_decoders_avx2.h"

// 256 columns whose blocks end before.
template <DType Type>
Codes decode_rest(const std::uint8_t* blocks, std::int64_t columns) {
  std::uint8_t padded[bytes_of(Type, 256)] = {};
  __builtin_memcpy(padded, blocks, static_cast<std::size_t>(bytes_of(Type, columns)));
  return decode<Type>(padded);
}

#include "cpu/int8_products_avx2.h"

}  // namespace

// More rows than a batch, too: as floats, products of AVX2 take longer even once the weights are decoded.
Form form_for(DType type, std::int64_t /*rows*/) {
  const bool plain = type == DType::kF32 || type == DType::kF16 || type == DType::kBF16 || type == DType::kF8E4M3;
  return plain ? Form::kFloat : Form::kInt8;
}

void convert(Form, const float* x, std::int64_t columns, void* to) {
  convert_to_int8(x, columns, static_cast<Int8Lanes*>(to));
}

namespace {

void multiply_batch(const StoredProduct& p) {
  switch (p.w->dtype) {
    case DType::kQ8_0:
      return multiply_as<DType::kQ8_0>(p);
    case DType::kQ4_0:
      return multiply_as<DType::kQ4_0>(p);
    case DType::kQ4_1:
      return multiply_as<DType::kQ4_1>(p);
    case DType::kQ5_0:
      return multiply_as<DType::kQ5_0>(p);
    case DType::kQ5_1:
      return multiply_as<DType::kQ5_1>(p);
    case DType::kQ2K:
      return multiply_as<DType::kQ2K>(p);
    case DType::kQ3K:
      return multiply_as<DType::kQ3K>(p);
    case DType::kQ4K:
      return multiply_as<DType::kQ4K>(p);
    case DType::kQ5K:
      return multiply_as<DType::kQ5K>(p);
    case DType::kQ6K:
      return multiply_as<DType::kQ6K>(p);
    case DType::kIq4Nl:
      return multiply_as<DType::kIq4Nl>(p);
    case DType::kIq4Xs:
      return multiply_as<DType::kIq4Xs>(p);
    case DType::kMxfp4:
      return multiply_as<DType::kMxfp4>(p);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kF8E4M3:
      break;  // form_for() wants floats
  }
}

}  // namespace

// The weights of a call stay in the second-level cache from batch to batch.
void multiply(const StoredProduct& p) {
  StoredProduct batch = p;
  for (std::int64_t row = 0; row < p.rows; row += kSmallBatchRows) {
    batch.x = p.x + row;
    batch.y = p.y + row * p.y_stride;
    batch.rows = p.rows - row < kSmallBatchRows ? p.rows - row : kSmallBatchRows;
    multiply_batch(batch);
  }
}

}  // namespace lectern::engine::cpu::avx2_int8
