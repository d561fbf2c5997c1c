// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cstdint>

#include "cpu/kernels.h"

namespace lectern::engine::cpu::generic {
namespace {

struct BFloat16;

struct Vec {
  static constexpr std::int64_t kWidth = 8;
  float lane[kWidth];

  static Vec zero() { return {}; }
  template <class T>
  static Vec load(const T* from);
  void fma(const Vec& a, const Vec& b) {
    for (int i = 0; i < kWidth; ++i) lane[i] += a.lane[i] * b.lane[i];
  }
  float sum() const {
    float total = 0;
    for (const float value : lane) total += value;
    return total;
  }
};

#include "cpu/kernel_loops.h"

template <class T>
Vec Vec::load(const T* from) {
  Vec v;
  for (int i = 0; i < kWidth; ++i) v.lane[i] = widen(from[i]);
  return v;
}

}  // namespace

extern const Kernels kKernels = make_kernels("generic");

}  // namespace lectern::engine::cpu::generic
