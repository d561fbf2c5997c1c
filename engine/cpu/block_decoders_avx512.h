// SPDX-License-Identifier: Apache-2.0
// Included once by kernels_avx512_vnni.cpp, inside an unnamed namespace: every block format as cpu/block_codes.h
// describes it, in registers. Offsets into blocks are those of quant/blocks.h.

// 256 columns of a row. Lane g of scales and offsets belongs to columns 16 g to 16 g + 15.
struct Codes {
  __m512i part[4];  // 64 columns each, in order, one byte each
  __m512 scales;
  __m512 offsets;
};

inline __m128i load16(const std::uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline __m256i load32(const std::uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m512i bytes_of_value(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }

inline std::uint16_t word_at(const std::uint8_t* p) {
  std::uint16_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

inline std::uint32_t word32_at(const std::uint8_t* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

inline __m512 half_everywhere(const std::uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(word_at(p))));
}

// Eight halves, `Stride` bytes apart, each for two lanes.
template <int Stride>
__m512 halves_of_blocks(const std::uint8_t* p) {
  const auto at = [p](int block) { return static_cast<short>(word_at(p + block * Stride)); };
  const __m128i halves = _mm_set_epi16(at(7), at(6), at(5), at(4), at(3), at(2), at(1), at(0));
  const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_cvtph_ps(halves)));
}

// Two blocks of 32: each 16 bytes, the low nibbles first.
inline __m512i nibbles_by_16(const std::uint8_t* first, const std::uint8_t* second) {
  const __m512i both =
      _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_castsi128_si256(load16(first)), load16(second), 1));
  const __m512i doubled = _mm512_shuffle_i64x2(both, both, 0x50);
  const __m512i shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
  return _mm512_and_si512(_mm512_srlv_epi64(doubled, shifts), bytes_of_value(15));
}

// 64 columns whose nibbles lie in 32 bytes: low ones first.
inline __m512i nibbles_by_32(const std::uint8_t* p) {
  const __m512i doubled = _mm512_broadcast_i64x4(load32(p));
  const __m512i shifts = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
  return _mm512_and_si512(_mm512_srlv_epi64(doubled, shifts), bytes_of_value(15));
}

// Bits `first` (columns 0 to 31) and `second` (32 to 63) of 32 bytes, and those above them, moved to bit `to`.
inline __m512i rotated(__m512i doubled, int first, int second, int to) {
  const auto a = static_cast<long long>((first - to + 64) % 64);
  const auto b = static_cast<long long>((second - to + 64) % 64);
  return _mm512_rorv_epi64(doubled, _mm512_set_epi64(b, b, b, b, a, a, a, a));
}

// The bits of `high` that `mask` has, added to `low`, which has none of them.
inline __m512i with_bits(__m512i low, __m512i high, int mask) {
  return _mm512_ternarylogic_epi64(low, high, bytes_of_value(mask), 0xF8);  // low | (high & mask)
}

template <int Stride, int Offset>
void decode_nibble_blocks(const std::uint8_t* p, Codes& out) {
  for (int i = 0; i < 4; ++i) {
    out.part[i] = nibbles_by_16(p + 2 * i * Stride + Offset, p + (2 * i + 1) * Stride + Offset);
  }
}

template <int Stride, int Offset>
void add_fifth_bits(const std::uint8_t* p, Codes& out) {
  for (int i = 0; i < 4; ++i) {
    const std::uint64_t low = word32_at(p + 2 * i * Stride + Offset);
    const std::uint64_t high = word32_at(p + (2 * i + 1) * Stride + Offset);
    out.part[i] = _mm512_mask_add_epi8(out.part[i], high << 32 | low, out.part[i], bytes_of_value(16));
  }
}

inline void look_up(__m128i table, Codes& out) {
  const __m512i everywhere = _mm512_broadcast_i32x4(table);
  for (__m512i& part : out.part) part = _mm512_shuffle_epi8(everywhere, part);
}

// IQ4_NL's values and MXFP4's doubled ones, raised by 127 and by 12.
inline __m128i iq4_codes() {
  return _mm_setr_epi8(0, 23, 44, 62, 78, 92, 105, 117, -128, -116, -104, -91, -76, -60, -40, -16);
}
inline __m128i mxfp4_codes() { return _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0); }

