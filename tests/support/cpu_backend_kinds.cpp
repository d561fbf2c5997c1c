// SPDX-License-Identifier: GPL-3.0-or-later
// Every kind of kernels that this machine has, with one thread and with two.
#include "cpu/cpu_backend.h"
#include "cpu/kernels.h"
#include "support/backend_kind.h"

namespace lectern::engine::support {
namespace {

// Some kernels round to BF16 what meets 16 or 8 bits.
double attention_tolerance([[maybe_unused]] const cpu::Kernels& kernels, [[maybe_unused]] KvType type) {
#if defined(__x86_64__)
  const bool rounds = kernels.multiply_panels == cpu::avx512_bf16::multiply_panels;
  if (rounds && type != KvType::kF32) return oracle::kRoundedAttention;
#endif
  return oracle::kAttention;
}

BackendKind cpu_kind(const cpu::Kernels& kernels, int threads) {
  BackendKind kind;
  kind.name = std::string(kernels.name) + "_" + std::to_string(threads) + "threads";
  kind.with_threads = [&kernels](int count) { return std::make_unique<cpu::CpuBackend>(count, kernels); };
  kind.make = [&kernels, threads] { return std::make_unique<cpu::CpuBackend>(threads, kernels); };
  kind.rounds_activations = [&kernels](DType type, std::int64_t rows) {
    return kernels.form_for(type, rows) != cpu::Form::kFloat;
  };
  kind.attention = [&kernels](KvType type, std::int64_t /*rows*/) { return attention_tolerance(kernels, type); };
  return kind;
}

}  // namespace

std::vector<BackendKind> backend_kinds() {
  std::vector<BackendKind> kinds;
  for (const cpu::Kernels* kernels : cpu::usable_kernels()) {
    for (const int threads : {1, 2}) kinds.push_back(cpu_kind(*kernels, threads));
  }
  return kinds;
}

}  // namespace lectern::engine::support
