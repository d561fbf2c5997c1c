// SPDX-License-Identifier: Apache-2.0
// Included once by kernels_avx512_vnni.cpp, inside an unnamed namespace: products of 8-bit activations. The speed of
// one row is that of reading the weights; more take kSmallBatchRows at a time.

// 256 columns in their order.
struct PlainBlock {
  alignas(64) std::int8_t codes[256];
  alignas(64) float scales[16];
  alignas(64) float sums[16];
};

// 32 columns, of which those beyond the masks are zero. Numbers that are none make the scale one of them.
inline void convert_group(const float* x, __mmask16 low_mask, __mmask16 high_mask, PlainBlock& to, int group) {
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
  to.sums[2 * group] = static_cast<float>(_mm512_reduce_add_epi32(low_codes));
  to.sums[2 * group + 1] = static_cast<float>(_mm512_reduce_add_epi32(high_codes));
}

inline __mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
}

// In the order of turned codes.
inline void turn_block(const PlainBlock& from, Int8Block& to) {
  __m512i codes[4];
  for (int i = 0; i < 4; ++i) codes[i] = _mm512_load_si512(from.codes + 64 * i);
  __m512i turned[4];
  turn(codes, turned);
  for (int i = 0; i < 4; ++i) _mm512_storeu_si512(to.codes + 64 * i, turned[i]);
  const __m512 sums = _mm512_load_ps(from.sums);
  const __m512 scales = _mm512_load_ps(from.scales);
  const __m512 of_both = _mm512_mul_ps(scales, _mm512_add_ps(sums, _mm512_permute_ps(sums, 0b10'11'00'01)));
  const __m512i both_lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 4, 8, 12, 0, 0, 0, 0, 2, 6, 10, 14);
  _mm512_storeu_ps(to.scales, _mm512_permutexvar_ps(turned_lanes(), scales));
  _mm512_storeu_ps(to.sums, _mm512_permutexvar_ps(turned_lanes(), sums));
  _mm512_storeu_ps(to.split_sums, _mm512_maskz_permutexvar_ps(0xF0F0, both_lanes, of_both));
}

inline void convert_to_int8(const float* x, std::int64_t columns, Int8Block* to) {
  PlainBlock plain;
  for (std::int64_t k = 0; k < columns; k += 256, ++to) {
    for (int group = 0; group < 8; ++group) {
      const std::int64_t left = columns - k - 32 * group;
      convert_group(x + k + smaller(32 * group, columns - k), first_lanes(left), first_lanes(left - 16), plain, group);
    }
    turn_block(plain, *to);
  }
}

// sums[r] += codes . x[r]
template <DType Type, int Rows>
[[gnu::always_inline]] inline void add_products(const TurnedCodes& codes, const Int8Block* const* x, std::int64_t block,
                                                __m512* sums) {
  for (int r = 0; r < Rows; ++r) {
    const Int8Block& in = x[r][block];
    __m512i products = _mm512_setzero_si512();
    for (int i = 0; i < 4; ++i) {
      products = _mm512_dpbusd_epi32(products, codes.part[i], _mm512_loadu_si512(in.codes + 64 * i));
    }
    const __m512 scales = _mm512_mul_ps(codes.scales, _mm512_loadu_ps(in.scales));
    __m512 numbers = _mm512_cvtepi32_ps(products);
    if constexpr (kRaised<Type> != 0) {  // exact, both being small integers
      numbers = _mm512_fnmadd_ps(_mm512_set1_ps(kRaised<Type>), _mm512_loadu_ps(in.sums), numbers);
    } else if constexpr (kSplitOffsets<Type>) {
      sums[r] = _mm512_fnmadd_ps(codes.offsets, _mm512_loadu_ps(in.split_sums), sums[r]);
    } else {
      const __m512 offsets = _mm512_mul_ps(codes.offsets, _mm512_loadu_ps(in.scales));
      sums[r] = _mm512_fnmadd_ps(offsets, _mm512_loadu_ps(in.sums), sums[r]);
    }
    sums[r] = _mm512_fmadd_ps(numbers, scales, sums[r]);
  }
}

// Always inline: GCC 12 drops calls of functions that only prefetch.
[[gnu::always_inline]] inline void fetch(const std::uint8_t* from, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T1);
}

inline constexpr std::int64_t kPartBlocks = 4;
inline constexpr std::int64_t kTileRows = 8;  // of weights

template <int Rows>
struct Int8Rows {
  const Int8Block* x[Rows];

  explicit Int8Rows(const StoredProduct& p) {
    for (int r = 0; r < Rows; ++r) x[r] = static_cast<const Int8Block*>(p.x[r]);
  }
};

// Blocks [block, end) of a row of weights; from block 0 on the sums begin anew.
template <DType Type, int Rows>
[[gnu::always_inline]] inline void add_blocks(const std::uint8_t* row, std::int64_t block, std::int64_t end,
                                              const Int8Rows<Rows>& x, __m512 (&sums)[Rows]) {
  __m512 local[Rows];
  for (int r = 0; r < Rows; ++r) local[r] = block == 0 ? _mm512_setzero_ps() : sums[r];
  for (; block < end; ++block) {
    add_products<Type, Rows>(decode_turned<Type>(row + block * bytes_of(Type, 256)), x.x, block, local);
  }
  for (int r = 0; r < Rows; ++r) sums[r] = local[r];
}

// Of up to four rows of weights.
template <int Rows>
[[gnu::always_inline]] inline void store_tile(const StoredProduct& p, std::int64_t n, const __m512 (*sums)[Rows],
                                              bool accumulate) {
  const std::int64_t count = smaller(4, p.last - n);
  for (int r = 0; r < Rows; ++r) {
    store_sums(sums_of(sums[0][r], sums[1][r], sums[2][r], sums[3][r]), count, accumulate,
               p.y + r * p.y_stride + (n - p.first));
  }
}

// Few or short rows of x stay in the first-level cache, and memory sees by itself that the weights are read in order;
// only their beginning has to be fetched.
template <DType Type, int Rows>
void multiply_in_order(const StoredProduct& p) {
  const Int8Rows<Rows> x(p);
  const std::int64_t row_bytes = bytes_of(Type, p.w->cols);
  const std::int64_t blocks = p.w->cols / 256;
  const std::uint8_t* weights = row_of(*p.w, p.first);
  if (p.next != nullptr) fetch(p.next, 1024);
  for (std::int64_t n = p.first; n < p.last; n += 4) {
    __m512 sums[4][Rows];
    for (std::int64_t c = 0; c < 4; ++c) {
      add_blocks<Type>(weights, 0, c < p.last - n ? blocks : 0, x, sums[c]);
      weights += row_bytes;
    }
    store_tile<Rows>(p, n, sums, p.accumulate);
  }
}

// Many long rows of x together fill the first-level cache: a tile of weights takes them in parts of some blocks. What
// is not read in order has to be fetched ahead; behind the last row come the weights that are used next.
template <DType Type, int Rows>
void multiply_in_parts(const StoredProduct& p) {
  constexpr std::int64_t kBytes = bytes_of(Type, 256);
  const Int8Rows<Rows> x(p);
  const std::int64_t row_bytes = bytes_of(Type, p.w->cols);
  const std::int64_t blocks = p.w->cols / 256;
  const std::uint8_t* weights = row_of(*p.w, p.first);
  for (std::int64_t n = p.first; n < p.last; n += kTileRows, weights += kTileRows * row_bytes) {
    __m512 sums[kTileRows][Rows];
    for (std::int64_t block = 0; block < blocks; block += kPartBlocks) {
      const std::int64_t end = smaller(blocks, block + kPartBlocks);
      for (std::int64_t c = 0; c < kTileRows; ++c) {
        const std::int64_t ahead = n + c + 2 * kTileRows;
        const std::uint8_t* later = ahead < p.last ? row_of(*p.w, ahead) : p.next + (ahead - p.last) * row_bytes;
        if (ahead < p.last || p.next != nullptr) fetch(later + block * kBytes, (end - block) * kBytes);
        add_blocks<Type>(weights + c * row_bytes, block, n + c < p.last ? end : block, x, sums[c]);
      }
    }
    store_tile<Rows>(p, n, sums, p.accumulate);
    if (n + 4 < p.last) store_tile<Rows>(p, n + 4, sums + 4, p.accumulate);
  }
}

// Those whose columns end before the 256th.
template <DType Type, int Rows>
void add_last_blocks(const StoredProduct& p) {
  const Int8Rows<Rows> x(p);
  const std::int64_t block = p.w->cols / 256;
  for (std::int64_t n = p.first; n < p.last; n += 4) {
    __m512 sums[4][Rows] = {};
    for (std::int64_t c = 0; c < smaller(4, p.last - n); ++c) {
      std::uint8_t padded[bytes_of(Type, 256)] = {};
      __builtin_memcpy(padded, row_of(*p.w, n + c) + block * bytes_of(Type, 256),
                       static_cast<std::size_t>(bytes_of(Type, p.w->cols % 256)));
      add_products<Type, Rows>(decode_turned<Type>(padded), x.x, block, sums[c]);
    }
    store_tile<Rows>(p, n, sums, true);
  }
}

template <DType Type, int Rows>
void multiply_int8_rows(const StoredProduct& p) {
  if (Rows > 2 && p.w->cols / 256 > kPartBlocks) {
    multiply_in_parts<Type, Rows>(p);
  } else {
    multiply_in_order<Type, Rows>(p);
  }
  if (p.w->cols % 256 != 0) add_last_blocks<Type, Rows>(p);
}

// Up to `Most` rows at once.
template <DType Type, int Most>
void multiply_int8_batch(const StoredProduct& p) {
  if (p.rows == Most) return multiply_int8_rows<Type, Most>(p);
  if constexpr (Most > 1) multiply_int8_batch<Type, Most - 1>(p);
}

// Batches of nearly equal size.
template <DType Type>
void multiply_int8_as(const StoredProduct& p) {
  constexpr int kMost = static_cast<int>(kSmallBatchRows);
  StoredProduct batch = p;
  std::int64_t row = 0;
  for (std::int64_t batches = (p.rows + kMost - 1) / kMost; batches > 0; --batches, row += batch.rows) {
    batch.x = p.x + row;
    batch.y = p.y + row * p.y_stride;
    batch.rows = (p.rows - row + batches - 1) / batches;
    batch.next = batches > 1 ? row_of(*p.w, p.first) : p.next;
    multiply_int8_batch<Type, kMost>(batch);
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
