// SPDX-License-Identifier: Apache-2.0
#include "cpu/cpu_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kMostFloats = std::int64_t{1} << 37;  // half a terabyte: more is a mistake, not a wish

// calloc leaves untouched pages to the system, so that room for later costs nothing now.
class HostBuffer final : public Buffer {
 public:
  explicit HostBuffer(std::size_t floats)
      : values_(static_cast<float*>(std::calloc(std::max<std::size_t>(1, floats), sizeof(float)))), size_(floats) {}
  bool allocated() const { return values_ != nullptr; }
  float* data() override { return values_.get(); }
  const float* data() const override { return values_.get(); }
  std::int64_t size() const override { return static_cast<std::int64_t>(size_); }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> values_;
  std::size_t size_;
};

}  // namespace

Result<WeightHandle> CpuBackend::take_weight(const HostMatrix& matrix) {
  if (matrix.cols % block_size(matrix.dtype).elements != 0) {
    return Error{ErrorCode::kUnsupported, "Rows of " + std::to_string(matrix.cols) +
                                              " numbers are not whole blocks of " + std::string(name_of(matrix.dtype)) +
                                              "; convert the model to another type."};
  }
  return WeightHandle(std::make_unique<CpuWeight>(matrix));
}

Result<void> CpuBackend::place_experts(ExpertWeights& /*w*/) { return {}; }

Result<std::unique_ptr<Buffer>> CpuBackend::make_buffer(std::int64_t floats, MemoryUse /*use*/) {
  auto buffer = std::make_unique<HostBuffer>(static_cast<std::size_t>(floats <= kMostFloats ? floats : 0));
  if (floats > kMostFloats || !buffer->allocated()) {
    return Error{ErrorCode::kOutOfMemory, "The system refused " + std::to_string(floats / 262144 + 1) +
                                              " MiB of memory; close other programs or use a shorter context."};
  }
  return std::unique_ptr<Buffer>(std::move(buffer));
}

void CpuBackend::copy(const float* from, float* to, std::int64_t floats) {
  std::memcpy(to, from, static_cast<std::size_t>(floats) * sizeof(float));
}

void CpuBackend::copy_columns(const Tensor& from, const Tensor& to, std::int64_t first) {
  for (std::int64_t t = 0; t < from.rows; ++t) copy(from.row(t), to.row(t) + first, from.cols);
}

void CpuBackend::upload(std::span<const float> from, float* to) { std::memcpy(to, from.data(), from.size_bytes()); }

void CpuBackend::download(const float* from, std::span<float> to) { std::memcpy(to.data(), from, to.size_bytes()); }

}  // namespace lectern::engine::cpu

namespace lectern::engine {

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  return std::make_unique<cpu::CpuBackend>(threads, *cpu::usable_kernels().back());
}

}  // namespace lectern::engine
