// SPDX-License-Identifier: Apache-2.0
// Included once by kernels_avx2_int8.cpp, inside an unnamed namespace: activations of 8 bits, and products of up to
// kSmallBatchRows rows of them.

// What these kernels keep in an Int8Block: x = scale code.
struct Int8Lanes {
  std::int8_t codes[256];  // in the order of Codes::part
  float scales[8];         // of the groups 0, 2, 4, 6, 1, 3, 5, 7
  float sums[8];           // of scale code, of the same groups
  float half_sums[16];     // of halves of groups, in the order of Codes::scales
};
static_assert(sizeof(Int8Lanes) <= sizeof(Int8Block));

inline __m256i ones_of_16_bits() { return _mm256_set1_epi16(1); }

// The largest magnitude of 32 numbers, as integers, because those compare a NaN above all numbers.
inline float largest_magnitude(const __m256* x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i most = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
  }
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0b01'00'11'10));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0b10'11'00'01));
  return _mm_cvtss_f32(_mm_castsi128_ps(four));
}

// The codes of 32 numbers, in order. Numbers that are none make the scale one of them.
inline __m256i codes_of_group(const float* x, float& scale) {
  __m256 numbers[4];
  for (int i = 0; i < 4; ++i) numbers[i] = _mm256_loadu_ps(x + 8 * i);
  scale = largest_magnitude(numbers) / 127;
  const __m256 inverse = _mm256_set1_ps(scale > 0 ? 1 / scale : 0);
  __m256i codes[4];
  for (int i = 0; i < 4; ++i) codes[i] = _mm256_cvtps_epi32(_mm256_mul_ps(numbers[i], inverse));
  const __m256i packed =
      _mm256_packs_epi16(_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// The sums of the codes of halves of groups.
inline __m256i sums_of_codes(const __m256i* parts) {
  const __m256i low = _mm256_add_epi16(_mm256_maddubs_epi16(bytes_of_value(1), parts[0]),
                                       _mm256_maddubs_epi16(bytes_of_value(1), parts[1]));
  const __m256i high = _mm256_add_epi16(_mm256_maddubs_epi16(bytes_of_value(1), parts[2]),
                                        _mm256_maddubs_epi16(bytes_of_value(1), parts[3]));
  return _mm256_madd_epi16(_mm256_add_epi16(low, high), ones_of_16_bits());
}

inline void convert_block(const float* x, Int8Lanes& to) {
  __m256i groups[8];
  for (int g = 0; g < 8; ++g) groups[g] = codes_of_group(x + 32 * g, to.scales[g / 2 + g % 2 * 4]);
  __m256i parts[8];
  interleave(groups, parts);
  for (int i = 0; i < 8; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.codes + 32 * i), parts[i]);
  const __m256i even = sums_of_codes(parts);
  const __m256i odd = sums_of_codes(parts + 4);
  const __m256i whole =
      _mm256_add_epi32(_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31));
  const __m256 scales = _mm256_loadu_ps(to.scales);
  _mm256_storeu_ps(to.sums, _mm256_mul_ps(scales, _mm256_cvtepi32_ps(whole)));
  _mm256_storeu_ps(to.half_sums, _mm256_mul_ps(_mm256_permute2f128_ps(scales, scales, 0x00), _mm256_cvtepi32_ps(even)));
  _mm256_storeu_ps(to.half_sums + 8,
                   _mm256_mul_ps(_mm256_permute2f128_ps(scales, scales, 0x11), _mm256_cvtepi32_ps(odd)));
}

// Columns behind the last count as zeros.
inline void convert_to_int8(const float* x, std::int64_t columns, Int8Lanes* to) {
  std::int64_t k = 0;
  for (; k + 256 <= columns; k += 256) convert_block(x + k, *to++);
  if (k == columns) return;
  float padded[256] = {};
  __builtin_memcpy(padded, x + k, static_cast<std::size_t>(columns - k) * sizeof(float));
  convert_block(padded, *to);
}

// How the codes of a type may be multiplied. maddubs adds two products of unsigned and signed bytes in 16 bits and
// saturates: with activations up to 127, codes up to 31 leave room to add four such sums, codes up to 63 for two.
// Signed codes give their sign to the activations, and a magnitude up to 128 leaves room for none.
enum class CodeKind { kUpTo31, kUpTo63, kSigned };

template <DType Type>
constexpr CodeKind kCodeKind =
    Type == DType::kQ6K                                                      ? CodeKind::kUpTo63
    : Type == DType::kQ8_0 || Type == DType::kIq4Nl || Type == DType::kIq4Xs ? CodeKind::kSigned
                                                                             : CodeKind::kUpTo31;

template <DType Type>
constexpr bool kScaleFor16 = Type == DType::kQ2K || Type == DType::kQ3K || Type == DType::kQ6K;

// The sums of code x of four parts, in lanes.
template <CodeKind Kind>
[[gnu::always_inline]] inline __m256i multiply_parts(const __m256i* codes, const std::int8_t* x) {
  __m256i sums[4];
  for (int i = 0; i < 4; ++i) {
    const __m256i in = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 32 * i));
    if constexpr (Kind == CodeKind::kSigned) {
      sums[i] = _mm256_maddubs_epi16(_mm256_abs_epi8(codes[i]), _mm256_sign_epi8(in, codes[i]));
    } else {
      sums[i] = _mm256_maddubs_epi16(codes[i], in);
    }
  }
  const __m256i ones = ones_of_16_bits();
  if constexpr (Kind == CodeKind::kSigned) {
    for (__m256i& sum : sums) sum = _mm256_madd_epi16(sum, ones);
    return _mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3]));
  }
  const __m256i low = _mm256_add_epi16(sums[0], sums[1]);
  const __m256i high = _mm256_add_epi16(sums[2], sums[3]);
  if constexpr (Kind == CodeKind::kUpTo31) return _mm256_madd_epi16(_mm256_add_epi16(low, high), ones);
  return _mm256_add_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones));
}

