// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/tensor.h"

namespace lectern::engine::cpu {

// y[t, n] = sum_k x[t, k] w[n, k] (+ y[t, n]) for all rows t and for columns n in [first, last): both factors are read
// along their rows. Strides are in numbers. An element's value does not depend on which others are computed with it.
struct Product {
  const float* x = nullptr;  // [rows, depth]; not used with x_rows
  std::int64_t x_stride = 0;
  std::int64_t rows = 0;
  std::int64_t depth = 0;
  const void* w = nullptr;  // [columns, depth], F32, F16 or BF16
  DType dtype = DType::kF32;
  std::int64_t w_stride = 0;
  float* y = nullptr;  // [rows, columns]
  std::int64_t y_stride = 0;
  std::int64_t first = 0;
  std::int64_t last = 0;
  bool accumulate = false;
  const float* const* x_rows = nullptr;  // the rows one by one, wherever they are
};

// What a product reads in place of its float activations, converted once for all weights they meet.
enum class Form : std::uint8_t {
  kFloat,
  kInt8,      // an Int8Block for every 256 columns, zero behind the last
  kBFloat16,  // columns to a multiple of 32, zero behind the last
};

// 256 activations as small integers: x = scale code. Sixteen columns share an entry of the lists. The order of columns
// and of entries is that of the kernels that convert and read them.
struct Int8Block {
  std::int8_t codes[256];
  float scales[16];
  float sums[16];        // of codes
  float split_sums[16];  // of scale code, for 32 columns each in some of the entries; the others are zero
};

// Bytes of a row in a form, with some between rows so that they do not meet in the same cache sets.
constexpr std::int64_t bytes_of(Form form, std::int64_t columns) {
  if (form == Form::kInt8) return (columns + 255) / 256 * static_cast<std::int64_t>(sizeof(Int8Block));
  if (form == Form::kBFloat16) return (columns + 31) / 32 * 64 + 64;
  return columns * static_cast<std::int64_t>(sizeof(float));
}

// y[t, n - first] = sum_k x[t, k] w[n, k] (+ y[t, n - first]) for n in [first, last) and weights of any type, decoded
// on the way and read once for up to kSmallBatchRows rows. In the forms kFloat and kInt8 an element's value does not
// depend on which others are computed with it.
struct StoredProduct {
  const void* const* x = nullptr;  // rows in `form`, on a cache line but for kFloat
  Form form = Form::kFloat;
  std::int64_t rows = 0;
  const HostMatrix* w = nullptr;
  std::int64_t first = 0;
  std::int64_t last = 0;
  float* y = nullptr;  // [rows, last - first]
  std::int64_t y_stride = 0;
  bool accumulate = false;
  const std::uint8_t* next =
      nullptr;  // weights read after these, to be fetched where there is time for it; may be null
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

inline constexpr std::int64_t kPanelColumns = 32;
inline constexpr std::int64_t kPanelLines = 64;    // of a panel with kQ8ByLine, at most
inline constexpr std::int64_t kScaleNumbers = 32;  // that share a scale in the 8-bit formats

// What a panel [lines, kPanelColumns] holds, in this order.
enum class PanelFormat : std::uint8_t {
  kF32,         // float [lines][columns]
  kBF16,        // [lines / 2][columns][2]: both numbers of a column in 32 bits
  kQ8ByColumn,  // codes [lines][columns], float scales [lines / kScaleNumbers][columns]
  kQ8ByLine,    // codes [lines][columns], float scales [lines]
};

// y[t, n] = sum_k a[t, k] b[k, n] (+ y[t, n]), b cut into panels of kPanelColumns columns. An element's value does not
// depend on which others are computed with it.
struct PanelProduct {
  const float* a = nullptr;  // [rows, depth]
  std::int64_t a_stride = 0;
  std::int64_t rows = 0;
  std::int64_t depth = 0;  // at most the lines of a panel; kQ8ByColumn: a multiple of kScaleNumbers
  const std::byte* b = nullptr;
  PanelFormat format = PanelFormat::kF32;
  std::int64_t panel_bytes = 0;
  std::int64_t scales_offset = 0;  // in a panel, of the 8-bit formats
  std::int64_t panels = 0;
  float* y = nullptr;  // [rows, panels * kPanelColumns]
  std::int64_t y_stride = 0;
  bool accumulate = false;
  const std::byte* next = nullptr;  // where the next product finds its b, to be fetched meanwhile; may be null
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
  void (*multiply_panels)(const PanelProduct& product);
  float (*largest)(const float* x, std::int64_t n);  // of at least one
  void (*multiply_stored)(const StoredProduct& product);
  // The form multiply_stored() wants. `rows` counts all rows of an operation, also where they are multiplied in groups.
  Form (*form_for)(DType type, std::int64_t rows);
  void (*convert)(Form form, const float* x, std::int64_t columns, void* to);
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
namespace avx2_int8 {  // of quantised weights with kInt8 alone
void multiply(const StoredProduct& product);
Form form_for(DType type, std::int64_t rows);
void convert(Form form, const float* x, std::int64_t columns, void* to);
}  // namespace avx2_int8
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx512_bf16 {
void multiply_panels(const PanelProduct& product);
}
namespace avx512_vnni {  // needs BF16 too
void multiply_stored(const StoredProduct& product);
Form form_for(DType type, std::int64_t rows);
void convert(Form form, const float* x, std::int64_t columns, void* to);
}  // namespace avx512_vnni
#endif

}  // namespace lectern::engine::cpu
