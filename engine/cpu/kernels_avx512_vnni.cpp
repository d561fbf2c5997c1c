// SPDX-License-Identifier: Apache-2.0
// Products with stored weights on processors that multiply 8-bit integers (VNNI) and BF16: few rows as 8-bit integers,
// many as BF16 against tiles of decoded weights.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "ops/backend.h"

namespace lectern::engine::cpu::avx512_vnni {
namespace {

#include "cpu/block_decoders_avx512.h"
#include "cpu/turned_codes_avx512.h"

constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

inline const std::uint8_t* row_of(const HostMatrix& w, std::int64_t row) {
  return static_cast<const std::uint8_t*>(w.data) + row * bytes_of(w.dtype, w.cols);
}

// The sums of the lanes of four vectors. Each is summed in the same order, so that its place does not matter.
inline __m128 sums_of(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512 abcd = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

inline void store_sums(__m128 sums, std::int64_t count, bool accumulate, float* y) {
  const auto mask = static_cast<__mmask8>((1U << count) - 1);
  if (accumulate) sums = _mm_add_ps(sums, _mm_maskz_loadu_ps(mask, y));
  _mm_mask_storeu_ps(y, mask, sums);
}

#include "cpu/int8_products_avx512.h"

#include "cpu/bf16_products_avx512.h"

#include "cpu/f8_products_avx512.h"

}  // namespace

Form form_for(DType type, std::int64_t rows) {
  if (type == DType::kF32 || type == DType::kF16 || type == DType::kBF16) return Form::kFloat;
  if (rows > kSmallBatchRows) return Form::kBFloat16;
  return type == DType::kF8E4M3 ? Form::kFloat : Form::kInt8;
}

void convert(Form form, const float* x, std::int64_t columns, void* to) {
  if (form == Form::kInt8) {
    convert_to_int8(x, columns, static_cast<Int8Block*>(to));
  } else {
    convert_to_bf16(x, columns, static_cast<std::uint16_t*>(to));
  }
}

void multiply_stored(const StoredProduct& product) {
  switch (product.form) {
    case Form::kFloat:
      if (product.w->dtype == DType::kF8E4M3) return multiply_f8(product);  // of few rows: form_for()
      avx512::kKernels.multiply_stored(product);
      break;
    case Form::kInt8:
      multiply_int8(product);
      break;
    case Form::kBFloat16:
      multiply_bf16(product);
      break;
  }
}

}  // namespace lectern::engine::cpu::avx512_vnni
