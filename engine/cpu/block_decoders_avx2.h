// SPDX-License-Identifier: Apache-2.0
// Included once by kernels_avx2_int8.cpp, inside an unnamed namespace: every block format in registers, in the order of
// columns that Int8Lanes has. Offsets into blocks are those of quant/blocks.h.

// The 256 columns of a block in lanes of 32 bits. A group has 32 columns, `half` 0 or 1 of it sixteen. Lane 4 half + i
// of a vector belongs to that half of group 2 i in the vectors for even groups, of group 2 i + 1 in those for odd ones,
// and vector v of four holds columns 4 v to 4 v + 3 of each half. So the products of one scale meet in one lane: no sum
// across lanes is needed before the scales are applied, and the lanes of even and odd groups are full.

// weight = scale code - offset, in this order. Types with a scale for 32 columns have both halves of `scales` equal and
// in offsets[0] lane i for group 2 i, 4 + i for group 2 i + 1. Codes that are signed have no offset.
struct Codes {
  __m256i part[8];    // even groups, odd groups
  __m256 scales[2];   // the same
  __m256 offsets[2];  // the same where a scale is for 16 columns
};

inline __m128i load16(const std::uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline __m256i load32(const std::uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256i load16_twice(const std::uint8_t* p) { return _mm256_broadcastsi128_si256(load16(p)); }
inline __m256i bytes_of_value(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }

inline std::uint16_t word_at(const std::uint8_t* p) {
  std::uint16_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

inline int word32_at(const std::uint8_t* p) {
  int word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

inline __m256 half_everywhere(const std::uint8_t* p) {
  return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(word_at(p))));
}

// Lanes of 32 bits.
inline __m256i each_lane(int l0, int l1, int l2, int l3) { return _mm256_setr_epi32(l0, l1, l2, l3, l0, l1, l2, l3); }
inline __m256i each_half(int first, int second) {
  return _mm256_setr_epi32(first, first, first, first, second, second, second, second);
}

// Groups as 32 bytes each, in order, to vectors of lanes.
[[gnu::always_inline]] inline void interleave(__m256i a, __m256i b, __m256i c, __m256i d, __m256i* to) {
  const __m256i ab_low = _mm256_unpacklo_epi32(a, b);
  const __m256i ab_high = _mm256_unpackhi_epi32(a, b);
  const __m256i cd_low = _mm256_unpacklo_epi32(c, d);
  const __m256i cd_high = _mm256_unpackhi_epi32(c, d);
  to[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
  to[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
  to[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
  to[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
}

[[gnu::always_inline]] inline void interleave(const __m256i* groups, __m256i* to) {
  interleave(groups[0], groups[2], groups[4], groups[6], to);
  interleave(groups[1], groups[3], groups[5], groups[7], to + 4);
}

// The same where bytes hold bits of several groups: lanes 0 and 1 of a half from `a`, 2 and 3 from `b`.
[[gnu::always_inline]] inline void spread(__m256i a, __m256i b, __m256i* to) {
  const __m256 first = _mm256_castsi256_ps(a);
  const __m256 second = _mm256_castsi256_ps(b);
  to[0] = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x00));
  to[1] = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x55));
  to[2] = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xAA));
  to[3] = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xFF));
}

inline __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, bytes_of_value(15)); }
inline __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }

// The bits of `high` that `mask` has, added to `low`, which has none of them.
inline __m256i with_bits(__m256i low, __m256i high, int mask) {
  return _mm256_or_si256(low, _mm256_and_si256(high, bytes_of_value(mask)));
}

// Numbers of the groups 0, 2, 4, 6, 1, 3, 5, 7.
inline void set_scales(__m256 by_group, Codes& out) {
  out.scales[0] = _mm256_permute2f128_ps(by_group, by_group, 0x00);
  out.scales[1] = _mm256_permute2f128_ps(by_group, by_group, 0x11);
}

template <int Stride>
__m256 halves_of_blocks(const std::uint8_t* p) {
  const auto at = [p](int block) { return static_cast<short>(word_at(p + block * Stride)); };
  return _mm256_cvtph_ps(_mm_setr_epi16(at(0), at(2), at(4), at(6), at(1), at(3), at(5), at(7)));
}

