// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"

namespace lectern::engine::cpu::generic {
namespace {

constexpr int kTileRows = 2;
constexpr int kTileColumns = 2;
constexpr int kTileVectors = 2;
constexpr int kPanelRows = 4;
constexpr int kPanelVectors = 2;

struct BFloat16;
struct Half;

struct Vec {
  static constexpr std::int64_t kWidth = 4;
  float lane[kWidth];

  static Vec zero() { return {}; }
  static Vec broadcast(float value) {
    Vec v;
    for (float& lane : v.lane) lane = value;
    return v;
  }
  template <class T>
  static Vec load(const T* from);
  static void load_pairs(const BFloat16* from, Vec& even, Vec& odd);
  static Vec max(const Vec& a, const Vec& b) {
    Vec v;
    for (int i = 0; i < kWidth; ++i) v.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return v;
  }
  void store(float* to) const {
    for (int i = 0; i < kWidth; ++i) to[i] = lane[i];
  }
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

void Vec::load_pairs(const BFloat16* from, Vec& even, Vec& odd) {
  for (int i = 0; i < kWidth; ++i) {
    even.lane[i] = widen(from[2 * i]);
    odd.lane[i] = widen(from[2 * i + 1]);
  }
}

}  // namespace

extern const Kernels kKernels = make_kernels("generic");

}  // namespace lectern::engine::cpu::generic