// sums[r] += codes . x[r]. What a block gives is added at once, so that an addition waits for one other per block.
template <DType Type, int Rows>
[[gnu::always_inline]] inline void add_products(const Codes& codes, const Int8Lanes* const* x, std::int64_t block,
                                                __m256* sums) {
  constexpr CodeKind kKind = kCodeKind<Type>;
  for (int r = 0; r < Rows; ++r) {
    const Int8Lanes& in = x[r][block];
    const __m256 even = _mm256_cvtepi32_ps(multiply_parts<kKind>(codes.part, in.codes));
    const __m256 odd = _mm256_cvtepi32_ps(multiply_parts<kKind>(codes.part + 4, in.codes + 128));
    const auto scales = [&](int i) {
      const __m128 four = _mm_loadu_ps(in.scales + 4 * i);
      return _mm256_mul_ps(codes.scales[i], _mm256_set_m128(four, four));
    };
    __m256 sum = _mm256_fmadd_ps(odd, scales(1), _mm256_mul_ps(even, scales(0)));
    if constexpr (kScaleFor16<Type>) {
      sum = _mm256_fnmadd_ps(codes.offsets[0], _mm256_loadu_ps(in.half_sums), sum);
      sum = _mm256_fnmadd_ps(codes.offsets[1], _mm256_loadu_ps(in.half_sums + 8), sum);
    } else if constexpr (kKind != CodeKind::kSigned) {
      sum = _mm256_fnmadd_ps(codes.offsets[0], _mm256_loadu_ps(in.sums), sum);
    }
    sums[r] = _mm256_add_ps(sums[r], sum);
  }
}

// One row of weights, for one row of x, passes as fast as memory delivers it; with more rows its memory is read ahead
// by hand, or the products would wait for it.
template <DType Type, int Rows>
[[gnu::always_inline]] inline void dot_row(const std::uint8_t* row, std::int64_t columns, const Int8Lanes* const* x,
                                           __m256* sums) {
  constexpr int kBytes = static_cast<int>(bytes_of(Type, 256));
  constexpr int kAhead = 2048;
  __m256 local[Rows];
  for (__m256& sum : local) sum = _mm256_setzero_ps();
  std::int64_t block = 0;
  for (; block < columns / 256; ++block) {
    const std::uint8_t* weights = row + block * kBytes;
    for (int i = 0; Rows > 1 && i < kBytes; i += 64) __builtin_prefetch(weights + kAhead + i, 0, 2);
    add_products<Type, Rows>(decode<Type>(weights), x, block, local);
  }
  if (columns % 256 != 0) {
    add_products<Type, Rows>(decode_rest<Type>(row + block * kBytes, columns % 256), x, block, local);
  }
  for (int r = 0; r < Rows; ++r) sums[r] = local[r];
}

// The sums of the lanes of four vectors. Each is summed in the same order, so that its place does not matter.
inline __m128 sums_of(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

inline void store_sums(__m128 sums, std::int64_t count, bool accumulate, float* y) {
  const __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(count)), _mm_setr_epi32(0, 1, 2, 3));
  if (accumulate) sums = _mm_add_ps(sums, _mm_maskload_ps(y, mask));
  _mm_maskstore_ps(y, mask, sums);
}

template <DType Type, int Rows>
void multiply_rows(const StoredProduct& p) {
  const Int8Lanes* x[Rows];
  for (int r = 0; r < Rows; ++r) x[r] = static_cast<const Int8Lanes*>(p.x[r]);
  const std::int64_t row_bytes = bytes_of(Type, p.w->cols);
  const std::uint8_t* weights = static_cast<const std::uint8_t*>(p.w->data) + p.first * row_bytes;
  for (std::int64_t n = p.first; n < p.last; n += 4) {
    const std::int64_t count = p.last - n < 4 ? p.last - n : 4;
    __m256 sums[4][Rows] = {};
    for (std::int64_t c = 0; c < count; ++c, weights += row_bytes) {
      dot_row<Type, Rows>(weights, p.w->cols, x, sums[c]);
    }
    for (int r = 0; r < Rows; ++r) {
      store_sums(sums_of(sums[0][r], sums[1][r], sums[2][r], sums[3][r]), count, p.accumulate,
                 p.y + r * p.y_stride + (n - p.first));
    }
  }
}

template <DType Type>
void multiply_as(const StoredProduct& p) {
  static_assert(kSmallBatchRows == 8);
  switch (p.rows) {
    case 1:
      return multiply_rows<Type, 1>(p);
    case 2:
      return multiply_rows<Type, 2>(p);
    case 3:
      return multiply_rows<Type, 3>(p);
    case 4:
      return multiply_rows<Type, 4>(p);
    case 5:
      return multiply_rows<Type, 5>(p);
    case 6:
      return multiply_rows<Type, 6>(p);
    case 7:
      return multiply_rows<Type, 7>(p);
    default:
      return multiply_rows<Type, 8>(p);
  }
}
