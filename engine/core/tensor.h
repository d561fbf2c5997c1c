// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lectern::engine {

// Types of stored weights. Those from kQ8_0 on hold whole blocks of a row: codes of a few bits and the scales that make
// numbers of them; quant/formats.h knows their layout.
enum class DType : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // with one scale for every 128 x 128 of the matrix, kept beside it
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2K,
  kQ3K,
  kQ4K,
  kQ5K,
  kQ6K,
  kIq4Nl,
  kIq4Xs,
  kMxfp4,
};

// What a type stores together: `elements` consecutive numbers of a row in `bytes` bytes.
struct BlockSize {
  std::int64_t elements = 1;
  std::int64_t bytes = 0;
};

struct DTypeFacts {
  DType type;
  std::string_view name;
  BlockSize block;
};

inline constexpr std::array<DTypeFacts, 17> kDTypes = {{{DType::kF32, "F32", {1, 4}},
                                                        {DType::kF16, "F16", {1, 2}},
                                                        {DType::kBF16, "BF16", {1, 2}},
                                                        {DType::kF8E4M3, "F8_E4M3", {1, 1}},
                                                        {DType::kQ8_0, "Q8_0", {32, 34}},
                                                        {DType::kQ4_0, "Q4_0", {32, 18}},
                                                        {DType::kQ4_1, "Q4_1", {32, 20}},
                                                        {DType::kQ5_0, "Q5_0", {32, 22}},
                                                        {DType::kQ5_1, "Q5_1", {32, 24}},
                                                        {DType::kQ2K, "Q2_K", {256, 84}},
                                                        {DType::kQ3K, "Q3_K", {256, 110}},
                                                        {DType::kQ4K, "Q4_K", {256, 144}},
                                                        {DType::kQ5K, "Q5_K", {256, 176}},
                                                        {DType::kQ6K, "Q6_K", {256, 210}},
                                                        {DType::kIq4Nl, "IQ4_NL", {32, 18}},
                                                        {DType::kIq4Xs, "IQ4_XS", {256, 136}},
                                                        {DType::kMxfp4, "MXFP4", {32, 17}}}};

constexpr std::string_view name_of(DType type) { return kDTypes[static_cast<std::size_t>(type)].name; }
constexpr BlockSize block_size(DType type) { return kDTypes[static_cast<std::size_t>(type)].block; }

// Bytes of `count` numbers, a whole number of blocks.
constexpr std::int64_t bytes_of(DType type, std::int64_t count) {
  return count / block_size(type).elements * block_size(type).bytes;
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
  const float* scales = nullptr;  // kF8E4M3: [ceil(rows / 128), ceil(cols / 128)]; else not used
};

}  // namespace lectern::engine
