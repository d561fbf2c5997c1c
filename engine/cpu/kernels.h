// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/tensor.h"

namespace lectern::engine::cpu {

// y[t, n] = sum_k x[t, k] w[n, k] (+ y[t, n]) for all rows t and for columns n in [first, last): both factors are read
// along their rows. Strides are in numbers. An element's value does not depend on which others are computed with it.
struct Product {
  const float* x = nullptr;  // [rows, depth]
  std::int64_t x_stride = 0;
  std::int64_t rows = 0;
  std::int64_t depth = 0;
  const void* w = nullptr;  // [columns, depth], BF16 or F32
  DType dtype = DType::kF32;
  std::int64_t w_stride = 0;
  float* y = nullptr;  // [rows, columns]
  std::int64_t y_stride = 0;
  std::int64_t first = 0;
  std::int64_t last = 0;
  bool accumulate = false;
};

// y[t, n] += sum_k a[t, k] b[k, n]
struct Combination {
  const float* a = nullptr;  // [rows, depth]
  std::int64_t a_stride = 0;
  std::int64_t rows = 0;
  std::int64_t depth = 0;
  const float* b = nullptr;  // [depth, columns]
  std::int64_t b_stride = 0;
  std::int64_t columns = 0;
  float* y = nullptr;  // [rows, columns]
  std::int64_t y_stride = 0;
};

// The loops that decide the speed, compiled once per instruction set. Arrays need no alignment.
struct Kernels {
  std::string_view name;
  void (*multiply)(const Product& product);
  void (*combine)(const Combination& combination);
  float (*dot)(const float* a, const float* b, std::int64_t n);
  void (*add_scaled)(float scale, const float* x, float* y, std::int64_t n);                // y += scale x
  void (*blend)(float keep, float scale, const float* x, float* y, std::int64_t n);         // y = keep y + scale x
  void (*scale)(float scale, float* y, std::int64_t n);                                     // y = scale y
  void (*norm)(float factor, const float* x, const float* gain, float* y, std::int64_t n);  // y = factor x gain
  void (*add_product)(const float* x, const float* w, float* y, std::int64_t n);            // y += x w
  void (*silu)(float* x, std::int64_t n);                                                   // x = x sigma(x)
  void (*silu_multiply)(const float* gate, float* y, std::int64_t n);                       // y = silu(gate) y
  void (*sigmoid_multiply)(const float* gate, float* y, std::int64_t n);
  // x = exp(x - largest); gives the sum. `largest` must not be below any x.
  float (*exponentials)(float largest, float* x, std::int64_t n);
};

// Best last; every entry runs on this processor.
std::span<const Kernels* const> usable_kernels();

namespace generic {
extern const Kernels kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#endif

}  // namespace lectern::engine::cpu
