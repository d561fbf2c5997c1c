// SPDX-License-Identifier: Apache-2.0
#include "cpu/cpu_backend.h"

#include <cstring>
#include <limits>
#include <new>

namespace lectern::engine::cpu {
namespace {

class HostBuffer final : public Buffer {
 public:
  explicit HostBuffer(std::size_t floats) : values_(floats) {}
  float* data() override { return values_.data(); }
  const float* data() const override { return values_.data(); }
  std::int64_t size() const override { return static_cast<std::int64_t>(values_.size()); }

 private:
  std::vector<float> values_;
};

}  // namespace

Result<WeightHandle> CpuBackend::take_weight(const HostMatrix& matrix) {
  if (matrix.dtype == DType::kF16) return Error{ErrorCode::kUnsupported, "The CPU reads weights as F32 or BF16."};
  return WeightHandle(std::make_unique<CpuWeight>(matrix));
}

Result<std::unique_ptr<Buffer>> CpuBackend::make_buffer(std::int64_t floats) {
  try {
    return std::unique_ptr<Buffer>(std::make_unique<HostBuffer>(static_cast<std::size_t>(floats)));
  } catch (const std::exception&) {  // bad_alloc or length_error
    return Error{ErrorCode::kOutOfMemory, "The system refused " + std::to_string(floats / 262144 + 1) +
                                              " MiB of memory; close other programs or use a shorter context."};
  }
}

void CpuBackend::copy(const float* from, float* to, std::int64_t floats) {
  std::memcpy(to, from, static_cast<std::size_t>(floats) * sizeof(float));
}

void CpuBackend::upload(std::span<const float> from, float* to) { std::memcpy(to, from.data(), from.size_bytes()); }

void CpuBackend::download(const float* from, std::span<float> to) { std::memcpy(to.data(), from, to.size_bytes()); }

}  // namespace lectern::engine::cpu

namespace lectern::engine {

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  return std::make_unique<cpu::CpuBackend>(threads, *cpu::usable_kernels().back());
}

}  // namespace lectern::engine
