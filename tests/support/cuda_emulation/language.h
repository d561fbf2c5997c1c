// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <math.h>  // NOLINT(modernize-deprecated-headers): the global names, as in CUDA

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// The names that the CUDA language gives without any include: qualifiers, vector types, and what one thread computes on
// its own. Warps and blocks: collectives.h.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): CUDA's own names

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
// libstdc++ writes __attribute__((__noinline__)), which an empty macro leaves valid.
#define __noinline__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// One for each host thread: blocks follow one another on it, and so share what the last one left behind.
#define __shared__ static thread_local

#define LECTERN_VECTOR_TYPES(name, number, align2, align4)                             \
  struct __align__(align2) name##2 {                                                   \
    number x, y;                                                                       \
  };                                                                                   \
  struct name##3 {                                                                     \
    number x, y, z;                                                                    \
  };                                                                                   \
  struct __align__(align4) name##4 {                                                   \
    number x, y, z, w;                                                                 \
  };                                                                                   \
  constexpr name##2 make_##name##2(number x, number y) { return {x, y}; }              \
  constexpr name##3 make_##name##3(number x, number y, number z) { return {x, y, z}; } \
  constexpr name##4 make_##name##4(number x, number y, number z, number w) { return {x, y, z, w}; }

LECTERN_VECTOR_TYPES(char, signed char, 2, 4)
LECTERN_VECTOR_TYPES(uchar, unsigned char, 2, 4)
LECTERN_VECTOR_TYPES(short, short, 4, 8)
LECTERN_VECTOR_TYPES(ushort, unsigned short, 4, 8)
LECTERN_VECTOR_TYPES(int, int, 8, 16)
LECTERN_VECTOR_TYPES(uint, unsigned, 8, 16)
LECTERN_VECTOR_TYPES(longlong, long long, 16, 16)
LECTERN_VECTOR_TYPES(ulonglong, unsigned long long, 16, 16)
LECTERN_VECTOR_TYPES(float, float, 8, 16)
LECTERN_VECTOR_TYPES(double, double, 16, 16)
#undef LECTERN_VECTOR_TYPES

struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  // NOLINTNEXTLINE(google-explicit-constructor): as in CUDA
  constexpr dim3(unsigned in_x = 1, unsigned in_y = 1, unsigned in_z = 1) : x(in_x), y(in_y), z(in_z) {}
};

extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;
inline constexpr int warpSize = 32;

// --- memory ---------------------------------------------------------------------------------------------------------
template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
T __ldca(const T* from) {
  return *from;
}
template <class T>
void __stcs(T* to, T value) {
  *to = value;
}
template <class T>
void __stcg(T* to, T value) {
  *to = value;
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }

// All return the number that was there before.
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long> ||
                std::is_same_v<T, float> || std::is_same_v<T, double>);
  return std::atomic_ref<T>(*at).fetch_add(value);
}
inline int atomicSub(int* at, int value) { return std::atomic_ref<int>(*at).fetch_sub(value); }
inline unsigned atomicSub(unsigned* at, unsigned value) { return std::atomic_ref<unsigned>(*at).fetch_sub(value); }
template <class T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*at).exchange(value);
}
template <class T>
requires std::is_integral_v<T> T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  std::atomic_ref<T>(*at).compare_exchange_strong(expected, value);
  return expected;
}
template <class T, class Choose>
T lectern_atomic_choice(T* at, T value, Choose choose) {
  std::atomic_ref<T> shared(*at);
  T before = shared.load();
  while (!shared.compare_exchange_weak(before, choose(before, value))) {
  }
  return before;
}
template <class T>
requires std::is_integral_v<T> T atomicMax(T* at, std::type_identity_t<T> value) {
  return lectern_atomic_choice<T>(at, value, [](T a, T b) { return std::max(a, b); });
}
template <class T>
requires std::is_integral_v<T> T atomicMin(T* at, std::type_identity_t<T> value) {
  return lectern_atomic_choice<T>(at, value, [](T a, T b) { return std::min(a, b); });
}
template <class T>
requires std::is_integral_v<T> T atomicOr(T* at, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*at).fetch_or(value);
}
template <class T>
requires std::is_integral_v<T> T atomicAnd(T* at, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*at).fetch_and(value);
}

// --- bits -----------------------------------------------------------------------------------------------------------
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __popcll(unsigned long long bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return std::countl_zero(static_cast<unsigned>(bits)); }
inline int __clzll(long long bits) { return std::countl_zero(static_cast<unsigned long long>(bits)); }
inline unsigned __brev(unsigned bits) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (bits >> i & 1U) << (31 - i);
  return reversed;
}
// Bytes of b:a chosen by the low four bits of each nibble; the top one copies the byte's sign.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t both = std::uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned choice = selector >> (4 * i) & 15U;
    unsigned byte = static_cast<unsigned>(both >> (8 * (choice & 7U))) & 255U;
    if (choice >= 8) byte = byte >= 128 ? 255U : 0U;
    result |= byte << (8 * i);
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) << (shift & 31U) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (shift & 31U));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(std::uint64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(Wide{a} * b >> 64);
}

// Four bytes at a time.
template <class Operation>
unsigned lectern_bytewise(unsigned a, unsigned b, Operation operation) {
  unsigned result = 0;
  for (unsigned shift = 0; shift < 32; shift += 8) {
    const int of_a = static_cast<std::int8_t>(a >> shift & 255U);
    const int of_b = static_cast<std::int8_t>(b >> shift & 255U);
    result |= (static_cast<unsigned>(operation(of_a, of_b)) & 255U) << shift;
  }
  return result;
}
inline unsigned __vadd4(unsigned a, unsigned b) {
  return lectern_bytewise(a, b, [](int x, int y) { return x + y; });
}
inline unsigned __vsub4(unsigned a, unsigned b) {
  return lectern_bytewise(a, b, [](int x, int y) { return x - y; });
}
inline unsigned __vsubss4(unsigned a, unsigned b) {
  return lectern_bytewise(a, b, [](int x, int y) { return std::clamp(x - y, -128, 127); });
}

// --- numbers --------------------------------------------------------------------------------------------------------
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0F / a; }
inline float __frsqrt_rn(float a) { return 1.0F / std::sqrt(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float __log2f(float a) { return std::log2(a); }
inline float __powf(float a, float b) { return std::pow(a, b); }
inline float __sinf(float a) { return std::sin(a); }
inline float __cosf(float a) { return std::cos(a); }
inline float __saturatef(float a) { return std::fmin(std::fmax(a, 0.0F), 1.0F); }
inline float rsqrtf(float a) { return 1.0F / std::sqrt(a); }
inline double rsqrt(double a) { return 1.0 / std::sqrt(a); }
inline float normcdff(float a) { return 0.5F * std::erfc(-a * 0.70710678F); }
inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
inline int __float2int_rz(float a) { return static_cast<int>(a); }
inline unsigned __float2uint_rn(float a) { return static_cast<unsigned>(std::nearbyint(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline float __double2float_rn(double a) { return static_cast<float>(a); }

template <class T>
requires std::is_arithmetic_v<T>
constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T>
requires std::is_arithmetic_v<T>
constexpr T max(T a, T b) { return a < b ? b : a; }
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
