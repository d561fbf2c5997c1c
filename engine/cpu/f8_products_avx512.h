// SPDX-License-Identifier: Apache-2.0
// Included by kernels_avx512.cpp and kernels_avx512_vnni.cpp, inside an unnamed namespace: products of floats with
// weights in F8 E4M3, which are widened in registers: fifteen (with VBMI seven) operations for 64 weights, and four
// more for every row. A scale belongs to 128 rows of the matrix, so that x takes it and not the weights.

constexpr std::int64_t kF8Band = 128;      // rows and columns of w that share a scale
constexpr std::int64_t kF8Segment = 2048;  // columns whose x is kept with scales; then the lanes of a sum are added up
constexpr std::int64_t kF8Codes = 64;      // widened together
constexpr std::int64_t kF8Group = 16;      // rows of w that meet a piece of x while it is in the first-level cache
constexpr std::int64_t kF8Stride = kF8Segment + 16;  // of x: rows must not meet in the same cache sets

template <int Rows>
constexpr std::int64_t kF8Piece = Rows <= 2   ? 2048
                                  : Rows <= 4 ? 1024
                                              : 512;

// 64 weights, each times kF8Unit.
struct F8Weights {
  __m512 part[4];
  __mmask64 none = 0;  // codes that are no numbers, where part[] does not show it
};

#ifdef __AVX512VBMI__

constexpr float kF8Unit = 1;

struct F8Table {
  alignas(64) std::uint8_t bytes[128];
};

// Byte 2 or 3 of the float that each magnitude stands for; the others are zero.
constexpr F8Table f8_bytes_of_floats(int byte) {
  F8Table table = {};
  for (unsigned code = 0; code < 128; ++code) {
    const float subnormal = static_cast<float>(code) * 0x1p-9F;
    const std::uint32_t bits = code == 127 ? 0x7FC00000U
                               : code < 8  ? __builtin_bit_cast(std::uint32_t, subnormal)
                                           : (code << 20) + (120U << 23);
    table.bytes[code] = static_cast<std::uint8_t>(bits >> (8 * byte));
  }
  return table;
}

constexpr F8Table kF8Low = f8_bytes_of_floats(2);
constexpr F8Table kF8High = f8_bytes_of_floats(3);

// The index's uppermost bit, which is the sign, does not count.
inline __m512i look_up_f8(const F8Table& table, __m512i codes) {
  return _mm512_permutex2var_epi8(_mm512_load_si512(table.bytes), codes, _mm512_load_si512(table.bytes + 64));
}

// Two lookups give the upper two bytes of 64 floats; each quarter of them is then put into place.
[[gnu::always_inline]] inline F8Weights widen_f8_codes(__m512i codes) {
  constexpr __mmask64 kUpperBytes = 0xCCCCCCCCCCCCCCCCU;
  const __m512i low = look_up_f8(kF8Low, codes);
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  const __m512i high = _mm512_ternarylogic_epi64(look_up_f8(kF8High, codes), codes, sign, 0xF8);  // a | (b & c)
  const __m512i counting = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i both = _mm512_or_si512(_mm512_slli_epi32(counting, 16), _mm512_slli_epi32(counting, 24));
  F8Weights weights;
  for (int part = 0; part < 4; ++part) {
    const __m512i places = _mm512_add_epi32(both, _mm512_set1_epi32(part * 0x10100000 + 0x40000000));
    weights.part[part] = _mm512_castsi512_ps(_mm512_maskz_permutex2var_epi8(kUpperBytes, low, places, high));
  }
  return weights;
}

#else

constexpr float kF8Unit = 0x1p-8F;

