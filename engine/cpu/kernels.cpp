// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernels.h"

#include <vector>

namespace lectern::engine::cpu {

#if defined(__x86_64__)
namespace {

template <const Kernels& Floats>
void multiply_int8_or_float(const StoredProduct& product) {
  if (product.form == Form::kInt8) {
    avx2_int8::multiply(product);
  } else {
    Floats.multiply_stored(product);
  }
}

// Float kernels but for quantised weights.
template <const Kernels& Floats>
const Kernels& with_int8() {
  static const Kernels kernels = [] {
    Kernels changed = Floats;
    changed.multiply_stored = multiply_int8_or_float<Floats>;
    changed.form_for = avx2_int8::form_for;
    changed.convert = avx2_int8::convert;
    return changed;
  }();
  return kernels;
}

}  // namespace
#endif

std::span<const Kernels* const> usable_kernels() {
  static const std::vector<const Kernels*> usable = [] {
    std::vector<const Kernels*> list = {&generic::kKernels};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    if (has_avx2) list.push_back(&with_int8<avx2::kKernels>());
    if (has_avx512) list.push_back(&with_int8<avx512::kKernels>());
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512vbmi") && has_avx512) {
      static const Kernels with_bf16 = [] {
        Kernels kernels = avx512::kKernels;
        kernels.name = "avx512_bf16";
        kernels.multiply_panels = avx512_bf16::multiply_panels;
        kernels.multiply_stored = avx512_vnni::multiply_stored;
        kernels.form_for = avx512_vnni::form_for;
        kernels.convert = avx512_vnni::convert;
        return kernels;
      }();
      list.push_back(&with_bf16);
    }
#endif
    return list;
  }();
  return usable;
}

}  // namespace lectern::engine::cpu