// Blocks of 32: 16 bytes each, the low nibbles first.
template <int Stride, int Offset>
[[gnu::always_inline]] inline void decode_nibble_blocks(const std::uint8_t* p, Codes& out) {
  for (int i = 0; i < 2; ++i) {
    const std::uint8_t* first = p + i * Stride + Offset;
    interleave(load16_twice(first), load16_twice(first + 2 * Stride), load16_twice(first + 4 * Stride),
               load16_twice(first + 6 * Stride), out.part + 4 * i);
  }
  for (__m256i& part : out.part) part = low_nibbles(_mm256_srlv_epi32(part, each_half(0, 4)));
}

// Those with a fifth bit for each column in 32 more.
template <int Stride, int Offset, int BitsOffset>
[[gnu::always_inline]] inline void decode_fifth_bit_blocks(const std::uint8_t* p, Codes& out) {
  const __m256i which = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                         2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
  __m256i groups[8];
  for (int g = 0; g < 8; ++g, p += Stride) {
    const __m256i bits = _mm256_shuffle_epi8(_mm256_set1_epi32(word32_at(p + BitsOffset)), which);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, bit), bit);
    groups[g] = with_bits(low_nibbles(_mm256_srlv_epi32(load16_twice(p + Offset), each_half(0, 4))), set, 16);
  }
  interleave(groups, out.part);
}

inline void look_up(__m128i table, Codes& out) {
  const __m256i everywhere = _mm256_broadcastsi128_si256(table);
  for (__m256i& part : out.part) part = _mm256_shuffle_epi8(everywhere, part);
}

// IQ4_NL's values, and MXFP4's doubled ones raised by 12.
inline __m128i iq4_values() {
  return _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
}
inline __m128i mxfp4_codes() { return _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0); }

template <DType Type>
[[gnu::always_inline]] inline Codes decode(const std::uint8_t* p);

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ8_0>(const std::uint8_t* p) {
  Codes out;
  __m256i groups[8];
  for (int g = 0; g < 8; ++g) groups[g] = load32(p + 34 * g + 2);
  interleave(groups, out.part);
  set_scales(halves_of_blocks<34>(p), out);
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ4_0>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<18, 2>(p, out);
  const __m256 scales = halves_of_blocks<18>(p);
  set_scales(scales, out);
  out.offsets[0] = _mm256_mul_ps(scales, _mm256_set1_ps(8));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ4_1>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<20, 4>(p, out);
  set_scales(halves_of_blocks<20>(p), out);
  out.offsets[0] = _mm256_sub_ps(_mm256_setzero_ps(), halves_of_blocks<20>(p + 2));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ5_0>(const std::uint8_t* p) {
  Codes out;
  decode_fifth_bit_blocks<22, 6, 2>(p, out);
  const __m256 scales = halves_of_blocks<22>(p);
  set_scales(scales, out);
  out.offsets[0] = _mm256_mul_ps(scales, _mm256_set1_ps(16));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ5_1>(const std::uint8_t* p) {
  Codes out;
  decode_fifth_bit_blocks<24, 8, 4>(p, out);
  set_scales(halves_of_blocks<24>(p), out);
  out.offsets[0] = _mm256_sub_ps(_mm256_setzero_ps(), halves_of_blocks<24>(p + 2));
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kIq4Nl>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<18, 2>(p, out);
  look_up(iq4_values(), out);
  set_scales(halves_of_blocks<18>(p), out);
  return out;
}

// Scale 2^(exponent - 128): 255 counts as 2^127; 0 and 1 are subnormal.
inline __m256 mxfp4_scales(const std::uint8_t* p) {
  const auto at = [p](int block) { return static_cast<char>(p[17 * block]); };
  const __m256i exponents = _mm256_cvtepu8_epi32(
      _mm_setr_epi8(at(0), at(2), at(4), at(6), at(1), at(3), at(5), at(7), 0, 0, 0, 0, 0, 0, 0, 0));
  const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)), 23);
  const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), exponents);
  const __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponents);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small));
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kMxfp4>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<17, 1>(p, out);
  look_up(mxfp4_codes(), out);
  const __m256 scales = mxfp4_scales(p);
  set_scales(scales, out);
  out.offsets[0] = _mm256_mul_ps(scales, _mm256_set1_ps(12));
  return out;
}

