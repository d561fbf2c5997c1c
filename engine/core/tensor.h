// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lectern::engine {

enum class DType : std::uint8_t { kF32, kF16, kBF16 };

constexpr std::size_t bytes_of(DType type) { return type == DType::kF32 ? 4 : 2; }
constexpr std::string_view name_of(DType type) {
  return type == DType::kF32 ? "F32" : type == DType::kF16 ? "F16" : "BF16";
}

// Activations: a row-major matrix of float on the backend's device. Does not own its memory.
struct Tensor {
  float* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  float* row(std::int64_t index) const { return data + index * cols; }
  Tensor first_rows(std::int64_t count) const { return {data, count, cols}; }
  Tensor last_rows(std::int64_t count) const { return {row(rows - count), count, cols}; }
};

// Weights in host memory, row-major [rows, cols], as a model file holds them.
struct HostMatrix {
  DType dtype = DType::kF32;
  const void* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

}  // namespace lectern::engine
