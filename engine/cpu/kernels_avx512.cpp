// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"

namespace lectern::engine::cpu::avx512 {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileColumns = 4;
constexpr int kTileVectors = 4;
constexpr int kPanelRows = 8;
constexpr int kPanelVectors = 2;

struct BFloat16;
struct Half;

struct Vec {
  static constexpr std::int64_t kWidth = 16;
  __m512 lanes;

  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec broadcast(float value) { return {_mm512_set1_ps(value)}; }
  static Vec load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Vec load(const BFloat16* from) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
  }
  static Vec load(const Half* from) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
  }
  static Vec load(const std::int8_t* from) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))};
  }
  static void load_pairs(const BFloat16* from, Vec& even, Vec& odd) {
    const __m512i pairs = _mm512_loadu_si512(from);
    even.lanes = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd.lanes = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))));
  }
  static Vec max(const Vec& a, const Vec& b) { return {_mm512_max_ps(a.lanes, b.lanes)}; }
  void store(float* to) const { _mm512_storeu_ps(to, lanes); }
  void fma(const Vec& a, const Vec& b) { lanes = _mm512_fmadd_ps(a.lanes, b.lanes, lanes); }
  float sum() const { return _mm512_reduce_add_ps(lanes); }
};

#include "cpu/kernel_loops.h"

#include "cpu/f8_products_avx512.h"

void multiply_in_registers(const StoredProduct& product) {
  product.w->dtype == DType::kF8E4M3 ? multiply_f8(product) : multiply_floats(product);
}

constexpr Kernels with_f8_products(Kernels kernels) {
  kernels.multiply_stored = multiply_in_registers;
  return kernels;
}

}  // namespace

extern const Kernels kKernels = with_f8_products(make_kernels("avx512"));

}  // namespace lectern::engine::cpu::avx512