// The codes of Q2_K and the low bits of Q3_K: two bits of group j of each four in bits 2 j.
[[gnu::always_inline]] inline void decode_pairs_of_bits(const std::uint8_t* p, Codes& out) {
  __m256i bits[4];
  spread(load32(p), load32(p + 32), bits);
  for (int v = 0; v < 4; ++v) {
    const __m256i both = _mm256_srlv_epi32(bits[v], each_lane(0, 4, 0, 4));
    out.part[v] = _mm256_and_si256(both, bytes_of_value(3));
    out.part[4 + v] = _mm256_and_si256(_mm256_srli_epi16(both, 2), bytes_of_value(3));
  }
}

// Nibble `nibble` of the numbers of 8 bits for 16 columns each, for the even or odd groups.
template <int Odd>
__m256 nibbles_of_halves(__m256i packed, int nibble) {
  const __m256i shifted = _mm256_srlv_epi32(packed, each_half(16 * Odd + nibble, 16 * Odd + 8 + nibble));
  return _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(15)));
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ2K>(const std::uint8_t* p) {
  Codes out;
  decode_pairs_of_bits(p + 16, out);
  const __m256i packed = load16_twice(p);
  const __m256 d = half_everywhere(p + 80);
  const __m256 m = half_everywhere(p + 82);
  out.scales[0] = _mm256_mul_ps(nibbles_of_halves<0>(packed, 0), d);
  out.scales[1] = _mm256_mul_ps(nibbles_of_halves<1>(packed, 0), d);
  out.offsets[0] = _mm256_mul_ps(nibbles_of_halves<0>(packed, 4), m);
  out.offsets[1] = _mm256_mul_ps(nibbles_of_halves<1>(packed, 4), m);
  return out;
}

// Scales for 16 columns each, signed and as 8 bits, times the half at `d`; offsets of `centre` scales.
[[gnu::always_inline]] inline void set_signed_scales(__m256i packed, const std::uint8_t* d, float centre, Codes& out) {
  const __m256 factor = half_everywhere(d);
  const __m256i even = _mm256_srai_epi32(_mm256_sllv_epi32(packed, each_half(24, 16)), 24);
  const __m256i odd = _mm256_srai_epi32(_mm256_sllv_epi32(packed, each_half(8, 0)), 24);
  out.scales[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(even), factor);
  out.scales[1] = _mm256_mul_ps(_mm256_cvtepi32_ps(odd), factor);
  for (int i = 0; i < 2; ++i) out.offsets[i] = _mm256_mul_ps(out.scales[i], _mm256_set1_ps(centre));
}