// Shifted into the places of a half's fields a code is 2^-8 of its value, subnormal or not.
[[gnu::always_inline]] inline F8Weights widen_f8_codes(__m512i codes) {
  const __m512i magnitude = _mm512_set1_epi8(0x7F);
  F8Weights weights;
  weights.none = _mm512_cmpeq_epi8_mask(_mm512_and_si512(codes, magnitude), magnitude);
  for (int half = 0; half < 2; ++half) {
    const __m256i bytes = half == 0 ? _mm512_castsi512_si256(codes) : _mm512_extracti64x4_epi64(codes, 1);
    const __m512i shifted = _mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 7);  // bits 15 and 14 are the sign
    const __m512i halves = _mm512_and_si512(shifted, _mm512_set1_epi16(static_cast<short>(0xBF80)));
    weights.part[2 * half] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
    weights.part[2 * half + 1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
  }
  return weights;
}

#endif

// Some columns of x, each times its scale, with zeros to a multiple of kF8Codes.
template <int Rows>
void scale_f8_rows(const void* const* x, const float* scales, std::int64_t first, std::int64_t depth, float* to) {
  for (std::int64_t k = 0; k < (depth + kF8Codes - 1) / kF8Codes * kF8Codes; k += 16) {
    const std::int64_t left = smaller(16, depth - k);
    const auto present = static_cast<__mmask16>(left <= 0 ? 0 : (1U << left) - 1);
    const __m512 scale = _mm512_set1_ps(scales[(first + k) / kF8Band] / kF8Unit);
    for (int r = 0; r < Rows; ++r) {
      const float* from = static_cast<const float*>(x[r]) + first + smaller(k, depth);
      _mm512_storeu_ps(to + r * kF8Stride + k, _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(present, from)));
    }
  }
}

// Rows of w that are read side by side.
struct F8Streams {
  const std::uint8_t* codes;
  std::int64_t stride;  // from one to the next, in bytes
  std::int64_t ahead;   // from a row to the one that its stream comes to then: it is fetched meanwhile, if it exists
};

// sums[c * apart][r] += stream c times row r of x, lane by lane
template <int Rows, int Columns>
void add_f8(const F8Streams& w, const float* x, std::int64_t depth, __m512 (*sums)[Rows], std::int64_t apart) {
  __m512 local[Columns][Rows];
  __mmask64 none[Columns] = {};
  for (int c = 0; c < Columns; ++c) {
    for (int r = 0; r < Rows; ++r) local[c][r] = sums[c * apart][r];
  }
  for (std::int64_t k = 0; k < depth; k += kF8Codes) {
    const __mmask64 present = depth - k >= kF8Codes ? ~__mmask64{0} : (__mmask64{1} << (depth - k)) - 1;
    F8Weights weights[Columns];
    for (int c = 0; c < Columns; ++c) {
      const std::uint8_t* codes = w.codes + c * w.stride + k;
      _mm_prefetch(codes + w.ahead, _MM_HINT_T0);
      weights[c] = widen_f8_codes(_mm512_maskz_loadu_epi8(present, codes));
      none[c] |= weights[c].none;
    }
    for (int part = 0; part < 4; ++part) {
      for (int r = 0; r < Rows; ++r) {
        const __m512 values = _mm512_loadu_ps(x + r * kF8Stride + k + 16 * part);
        for (int c = 0; c < Columns; ++c) local[c][r] = _mm512_fmadd_ps(values, weights[c].part[part], local[c][r]);
      }
    }
  }
  for (int c = 0; c < Columns; ++c) {
    for (int r = 0; r < Rows; ++r) {
      sums[c * apart][r] = none[c] == 0 ? local[c][r] : _mm512_set1_ps(__builtin_nanf(""));
    }
  }
}

// Up to kF8Group rows of w. Those that lie behind one another in memory are read as a few long streams.
template <int Rows>
void add_f8_group(const std::uint8_t* w, std::int64_t w_stride, std::int64_t count, const float* x, std::int64_t depth,
                  __m512 (*sums)[Rows]) {
  constexpr int kColumns = Rows <= 4 ? 4 : 2;
  const bool streams = w_stride <= kF8Segment && count == kF8Group;
  const std::int64_t apart = streams ? kF8Group / kColumns : 1;
  for (std::int64_t k = 0; k < depth; k += kF8Piece<Rows>) {
    const std::int64_t piece = smaller(kF8Piece<Rows>, depth - k);
    for (std::int64_t i = 0; i < count / kColumns; ++i) {
      const std::int64_t c = streams ? i : i * kColumns;
      const std::int64_t next = !streams ? kColumns : i + 1 < apart ? 1 : kF8Group - i;
      add_f8<Rows, kColumns>({w + c * w_stride + k, apart * w_stride, next * w_stride}, x + k, piece, sums + c, apart);
    }
    for (std::int64_t c = count / kColumns * kColumns; c < count; ++c) {
      add_f8<Rows, 1>({w + c * w_stride + k, w_stride, w_stride}, x + k, piece, sums + c, 1);
    }
  }
}

