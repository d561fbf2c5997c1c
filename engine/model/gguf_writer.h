// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "model/gguf_metadata.h"

namespace lectern::engine {

inline constexpr std::int64_t kGgufAlignment = 32;

// Everything of a GGUF file (version 3) before its data. Tensors' data follow in the order of tensor() calls, each
// padded with zeros to a multiple of kGgufAlignment.
class GgufHeader {
 public:
  void string(std::string_view key, std::string_view value);
  void u32(std::string_view key, std::int64_t value);
  void f32(std::string_view key, double value);
  void boolean(std::string_view key, bool value);
  void strings(std::string_view key, std::span<const std::string> values);
  void integers(std::string_view key, std::span<const std::int32_t> values);
  void booleans(std::string_view key, const std::vector<bool>& values);
  // As it stands in another file.
  void copy(std::string_view key, const GgufValue& value);

  // `shape`: outermost first.
  void tensor(std::string_view name, std::span<const std::int64_t> shape, DType type, std::int64_t bytes);

  // Padded, so that the first tensor can follow.
  std::string bytes() const;
  std::int64_t data_bytes() const { return data_bytes_; }

 private:
  void begin(std::string_view key, GgufType type);
  void begin_array(std::string_view key, GgufType type, std::size_t count);

  std::string keys_;
  std::string tensors_;
  std::uint64_t key_count_ = 0;
  std::uint64_t tensor_count_ = 0;
  std::int64_t data_bytes_ = 0;
};

// The zeros after `bytes` bytes.
std::int64_t gguf_padding(std::int64_t bytes);

}  // namespace lectern::engine