template <DType Type>
[[gnu::always_inline]] inline Codes decode(const std::uint8_t* p);

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ8_0>(const std::uint8_t* p) {
  Codes out;
  for (int i = 0; i < 4; ++i) {
    const __m512i low = _mm512_castsi256_si512(load32(p + 68 * i + 2));
    out.part[i] = _mm512_xor_si512(_mm512_inserti64x4(low, load32(p + 68 * i + 36), 1), bytes_of_value(128));
  }
  out.scales = halves_of_blocks<34>(p);
  out.offsets = _mm512_mul_ps(out.scales, _mm512_set1_ps(128));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ4_0>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<18, 2>(p, out);
  out.scales = halves_of_blocks<18>(p);
  out.offsets = _mm512_mul_ps(out.scales, _mm512_set1_ps(8));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ4_1>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<20, 4>(p, out);
  out.scales = halves_of_blocks<20>(p);
  out.offsets = _mm512_sub_ps(_mm512_setzero_ps(), halves_of_blocks<20>(p + 2));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ5_0>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<22, 6>(p, out);
  add_fifth_bits<22, 2>(p, out);
  out.scales = halves_of_blocks<22>(p);
  out.offsets = _mm512_mul_ps(out.scales, _mm512_set1_ps(16));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ5_1>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<24, 8>(p, out);
  add_fifth_bits<24, 4>(p, out);
  out.scales = halves_of_blocks<24>(p);
  out.offsets = _mm512_sub_ps(_mm512_setzero_ps(), halves_of_blocks<24>(p + 2));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kIq4Nl>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<18, 2>(p, out);
  look_up(iq4_codes(), out);
  out.scales = halves_of_blocks<18>(p);
  out.offsets = _mm512_mul_ps(out.scales, _mm512_set1_ps(127));
  return out;
}

// Scale 2^(exponent - 128): 255 counts as 2^127; 0 and 1 are subnormal.
inline __m512 mxfp4_scales(const std::uint8_t* p) {
  const auto at = [p](int block) { return static_cast<int>(p[17 * block]); };
  const __m256i exponents = _mm256_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
  const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)), 23);
  const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), exponents);
  const __m256i bits =
      _mm256_mask_blend_epi32(_mm256_cmplt_epi32_mask(exponents, _mm256_set1_epi32(2)), normal, subnormal);
  const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi32(twice, _mm512_castsi256_si512(bits)));
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kMxfp4>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<17, 1>(p, out);
  look_up(mxfp4_codes(), out);
  out.scales = mxfp4_scales(p);
  out.offsets = _mm512_mul_ps(out.scales, _mm512_set1_ps(12));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ2K>(const std::uint8_t* p) {
  Codes out;
  for (int i = 0; i < 4; ++i) {
    const __m512i doubled = _mm512_broadcast_i64x4(load32(p + 16 + 32 * (i / 2)));
    out.part[i] = _mm512_and_si512(rotated(doubled, i % 2 * 4, i % 2 * 4 + 2, 0), bytes_of_value(3));
  }
  const __m512i packed = _mm512_cvtepu8_epi32(load16(p));
  const __m512 scales = _mm512_cvtepi32_ps(_mm512_and_si512(packed, _mm512_set1_epi32(15)));
  const __m512 minima = _mm512_cvtepi32_ps(_mm512_srli_epi32(packed, 4));
  out.scales = _mm512_mul_ps(scales, half_everywhere(p + 80));
  out.offsets = _mm512_mul_ps(minima, half_everywhere(p + 82));
  return out;
}