// The sums of the lanes of four vectors.
inline __m128 f8_lane_sums(__m512 a, __m512 b, __m512 c, __m512 d) {
  const auto quarter = [](__m512 all) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  };
  const __m128 ab = _mm_hadd_ps(quarter(a), quarter(b));
  const __m128 cd = _mm_hadd_ps(quarter(c), quarter(d));
  return _mm_hadd_ps(ab, cd);
}

template <int Rows>
void store_f8_sums(const __m512 (*sums)[Rows], std::int64_t count, bool accumulate, float* y, std::int64_t y_stride) {
  for (std::int64_t c = 0; c < count; c += 4) {
    const auto present = static_cast<__mmask8>((1U << smaller(4, count - c)) - 1);
    for (int r = 0; r < Rows; ++r) {
      float* to = y + r * y_stride + c;
      __m128 all = f8_lane_sums(sums[c][r], sums[c + 1][r], sums[c + 2][r], sums[c + 3][r]);
      if (accumulate) all = _mm_add_ps(all, _mm_maskz_loadu_ps(present, to));
      _mm_mask_storeu_ps(to, present, all);
    }
  }
}

// Rows [n, end) of w, which share their scales.
template <int Rows>
void multiply_f8_band(const StoredProduct& p, std::int64_t row, std::int64_t n, std::int64_t end) {
  const HostMatrix& w = *p.w;
  const float* scales = w.scales + n / kF8Band * ((w.cols + kF8Band - 1) / kF8Band);
  alignas(64) float x[Rows * kF8Stride];
  for (std::int64_t first = 0; first < w.cols; first += kF8Segment) {
    const std::int64_t depth = smaller(kF8Segment, w.cols - first);
    scale_f8_rows<Rows>(p.x + row, scales, first, depth, x);
    for (std::int64_t group = n; group < end; group += kF8Group) {
      const std::int64_t count = smaller(kF8Group, end - group);
      __m512 sums[kF8Group][Rows];
      for (auto& line : sums) {
        for (__m512& sum : line) sum = _mm512_setzero_ps();
      }
      const std::uint8_t* codes = static_cast<const std::uint8_t*>(w.data) + group * w.cols + first;
      add_f8_group<Rows>(codes, w.cols, count, x, depth, sums);
      store_f8_sums<Rows>(sums, count, p.accumulate || first > 0, p.y + row * p.y_stride + (group - p.first),
                          p.y_stride);
    }
  }
}

template <int Rows>
void multiply_f8_rows(const StoredProduct& p, std::int64_t row) {
  for (std::int64_t n = p.first; n < p.last;) {
    const std::int64_t end = smaller(p.last, (n / kF8Band + 1) * kF8Band);
    multiply_f8_band<Rows>(p, row, n, end);
    n = end;
  }
}

inline void multiply_f8(const StoredProduct& p) {
  for (std::int64_t row = 0; row < p.rows; row += 8) {
    switch (p.rows - row) {
      case 1:
        return multiply_f8_rows<1>(p, row);
      case 2:
        return multiply_f8_rows<2>(p, row);
      case 3:
        return multiply_f8_rows<3>(p, row);
      case 4:
        return multiply_f8_rows<4>(p, row);
      case 5:
        return multiply_f8_rows<5>(p, row);
      case 6:
        return multiply_f8_rows<6>(p, row);
      case 7:
        return multiply_f8_rows<7>(p, row);
      default:
        multiply_f8_rows<8>(p, row);
    }
  }
}
