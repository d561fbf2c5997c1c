// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernels.h"

#include <vector>

namespace lectern::engine::cpu {

std::span<const Kernels* const> usable_kernels() {
  static const std::vector<const Kernels*> usable = [] {
    std::vector<const Kernels*> list = {&generic::kKernels};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.push_back(&avx2::kKernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) list.push_back(&avx512::kKernels);
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512vbmi") && list.back() == &avx512::kKernels) {
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