// Six bits each: low nibbles of bytes 0 to 7, then high ones; two more bits in bytes 8 to 11, as in Q3_K.
inline __m512i q3_scales(const std::uint8_t* p) {
  const std::uint32_t low0 = word32_at(p);
  const std::uint32_t low1 = word32_at(p + 4);
  const std::uint32_t high = word32_at(p + 8);
  constexpr std::uint32_t kLow = 0x0F0F0F0F;
  constexpr std::uint32_t kHigh = 0x30303030;
  const __m128i scales = _mm_setr_epi32(static_cast<int>((low0 & kLow) | (high << 4 & kHigh)),
                                        static_cast<int>((low1 & kLow) | (high << 2 & kHigh)),
                                        static_cast<int>((low0 >> 4 & kLow) | (high & kHigh)),
                                        static_cast<int>((low1 >> 4 & kLow) | (high >> 2 & kHigh)));
  return _mm512_sub_epi32(_mm512_cvtepu8_epi32(scales), _mm512_set1_epi32(32));
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ3K>(const std::uint8_t* p) {
  Codes out;
  const __m512i high = _mm512_broadcast_i64x4(load32(p));
  for (int i = 0; i < 4; ++i) {
    const __m512i doubled = _mm512_broadcast_i64x4(load32(p + 32 + 32 * (i / 2)));
    const __m512i low = _mm512_and_si512(rotated(doubled, i % 2 * 4, i % 2 * 4 + 2, 0), bytes_of_value(3));
    out.part[i] = with_bits(low, rotated(high, 2 * i, 2 * i + 1, 2), 4);
  }
  out.scales = _mm512_mul_ps(_mm512_cvtepi32_ps(q3_scales(p + 96)), half_everywhere(p + 108));
  out.offsets = _mm512_mul_ps(out.scales, _mm512_set1_ps(4));
  return out;
}

// The first 16 bytes of Q4_K and Q5_K: two halves and twelve bytes of 6-bit scales and minima. Scales of the groups 1,
// 3, ... are multiplied by `odd_factor`.
inline void decode_k_scales(const std::uint8_t* p, float odd_factor, Codes& out) {
  const __m128i head = load16(p);
  const __m128i low = _mm_srlv_epi32(_mm_shuffle_epi32(head, 0b11'10'11'01), _mm_setr_epi32(0, 0, 0, 4));
  const __m128i low_bits = _mm_setr_epi32(0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F);
  const __m128i high = _mm_srli_epi32(_mm_shuffle_epi32(head, 0b10'10'01'01), 2);
  const __m128i high_bits = _mm_setr_epi32(0, 0x30303030, 0, 0x30303030);
  const __m128i six = _mm_or_si128(_mm_and_si128(low, low_bits), _mm_and_si128(high, high_bits));
  const __m512 integers = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(six));  // 8 scales, 8 minima
  const __m128 halves = _mm_cvtph_ps(head);
  const __m128 factors = _mm_unpacklo_ps(halves, _mm_mul_ps(halves, _mm_set1_ps(odd_factor)));
  const __m512i which = _mm512_set_epi32(2, 2, 2, 2, 2, 2, 2, 2, 1, 0, 1, 0, 1, 0, 1, 0);
  const __m512 both = _mm512_mul_ps(integers, _mm512_permutexvar_ps(which, _mm512_castps128_ps512(factors)));
  const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  out.scales = _mm512_permutexvar_ps(twice, both);
  out.offsets = _mm512_permutexvar_ps(_mm512_add_epi32(twice, _mm512_set1_epi32(8)), both);
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ4K>(const std::uint8_t* p) {
  Codes out;
  // High nibbles stay where they are: sixteen times the code with a sixteenth of the scale.
  const __m512i nibbles = _mm512_inserti64x4(_mm512_set1_epi8(15), _mm256_set1_epi8(static_cast<char>(0xF0)), 1);
  for (int i = 0; i < 4; ++i) {
    out.part[i] = _mm512_and_si512(_mm512_broadcast_i64x4(load32(p + 16 + 32 * i)), nibbles);
  }
  decode_k_scales(p, 1.0F / 16, out);
  return out;
}

inline void decode_q5k_codes(const std::uint8_t* p, __m512i (&part)[4]) {
  const __m512i fifth = _mm512_broadcast_i64x4(load32(p + 16));
  for (int i = 0; i < 4; ++i) {
    part[i] = with_bits(nibbles_by_32(p + 48 + 32 * i), rotated(fifth, 2 * i, 2 * i + 1, 4), 16);
  }
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ5K>(const std::uint8_t* p) {
  Codes out;
  decode_q5k_codes(p, out.part);
  decode_k_scales(p, 1, out);
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ6K>(const std::uint8_t* p) {
  Codes out;
  for (int half = 0; half < 2; ++half) {
    const __m512i low = _mm512_loadu_si512(p + 64 * half);
    const __m512i high = _mm512_broadcast_i64x4(load32(p + 128 + 32 * half));
    const __m512i nibble = bytes_of_value(15);
    out.part[2 * half] = with_bits(_mm512_and_si512(low, nibble), rotated(high, 0, 2, 4), 0x30);
    out.part[2 * half + 1] =
        with_bits(_mm512_and_si512(_mm512_srli_epi64(low, 4), nibble), rotated(high, 4, 6, 4), 0x30);
  }
  const __m512 scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(p + 192)));
  out.scales = _mm512_mul_ps(scales, half_everywhere(p + 208));
  out.offsets = _mm512_mul_ps(out.scales, _mm512_set1_ps(32));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kIq4Xs>(const std::uint8_t* p) {
  Codes out;
  for (int i = 0; i < 4; ++i) out.part[i] = nibbles_by_16(p + 8 + 32 * i, p + 24 + 32 * i);
  look_up(iq4_codes(), out);
  // Lane pairs 2 j, 2 j + 1: nibble j of the four low bytes, two bits at 2 j of the high ones.
  const __m512i nibbles = _mm512_set_epi32(28, 28, 24, 24, 20, 20, 16, 16, 12, 12, 8, 8, 4, 4, 0, 0);
  const __m512i low = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(word32_at(p + 4))), nibbles);
  const __m512i high = _mm512_srlv_epi32(_mm512_set1_epi32(word_at(p + 2)), _mm512_srli_epi32(nibbles, 1));
  const __m512i six = _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi32(15)),
                                      _mm512_slli_epi32(_mm512_and_si512(high, _mm512_set1_epi32(3)), 4));
  const __m512 scales = _mm512_cvtepi32_ps(_mm512_sub_epi32(six, _mm512_set1_epi32(32)));
  out.scales = _mm512_mul_ps(scales, half_everywhere(p));
  out.offsets = _mm512_mul_ps(out.scales, _mm512_set1_ps(127));
  return out;
}

// Types whose codes are nibbles, or what a table holds for them, with a scale for 32 columns.
template <DType Type>
constexpr bool kNibbles = Type == DType::kQ4_0 || Type == DType::kQ4_1 || Type == DType::kQ4K ||
                          Type == DType::kIq4Nl || Type == DType::kIq4Xs || Type == DType::kMxfp4;

// The code of each nibble; Q4_K's decoder gives those of its odd groups sixteenfold.
template <DType Type>
constexpr float kOddCodeFactor = Type == DType::kQ4K ? 16 : 1;

template <DType Type>
__m512 nibble_codes() {
  __m128i codes = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  if constexpr (Type == DType::kIq4Nl || Type == DType::kIq4Xs) codes = iq4_codes();
  if constexpr (Type == DType::kMxfp4) codes = mxfp4_codes();
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
}

// Of the types whose offset is that many scales, except for those in nibbles.
template <DType Type>
constexpr float kCentre = Type == DType::kQ8_0   ? 128
                          : Type == DType::kQ6K  ? 32
                          : Type == DType::kQ5_0 ? 16
                          : Type == DType::kQ3K  ? 4
                                                 : 0;

// The nibbles n of groups `group` and `group` + 1 of 32 columns, each in 16 bits as 2 n + 1, with higher bits that may
// be anything.
template <DType Type>
void nibble_pair(const std::uint8_t* p, int group, __m512i& first, __m512i& second) {
  const __m512i one = _mm512_set1_epi16(1);
  if constexpr (Type == DType::kQ4K) {
    const __m512i bytes = _mm512_cvtepu8_epi16(load32(p + 16 + 16 * group));
    first = _mm512_or_si512(_mm512_add_epi16(bytes, bytes), one);
    second = _mm512_or_si512(_mm512_srli_epi16(bytes, 3), one);
  } else {
    constexpr bool kLarge = Type == DType::kIq4Xs;
    constexpr int kStride = kLarge ? 16 : static_cast<int>(block_size(Type).bytes);
    constexpr int kOffset = kLarge ? 8 : kStride - 16;
    const std::uint8_t* nibbles = p + kOffset + group * kStride;
    // The second half has the high nibbles; the first is doubled by a rotation.
    const __m512i rotations = _mm512_inserti64x4(_mm512_set1_epi64(63), _mm256_set1_epi64x(3), 1);
    const auto spread = [&](const std::uint8_t* bytes) {
      const __m512i words = _mm512_cvtepu8_epi16(_mm256_broadcastsi128_si256(load16(bytes)));
      return _mm512_or_si512(_mm512_rorv_epi64(words, rotations), one);
    };
    first = spread(nibbles);
    second = spread(nibbles + kStride);
  }
}