// Six bits each: low nibbles of bytes 0 to 7, then high ones; two more bits in bytes 8 to 11. `p` is 2 bytes before.
inline __m256i q3_scales(const std::uint8_t* p) {
  const __m128i bytes = load16(p);
  const __m128i lows = _mm_shuffle_epi8(bytes, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
  const __m128i highs = _mm_shuffle_epi8(bytes, _mm_set1_epi32(0x0D0C0B0A));
  const __m128i low = _mm_and_si128(_mm_srlv_epi32(lows, _mm_setr_epi32(0, 0, 4, 4)), _mm_set1_epi8(0x0F));
  const __m128i high = _mm_srlv_epi32(_mm_sllv_epi32(highs, _mm_setr_epi32(4, 2, 0, 0)), _mm_setr_epi32(0, 0, 0, 2));
  const __m128i six = _mm_or_si128(low, _mm_and_si128(high, _mm_set1_epi8(0x30)));
  return _mm256_broadcastsi128_si256(_mm_sub_epi8(six, _mm_set1_epi8(32)));
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ3K>(const std::uint8_t* p) {
  Codes out;
  decode_pairs_of_bits(p + 32, out);
  const __m256i thirds = load32(p);
  __m256i bits[4];
  spread(_mm256_slli_epi32(thirds, 2), thirds, bits);
  for (int v = 0; v < 4; ++v) {
    const __m256i both = _mm256_srlv_epi32(bits[v], each_lane(0, 2, 2, 4));
    out.part[v] = with_bits(out.part[v], both, 4);
    out.part[4 + v] = with_bits(out.part[4 + v], _mm256_srli_epi16(both, 1), 4);
  }
  set_signed_scales(q3_scales(p + 94), p + 108, 4, out);
  return out;
}

// The first 16 bytes of Q4_K and Q5_K: two halves and twelve bytes of 6-bit scales and minima.
[[gnu::always_inline]] inline void decode_k_scales(const std::uint8_t* p, Codes& out) {
  const __m128i head = load16(p);
  const __m128i low = _mm_srlv_epi32(_mm_shuffle_epi32(head, 0b11'10'11'01), _mm_setr_epi32(0, 0, 0, 4));
  const __m128i low_bits = _mm_setr_epi32(0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F);
  const __m128i high = _mm_srli_epi32(_mm_shuffle_epi32(head, 0b10'10'01'01), 2);
  const __m128i high_bits = _mm_setr_epi32(0, 0x30303030, 0, 0x30303030);
  const __m128i six = _mm_or_si128(_mm_and_si128(low, low_bits), _mm_and_si128(high, high_bits));
  const __m256i packed = _mm256_broadcastsi128_si256(six);  // 8 scales, 8 minima
  const auto numbers = [packed](__m256i places) {
    const __m256i zero_above = _mm256_set1_epi32(static_cast<int>(0x80808000));
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(packed, _mm256_or_si256(places, zero_above)));
  };
  const __m128 halves = _mm_cvtph_ps(head);
  const __m256 d = _mm256_broadcastss_ps(halves);
  out.scales[0] = _mm256_mul_ps(numbers(each_lane(0, 2, 4, 6)), d);
  out.scales[1] = _mm256_mul_ps(numbers(each_lane(1, 3, 5, 7)), d);
  out.offsets[0] = _mm256_mul_ps(numbers(_mm256_setr_epi32(8, 10, 12, 14, 9, 11, 13, 15)),
                                 _mm256_broadcastss_ps(_mm_movehdup_ps(halves)));
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ4K>(const std::uint8_t* p) {
  Codes out;
  __m256i pairs[4];
  interleave(load32(p + 16), load32(p + 48), load32(p + 80), load32(p + 112), pairs);
  for (int v = 0; v < 4; ++v) {
    out.part[v] = low_nibbles(pairs[v]);
    out.part[4 + v] = high_nibbles(pairs[v]);
  }
  decode_k_scales(p, out);
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ5K>(const std::uint8_t* p) {
  Codes out;
  __m256i pairs[4];
  interleave(load32(p + 48), load32(p + 80), load32(p + 112), load32(p + 144), pairs);
  const __m256i fifths = load32(p + 16);
  __m256i bits[4];
  spread(_mm256_slli_epi32(fifths, 4), fifths, bits);
  for (int v = 0; v < 4; ++v) {
    const __m256i both = _mm256_srlv_epi32(bits[v], each_lane(0, 2, 0, 2));
    out.part[v] = with_bits(low_nibbles(pairs[v]), both, 16);
    out.part[4 + v] = with_bits(high_nibbles(pairs[v]), _mm256_srli_epi16(both, 1), 16);
  }
  decode_k_scales(p, out);
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kQ6K>(const std::uint8_t* p) {
  Codes out;
  __m256i even[4];
  __m256i odd[4];
  __m256i bits[4];
  spread(load32(p), load32(p + 64), even);
  spread(load32(p + 32), load32(p + 96), odd);
  spread(load32(p + 128), load32(p + 160), bits);
  const __m256i shifts = each_lane(0, 4, 0, 4);
  for (int v = 0; v < 4; ++v) {
    const __m256i both = _mm256_sllv_epi32(bits[v], each_lane(4, 0, 4, 0));
    out.part[v] = with_bits(low_nibbles(_mm256_srlv_epi32(even[v], shifts)), both, 0x30);
    out.part[4 + v] = with_bits(low_nibbles(_mm256_srlv_epi32(odd[v], shifts)), _mm256_srli_epi16(both, 2), 0x30);
  }
  set_signed_scales(load16_twice(p + 192), p + 208, 32, out);
  return out;
}

template <>
[[gnu::always_inline]] inline Codes decode<DType::kIq4Xs>(const std::uint8_t* p) {
  Codes out;
  decode_nibble_blocks<16, 8>(p, out);
  look_up(iq4_values(), out);
  // Group j: nibble j of the four low bytes, two bits at 2 j of the high ones.
  const __m256i nibbles = _mm256_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28);
  const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(word32_at(p + 4)), nibbles);
  const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(word_at(p + 2)), _mm256_srli_epi32(nibbles, 1));
  const __m256i six = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                      _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
  const __m256 scales = _mm256_cvtepi32_ps(_mm256_sub_epi32(six, _mm256_set1_epi32(32)));
  set_scales(_mm256_mul_ps(scales, half_everywhere(p)), out);
  return out;
}
