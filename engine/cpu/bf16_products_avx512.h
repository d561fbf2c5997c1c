// SPDX-License-Identifier: Apache-2.0
// Included once by kernels_avx512_vnni.cpp, inside an unnamed namespace: products of many rows. Weights are decoded to
// BF16, a tile at a time that stays in the second-level cache.

inline constexpr std::int64_t kTileDepth = 2048;
inline constexpr std::int64_t kTileColumns = 64;  // at most
// 32 numbers more than the depth, or the rows of a tile would meet in the same cache sets.
inline constexpr std::int64_t kTileNumbers = 32 * (kTileDepth + 32);
inline constexpr int kRowsAtOnce = 6;
inline constexpr int kColumnsAtOnce = 4;

inline void store_pair(__m512 low, __m512 high, std::uint16_t* to) {
  _mm512_storeu_si512(to, __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(high, low)));
}

inline void convert_to_bf16(const float* x, std::int64_t columns, std::uint16_t* to) {
  for (std::int64_t k = 0; k < columns; k += 32) {
    const __m512 low = _mm512_maskz_loadu_ps(first_lanes(columns - k), x + k);
    const __m512 high = _mm512_maskz_loadu_ps(first_lanes(columns - k - 16), x + smaller(k + 16, columns));
    store_pair(low, high, to + k);
  }
}

// BF16 is the upper half of a float; half of a unit of its last place is added first, to round.
inline __m512i with_half_unit(__m512 values) {
  return _mm512_add_epi32(_mm512_castps_si512(values), _mm512_set1_epi32(0x8000));
}

inline void store_upper_halves(__m512i low, __m512i high, std::uint16_t* to) {
  const __m512i counting = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i pairs = _mm512_add_epi32(_mm512_slli_epi32(counting, 18), _mm512_slli_epi32(counting, 2));
  const __m512i odd = _mm512_add_epi32(pairs, _mm512_set1_epi32(0x00030001));  // words 1, 3, 5, ... of both
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(low, odd, high));
}

// Bytes `first` to `first` + 15 as floats kRaise<Type> + byte: put where the mantissa has its units, below a fixed
// exponent. Bytes of eight bits need a larger one.
template <DType Type>
constexpr float kRaise = Type == DType::kQ8_0 ? 32768 : 128;

template <DType Type>
__m512 raised_floats(__m512i bytes, int first) {
  constexpr int kPlace = Type == DType::kQ8_0 ? 8 : 16;
  const __m512i exponent = _mm512_set1_epi32(__builtin_bit_cast(int, kRaise<Type>));
  // From 64 on an index means a byte of `exponent`.
  constexpr int kFixed = 0x43424140 & ~(0xFF << kPlace);
  const __m512i counting = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i own = _mm512_slli_epi32(_mm512_add_epi32(counting, _mm512_set1_epi32(first)), kPlace);
  const __m512i indices = _mm512_or_si512(own, _mm512_set1_epi32(kFixed));
  return _mm512_castsi512_ps(_mm512_permutex2var_epi8(bytes, indices, exponent));
}

// Scales and offsets of a row of a tile. They are kept in memory, where one of them can be read into all lanes by the
// instruction that uses it.
struct RowScales {
  alignas(64) float scales[kTileDepth / 16];
  alignas(64) float offsets[kTileDepth / 16];
};

template <DType Type>
[[gnu::always_inline]] inline void store_scales(const std::uint8_t* blocks, std::int64_t k, RowScales& row) {
  const Codes codes = decode<Type>(blocks);
  _mm512_store_ps(row.scales + k / 16, codes.scales);
  if constexpr (kNibbles<Type>) {
    _mm512_store_ps(row.offsets + k / 16, codes.offsets);
  } else if constexpr (kCentre<Type> == 0) {
    _mm512_store_ps(row.offsets + k / 16, _mm512_fmadd_ps(codes.scales, _mm512_set1_ps(kRaise<Type>), codes.offsets));
  }
}

// 256 columns, whose scales begin at `scales`
template <DType Type>
[[gnu::always_inline]] inline void write_block(const std::uint8_t* blocks, const float* scales, const float* offsets,
                                               std::uint16_t* to) {
  const Codes codes = decode<Type>(blocks);
  const auto values = [&](int group) {
    const __m512 raised = raised_floats<Type>(codes.part[group / 4], group % 4 * 16);
    if constexpr (kCentre<Type> == 0) {
      return _mm512_fmsub_ps(raised, _mm512_set1_ps(scales[group]), _mm512_set1_ps(offsets[group]));
    }
    const __m512 centred = _mm512_sub_ps(raised, _mm512_set1_ps(kRaise<Type> + kCentre<Type>));
    return _mm512_mul_ps(centred, _mm512_set1_ps(scales[group]));
  };
  for (int group = 0; group < 16; group += 2) {
    store_upper_halves(with_half_unit(values(group)), with_half_unit(values(group + 1)), to + 16 * group);
  }
}

// What each nibble stands for, in the upper halves of 32 bits.
inline __m512i table_of(__m512 codes, float scale, float offset) {
  return with_half_unit(_mm512_sub_ps(_mm512_mul_ps(codes, _mm512_set1_ps(scale)), _mm512_set1_ps(offset)));
}

