// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels.h"

namespace lectern::engine::cpu::avx512 {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileColumns = 4;
constexpr int kTileVectors = 4;

struct BFloat16;

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
  void store(float* to) const { _mm512_storeu_ps(to, lanes); }
  void fma(const Vec& a, const Vec& b) { lanes = _mm512_fmadd_ps(a.lanes, b.lanes, lanes); }
  float sum() const { return _mm512_reduce_add_ps(lanes); }
};

#include "cpu/kernel_loops.h"

}  // namespace

extern const Kernels kKernels = make_kernels("avx512");

}  // namespace lectern::engine::cpu::avx512
