// SPDX-License-Identifier: Apache-2.0
// Included once by kernels_avx512_vnni.cpp, inside an unnamed namespace: products of up to kSmallBatchRows rows, whose
// speed is that of reading the weights.

// 32 columns, of which those beyond `columns` are zero. Numbers that are none make the scale one of them.
inline void convert_group(const float* x, __mmask16 low_mask, __mmask16 high_mask, Int8Block& to, int group) {
  const __m512 low = _mm512_maskz_loadu_ps(low_mask, x);
  const __m512 high = _mm512_maskz_loadu_ps(high_mask, x + 16);
  // As integers, because those compare a NaN above all numbers.
  const __m512i magnitude =
      _mm512_max_epu32(_mm512_castps_si512(_mm512_abs_ps(low)), _mm512_castps_si512(_mm512_abs_ps(high)));
  const float largest = __builtin_bit_cast(float, _mm512_reduce_max_epu32(magnitude));
  const float scale = largest / 127;
  const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1 / scale : 0);
  const __m512i low_codes = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
  const __m512i high_codes = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
  std::int8_t* codes = to.codes + 32 * group;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtsepi32_epi8(low_codes));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtsepi32_epi8(high_codes));
  to.scales[2 * group] = to.scales[2 * group + 1] = scale;
  to.sums[2 * group] = scale * static_cast<float>(_mm512_reduce_add_epi32(low_codes));
  to.sums[2 * group + 1] = scale * static_cast<float>(_mm512_reduce_add_epi32(high_codes));
}

inline __mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
}

inline void convert_to_int8(const float* x, std::int64_t columns, Int8Block* to) {
  for (std::int64_t k = 0; k < columns; k += 256, ++to) {
    for (int group = 0; group < 8; ++group) {
      const std::int64_t left = columns - k - 32 * group;
      convert_group(x + k + smaller(32 * group, columns - k), first_lanes(left), first_lanes(left - 16), *to, group);
    }
  }
}

// Partial sums of one row; two, so that an addition need not wait for the one before.
struct Sums {
  __m512 even;
  __m512 odd;
};

// sums[r] += codes . x[r]
template <int Rows>
[[gnu::always_inline]] inline void add_products(const Codes& codes, const Int8Block* const* x, std::int64_t block,
                                                Sums* sums) {
  const __m512i quarter = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  for (int r = 0; r < Rows; ++r) {
    const Int8Block& in = x[r][block];
    const __m512 scales = _mm512_mul_ps(codes.scales, _mm512_loadu_ps(in.scales));
    sums[r].odd = _mm512_fnmadd_ps(codes.offsets, _mm512_loadu_ps(in.sums), sums[r].odd);
    for (int i = 0; i < 4; ++i) {
      const __m512i products =
          _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes.part[i], _mm512_loadu_si512(in.codes + 64 * i));
      const __m512 scale = _mm512_permutexvar_ps(_mm512_add_epi32(quarter, _mm512_set1_epi32(4 * i)), scales);
      __m512& sum = i % 2 == 0 ? sums[r].even : sums[r].odd;
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, sum);
    }
  }
}

// Nothing is prefetched by hand: it took more time than it saved.
template <DType Type, int Rows>
[[gnu::always_inline]] inline void dot_row(const std::uint8_t* row, std::int64_t columns, const Int8Block* const* x,
                                           __m512* sums) {
  constexpr int kBytes = static_cast<int>(bytes_of(Type, 256));
  Sums local[Rows];
  for (Sums& sum : local) sum = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  std::int64_t block = 0;
  for (; block < columns / 256; ++block) {
    add_products<Rows>(decode<Type>(row + block * kBytes), x, block, local);
  }
  if (columns % 256 != 0) {
    add_products<Rows>(decode_rest<Type>(row + block * kBytes, columns % 256), x, block, local);
  }
  for (int r = 0; r < Rows; ++r) sums[r] = _mm512_add_ps(local[r].even, local[r].odd);
}

template <DType Type, int Rows>
void multiply_int8_rows(const StoredProduct& p) {
  const Int8Block* x[Rows];
  for (int r = 0; r < Rows; ++r) x[r] = static_cast<const Int8Block*>(p.x[r]);
  const std::uint8_t* weights = row_of(*p.w, p.first);
  const std::int64_t row_bytes = bytes_of(Type, p.w->cols);
  for (std::int64_t n = p.first; n < p.last; n += 4) {
    const std::int64_t count = smaller(4, p.last - n);
    __m512 sums[4][Rows];
    for (std::int64_t c = 0; c < 4; ++c) {
      if (c < count) {
        dot_row<Type, Rows>(weights, p.w->cols, x, sums[c]);
        weights += row_bytes;
      } else {
        for (__m512& sum : sums[c]) sum = _mm512_setzero_ps();
      }
    }
    for (int r = 0; r < Rows; ++r) {
      store_sums(sums_of(sums[0][r], sums[1][r], sums[2][r], sums[3][r]), count, p.accumulate,
                 p.y + r * p.y_stride + (n - p.first));
    }
  }
}

template <DType Type>
void multiply_int8_as(const StoredProduct& p) {
  switch (p.rows) {
    case 1:
      return multiply_int8_rows<Type, 1>(p);
    case 2:
      return multiply_int8_rows<Type, 2>(p);
    case 3:
      return multiply_int8_rows<Type, 3>(p);
    case 4:
      return multiply_int8_rows<Type, 4>(p);
    case 5:
      return multiply_int8_rows<Type, 5>(p);
    case 6:
      return multiply_int8_rows<Type, 6>(p);
    case 7:
      return multiply_int8_rows<Type, 7>(p);
    default:
      return multiply_int8_rows<Type, 8>(p);
  }
}

inline void multiply_int8(const StoredProduct& p) {
  switch (p.w->dtype) {
    case DType::kQ8_0:
      return multiply_int8_as<DType::kQ8_0>(p);
    case DType::kQ4_0:
      return multiply_int8_as<DType::kQ4_0>(p);
    case DType::kQ4_1:
      return multiply_int8_as<DType::kQ4_1>(p);
    case DType::kQ5_0:
      return multiply_int8_as<DType::kQ5_0>(p);
    case DType::kQ5_1:
      return multiply_int8_as<DType::kQ5_1>(p);
    case DType::kQ2K:
      return multiply_int8_as<DType::kQ2K>(p);
    case DType::kQ3K:
      return multiply_int8_as<DType::kQ3K>(p);
    case DType::kQ4K:
      return multiply_int8_as<DType::kQ4K>(p);
    case DType::kQ5K:
      return multiply_int8_as<DType::kQ5K>(p);
    case DType::kQ6K:
      return multiply_int8_as<DType::kQ6K>(p);
    case DType::kIq4Nl:
      return multiply_int8_as<DType::kIq4Nl>(p);
    case DType::kIq4Xs:
      return multiply_int8_as<DType::kIq4Xs>(p);
    case DType::kMxfp4:
      return multiply_int8_as<DType::kMxfp4>(p);
    default:
      break;  // form_for() wants kInt8 for blocks alone
  }
}
