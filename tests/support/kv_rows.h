// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "ops/backend.h"
#include "support/oracle.h"

namespace lectern::engine::support {

inline constexpr std::array<KvType, 3> kKvTypes = {KvType::kF32, KvType::kBF16, KvType::kQ8};

constexpr std::string_view kv_type_name(KvType type) {
  return type == KvType::kF32 ? "F32" : type == KvType::kBF16 ? "BF16" : "Q8";
}

// What a cache holds, as numbers.
struct KvRows {
  oracle::Matrix keys;
  oracle::Matrix values;
};

inline std::vector<std::byte> saved_rows(Backend& backend, const KvCache& cache, std::int64_t first,
                                         std::int64_t rows) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows * cache.bytes_of_row()));
  backend.save_rows(cache, first, rows, bytes);
  return bytes;
}

// Reads the form of save_rows(): per row the keys of all heads, then the values; of each head the numbers, and behind
// 8-bit codes one float for every 32.
inline KvRows stored_rows(Backend& backend, const KvCache& cache, const AttentionShape& shape, KvType type) {
  const std::vector<std::byte> bytes = saved_rows(backend, cache, 0, cache.length());
  const std::byte* from = bytes.data();
  const auto next = [&from]<class T>(T value) {
    std::memcpy(&value, from, sizeof value);
    from += sizeof value;
    return value;
  };
  const auto read_head = [&](oracle::Matrix& to, std::int64_t row, std::int64_t first) {
    for (std::int64_t i = first; i < first + shape.head_dim; ++i) {
      if (type == KvType::kF32) to(row, i) = next(0.0F);
      if (type == KvType::kBF16) to(row, i) = std::bit_cast<float>(std::uint32_t{next(std::uint16_t{})} << 16);
      if (type == KvType::kQ8) to(row, i) = next(std::int8_t{});
    }
    for (std::int64_t i = 0; type == KvType::kQ8 && i < shape.head_dim; i += 32) {
      const float scale = next(0.0F);
      for (std::int64_t j = i; j < std::min(i + 32, shape.head_dim); ++j) to(row, first + j) *= scale;
    }
  };
  const std::int64_t width = shape.kv_heads * shape.head_dim;
  KvRows rows = {oracle::Matrix(cache.length(), width), oracle::Matrix(cache.length(), width)};
  for (std::int64_t row = 0; row < cache.length(); ++row) {
    for (oracle::Matrix* side : {&rows.keys, &rows.values}) {
      for (std::int64_t head = 0; head < shape.kv_heads; ++head) read_head(*side, row, head * shape.head_dim);
    }
  }
  return rows;
}

}  // namespace lectern::engine::support