template <DType Type>
[[gnu::always_inline]] inline void write_nibble_block(const std::uint8_t* blocks, const float* scales,
                                                      const float* offsets, std::uint16_t* to) {
  const __m512 values = nibble_codes<Type>();
  const __m512 odd_values = _mm512_mul_ps(values, _mm512_set1_ps(kOddCodeFactor<Type>));
  for (int group = 0; group < 16; group += 4) {
    __m512i first, second;
    nibble_pair<Type>(blocks, group / 2, first, second);
    const __m512i first_table = table_of(values, scales[group], offsets[group]);
    const __m512i second_table = table_of(odd_values, scales[group + 2], offsets[group + 2]);
    _mm512_storeu_si512(to + 16 * group, _mm512_permutexvar_epi16(first, first_table));
    _mm512_storeu_si512(to + 16 * group + 32, _mm512_permutexvar_epi16(second, second_table));
  }
}

// Columns [first, first + count) of a row; writes up to the next multiple of 256.
template <DType Type>
void decode_row(const HostMatrix& w, std::int64_t row, std::int64_t first, std::int64_t count, std::uint16_t* to) {
  constexpr std::int64_t kBytes = bytes_of(Type, 256);
  const std::uint8_t* blocks = row_of(w, row) + bytes_of(Type, first);
  std::uint8_t padded[kBytes] = {};
  if (count % 256 != 0) {
    __builtin_memcpy(padded, blocks + count / 256 * kBytes, static_cast<std::size_t>(bytes_of(Type, count % 256)));
  }
  const auto at = [&](std::int64_t k) { return k + 256 <= count ? blocks + k / 256 * kBytes : padded; };
  RowScales row_scales;
  for (std::int64_t k = 0; k < count; k += 256) store_scales<Type>(at(k), k, row_scales);
  for (std::int64_t k = 0; k < count; k += 256) {
    const float* scales = row_scales.scales + k / 16;
    const float* offsets = row_scales.offsets + k / 16;
    if constexpr (kNibbles<Type>) {
      write_nibble_block<Type>(at(k), scales, offsets, to + k);
    } else {
      write_block<Type>(at(k), scales, offsets, to + k);
    }
  }
}

// Shifted into the places of a half's fields a code is 2^-8 of its value.
inline void decode_f8_row(const HostMatrix& w, std::int64_t row, std::int64_t first, std::int64_t count,
                          std::uint16_t* to) {
  const std::uint8_t* codes = row_of(w, row) + first;
  const float* scales = w.scales + row / 128 * ((w.cols + 127) / 128);
  for (std::int64_t k = 0; k < count; k += 32) {
    const __mmask32 present = count - k >= 32 ? 0xFFFFFFFFU : (1U << (count - k)) - 1;
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(present, codes + k));
    const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi16(0x7F));
    const __mmask32 none = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7F));
    const __m512i sign = _mm512_slli_epi16(_mm512_xor_si512(wide, magnitude), 8);
    const __m512i bits = _mm512_mask_set1_epi16(_mm512_slli_epi16(magnitude, 7), none, 0x7E00);
    const __m512i halves = _mm512_or_si512(bits, sign);
    const __m512 scale = _mm512_set1_ps(256 * scales[(first + k) / 128]);
    const __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
    const __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    store_pair(_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale), to + k);
  }
}

using DecodeRow = void (*)(const HostMatrix& w, std::int64_t row, std::int64_t first, std::int64_t count,
                           std::uint16_t* to);

inline DecodeRow decoder_of(DType type) {
  switch (type) {
    case DType::kQ8_0:
      return decode_row<DType::kQ8_0>;
    case DType::kQ4_0:
      return decode_row<DType::kQ4_0>;
    case DType::kQ4_1:
      return decode_row<DType::kQ4_1>;
    case DType::kQ5_0:
      return decode_row<DType::kQ5_0>;
    case DType::kQ5_1:
      return decode_row<DType::kQ5_1>;
    case DType::kQ2K:
      return decode_row<DType::kQ2K>;
    case DType::kQ3K:
      return decode_row<DType::kQ3K>;
    case DType::kQ4K:
      return decode_row<DType::kQ4K>;
    case DType::kQ5K:
      return decode_row<DType::kQ5K>;
    case DType::kQ6K:
      return decode_row<DType::kQ6K>;
    case DType::kIq4Nl:
      return decode_row<DType::kIq4Nl>;
    case DType::kIq4Xs:
      return decode_row<DType::kIq4Xs>;
    case DType::kMxfp4:
      return decode_row<DType::kMxfp4>;
    default:
      return decode_f8_row;  // form_for() wants kBFloat16 for blocks and F8 alone
  }
}

// Memory that will be read soon, fetched a line at a time between other work.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const std::uint8_t* begin, std::int64_t bytes) : next_(begin), end_(begin + bytes) {}
  void fetch_line() {
    _mm_prefetch(next_, _MM_HINT_T1);
    next_ += next_ < end_ ? 64 : 0;
  }

 private:
  const std::uint8_t* next_ = nullptr;
  const std::uint8_t* end_ = nullptr;
};

