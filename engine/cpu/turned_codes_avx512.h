// SPDX-License-Identifier: Apache-2.0
// Included once by kernels_avx512_vnni.cpp, inside an unnamed namespace after cpu/block_decoders_avx512.h: codes in an
// order in which all products of a group of 16 columns meet in one lane, so that a block of 256 columns needs a single
// conversion to float and a single multiplication by scales. Lane 4 q + k belongs to group 4 k + q; part i holds
// columns 4 i to 4 i + 3 of every group. Of 32 columns, the even groups lie in the lower 8 lanes, the odd ones in the
// upper 8.

struct TurnedCodes {
  __m512i part[4];
  __m512 scales;
  __m512 offsets;  // where the type has minima
};

// How much a type's codes are above its numbers, in scales; 0 where it has minima.
template <DType Type>
constexpr float kRaised = Type == DType::kQ4_0                             ? 8
                          : Type == DType::kMxfp4                          ? 12
                          : Type == DType::kIq4Nl || Type == DType::kIq4Xs ? 127
                                                                           : kCentre<Type>;

inline __m512i turned_lanes() { return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); }

inline void turn(const __m512i (&in)[4], __m512i (&out)[4]) {
  const __m512i low01 = _mm512_unpacklo_epi32(in[0], in[1]);
  const __m512i high01 = _mm512_unpackhi_epi32(in[0], in[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(in[2], in[3]);
  const __m512i high23 = _mm512_unpackhi_epi32(in[2], in[3]);
  out[0] = _mm512_unpacklo_epi64(low01, low23);
  out[1] = _mm512_unpackhi_epi64(low01, low23);
  out[2] = _mm512_unpacklo_epi64(high01, high23);
  out[3] = _mm512_unpackhi_epi64(high01, high23);
}

template <DType Type>
[[gnu::always_inline]] inline TurnedCodes decode_turned(const std::uint8_t* p) {
  const Codes codes = decode<Type>(p);
  TurnedCodes out;
  turn(codes.part, out.part);
  out.scales = _mm512_permutexvar_ps(turned_lanes(), codes.scales);
  if constexpr (kRaised<Type> == 0) out.offsets = _mm512_permutexvar_ps(turned_lanes(), codes.offsets);
  return out;
}

// Types whose minima come with half of the lanes of `offsets`: 4 to 7 and 12 to 15, those of the even groups of 32
// first.
template <DType Type>
constexpr bool kSplitOffsets = Type == DType::kQ4K || Type == DType::kQ5K;

// The first 16 bytes of Q4_K and Q5_K, as decode_k_scales(). The other half of the lanes of `offsets` has scales, where
// the sums are zero.
inline void decode_turned_k_scales(const std::uint8_t* p, float odd_factor, TurnedCodes& out) {
  std::uint64_t low;
  __builtin_memcpy(&low, p + 4, sizeof low);
  const std::uint64_t high = word32_at(p + 12);
  const std::uint64_t first = low & 0x3F3F3F3F3F3F3F3FU;  // scales 0 to 3, minima 0 to 3
  const std::uint64_t second = ((high | high << 28) & 0x0F0F0F0F0F0F0F0FU) | (low >> 2 & 0x3030303030303030U);
  const __m128i six = _mm_set_epi64x(static_cast<long long>(second), static_cast<long long>(first));
  const __m128i order = _mm_setr_epi8(0, 2, 8, 10, 4, 6, 12, 14, 1, 3, 9, 11, 5, 7, 13, 15);
  const __m512 integers = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_shuffle_epi8(six, order)));
  const __m128 halves = _mm_cvtph_ps(_mm_set1_epi32(static_cast<int>(word32_at(p))));
  const __m128 factors = _mm_mul_ps(halves, _mm_setr_ps(1, 1, odd_factor, 1));
  const __m512i which = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1);
  out.offsets = _mm512_mul_ps(integers, _mm512_permutexvar_ps(which, _mm512_castps128_ps512(factors)));
  out.scales = _mm512_shuffle_f32x4(out.offsets, out.offsets, 0b10'10'00'00);
}

// High nibbles stay where they are: sixteen times the code with a sixteenth of the scale.
template <>
[[gnu::always_inline]] inline TurnedCodes decode_turned<DType::kQ4K>(const std::uint8_t* p) {
  TurnedCodes out;
  const __m512i low = _mm512_loadu_si512(p + 16);
  const __m512i high = _mm512_loadu_si512(p + 80);
  const __m512i nibbles = _mm512_inserti64x4(_mm512_set1_epi8(15), _mm256_set1_epi8(static_cast<char>(0xF0)), 1);
  const __m512i first = _mm512_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28, 0, 8, 16, 24, 4, 12, 20, 28);
  for (int i = 0; i < 4; ++i) {
    const __m512i which = _mm512_add_epi32(first, _mm512_set1_epi32(i));
    out.part[i] = _mm512_and_si512(_mm512_permutex2var_epi32(low, which, high), nibbles);
  }
  decode_turned_k_scales(p, 1.0F / 16, out);
  return out;
}

template <>
[[gnu::always_inline]] inline TurnedCodes decode_turned<DType::kQ5K>(const std::uint8_t* p) {
  TurnedCodes out;
  __m512i parts[4];
  decode_q5k_codes(p, parts);
  turn(parts, out.part);
  decode_turned_k_scales(p, 1, out);
  return out;
}
