// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <string>

#include "cuda/platform.h"
#include "engine/result.h"

namespace lectern::engine::cuda {

// y [rows, outputs] = x [rows, depth] times w [outputs, depth] transposed: x and w in BF16, aligned to 16 bytes like
// each of their rows, y and all sums in float. Strides count numbers.
struct LibraryProduct {
  std::int64_t rows = 0;
  std::int64_t outputs = 0;
  std::int64_t depth = 0;
  std::int64_t x_stride = 0;
  std::int64_t w_stride = 0;
  std::int64_t y_stride = 0;
  std::int64_t y_alignment = 4;  // in bytes

  auto operator<=>(const LibraryProduct&) const = default;
};

// Activations in BF16, rows `stride` numbers apart with zeros behind their columns. They are the sum of `parts` such
// matrices, one behind the other: two give 16 bits of fraction.
struct LibraryRows {
  const std::uint16_t* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t stride = 0;
  int parts = 1;
};

// cuBLASLt, if the computer has it. Uses the device that was chosen for this thread.
class Cublas {
 public:
  static constexpr std::int64_t kWorkspaceBytes = std::int64_t{32} << 20;  // what NVIDIA advises for Hopper

  // Errors: kUnsupported with the reason.
  static Result<std::unique_ptr<Cublas>> open();
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  const std::string& name() const { return name_; }  // "cuBLASLt 13.1.0"
  // Whether the library has a way for this shape; asked once for each.
  bool knows(const LibraryProduct& shape);
  // Queues the product of a known shape. `workspace`: kWorkspaceBytes, aligned to 256, that nothing else uses until it
  // is done. Null, or the reason of a failure.
  const char* multiply(const LibraryProduct& shape, const std::uint16_t* x, const std::uint16_t* w, bool accumulate,
                       float* y, void* workspace, cudaStream_t stream);

 private:
  struct Api;
  explicit Cublas(std::unique_ptr<Api> api);

  std::unique_ptr<Api> api_;
  std::string name_;
};

}  // namespace lectern::engine::cuda