// Decoded weights: columns [first, first + depth) of rows [row, row + count) of the matrix.
struct Tile {
  const std::uint16_t* numbers = nullptr;  // [count to a multiple of kColumnsAtOnce, stride]
  std::int64_t stride = 0;
  std::int64_t count = 0;
  std::int64_t first = 0;
  std::int64_t depth = 0;
};

inline __m512bh load_bf16(const std::uint16_t* p) { return __builtin_bit_cast(__m512bh, _mm512_loadu_si512(p)); }

template <int Rows>
void multiply_block(const std::uint16_t* const* x, const Tile& tile, std::int64_t column, bool accumulate, float* y,
                    std::int64_t y_stride, Ahead& ahead) {
  Ahead fetched = ahead;
  const std::uint16_t* w = tile.numbers + column * tile.stride;
  const std::uint16_t* in[Rows];
  for (int r = 0; r < Rows; ++r) in[r] = x[r];
  __m512 sums[Rows][kColumnsAtOnce];
  for (auto& line : sums) {
    for (__m512& sum : line) sum = _mm512_setzero_ps();
  }
  for (std::int64_t k = 0; k < tile.depth; k += 32) {
    fetched.fetch_line();
    __m512bh columns[kColumnsAtOnce];
    for (int c = 0; c < kColumnsAtOnce; ++c) columns[c] = load_bf16(w + c * tile.stride + k);
    for (int r = 0; r < Rows; ++r) {
      const __m512bh values = load_bf16(in[r] + k);
      for (int c = 0; c < kColumnsAtOnce; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], values, columns[c]);
    }
  }
  ahead = fetched;
  const std::int64_t count = smaller(kColumnsAtOnce, tile.count - column);
  for (int r = 0; r < Rows; ++r) {
    store_sums(sums_of(sums[r][0], sums[r][1], sums[r][2], sums[r][3]), count, accumulate, y + r * y_stride + column);
  }
}

template <int Rows>
void multiply_rows(const StoredProduct& p, std::int64_t row, const Tile& tile, float* y, Ahead& ahead) {
  const std::uint16_t* x[Rows];
  for (int r = 0; r < Rows; ++r) x[r] = static_cast<const std::uint16_t*>(p.x[row + r]) + tile.first;
  for (std::int64_t column = 0; column < tile.count; column += kColumnsAtOnce) {
    multiply_block<Rows>(x, tile, column, p.accumulate || tile.first > 0, y + row * p.y_stride, p.y_stride, ahead);
  }
}

// All rows in blocks of equal height, or nearly so: a block of one or two rows would wait for its sums.
inline void multiply_tile(const StoredProduct& p, const Tile& tile, float* y, Ahead ahead) {
  const std::int64_t blocks = (p.rows + kRowsAtOnce - 1) / kRowsAtOnce;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t row = block * p.rows / blocks;
    switch ((block + 1) * p.rows / blocks - row) {
      case 1:
        multiply_rows<1>(p, row, tile, y, ahead);
        break;
      case 2:
        multiply_rows<2>(p, row, tile, y, ahead);
        break;
      case 3:
        multiply_rows<3>(p, row, tile, y, ahead);
        break;
      case 4:
        multiply_rows<4>(p, row, tile, y, ahead);
        break;
      case 5:
        multiply_rows<5>(p, row, tile, y, ahead);
        break;
      default:
        multiply_rows<6>(p, row, tile, y, ahead);
        break;
    }
  }
}

inline void multiply_bf16(const StoredProduct& p) {
  const HostMatrix& w = *p.w;
  const DecodeRow decode_columns = decoder_of(w.dtype);
  const std::int64_t stride = smaller(kTileDepth, (w.cols + 255) / 256 * 256) + 32;
  const std::int64_t step = smaller(kTileColumns, kTileNumbers / stride / kColumnsAtOnce * kColumnsAtOnce);
  alignas(64) std::uint16_t numbers[kTileNumbers];
  for (std::int64_t n = p.first; n < p.last; n += step) {
    const std::int64_t count = smaller(step, p.last - n);
    for (std::int64_t k = 0; k < w.cols; k += kTileDepth) {
      const std::int64_t depth = smaller(kTileDepth, w.cols - k);
      for (std::int64_t c = 0; c < count; ++c) decode_columns(w, n + c, k, depth, numbers + c * stride);
      for (std::int64_t c = count; c % kColumnsAtOnce != 0; ++c) {
        __builtin_memset(numbers + c * stride, 0, static_cast<std::size_t>(stride) * sizeof numbers[0]);
      }
      const bool last_depth = k + depth == w.cols;
      const bool last = last_depth && n + count == p.last;
      Ahead ahead(row_of(w, last_depth ? n + count : n), last ? 0 : bytes_of(w.dtype, step * w.cols));
      if (last && p.next != nullptr) ahead = Ahead(p.next, bytes_of(w.dtype, step * w.cols));
      multiply_tile(p, {numbers, stride, count, k, depth}, p.y + (n - p.first), ahead);
    }
  }
}
