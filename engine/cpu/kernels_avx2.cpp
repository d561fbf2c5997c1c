// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"

namespace lectern::engine::cpu::avx2 {
namespace {

// Sixteen registers: 4 x 2 sums, two columns, one row.
constexpr int kTileRows = 4;
constexpr int kTileColumns = 2;
constexpr int kTileVectors = 2;
constexpr int kPanelRows = 4;
constexpr int kPanelVectors = 2;

struct BFloat16;
struct Half;

struct Vec {
  static constexpr std::int64_t kWidth = 8;
  __m256 lanes;

  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec broadcast(float value) { return {_mm256_set1_ps(value)}; }
  static Vec load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static Vec load(const BFloat16* from) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))};
  }
  static Vec load(const Half* from) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
  }
  static Vec load(const std::int8_t* from) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes))};
  }
  static void load_pairs(const BFloat16* from, Vec& even, Vec& odd) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    even.lanes = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    odd.lanes = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000U))));
  }
  static Vec max(const Vec& a, const Vec& b) { return {_mm256_max_ps(a.lanes, b.lanes)}; }
  void store(float* to) const { _mm256_storeu_ps(to, lanes); }
  void fma(const Vec& a, const Vec& b) { lanes = _mm256_fmadd_ps(a.lanes, b.lanes, lanes); }
  float sum() const {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
};

#include "cpu/kernel_loops.h"

}  // namespace

extern const Kernels kKernels = make_kernels("avx2");

}  // namespace lectern::engine::cpu::avx2
