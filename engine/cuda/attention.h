// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "cuda/kv_cache.h"
#include "cuda/platform.h"

// Causal attention to a cache. The query rows of a KV head are its heads' rows of all tokens, token by token: "packed"
// rows, which share one pass over keys and values. Few packed rows are spread over the GPU by cutting the keys into
// splits; what the splits have gathered is added up in order.
namespace lectern::engine::cuda {

inline constexpr float kNoScore = -3.0e38F;  // below every score, and differences of two are finite
inline constexpr int kMostSplits = 64;

// What a row has gathered from a split: weights are 2^(score - largest).
struct RowStats {
  float largest;
  float total;
};

struct AttentionCall {
  const float* q;              // [rows, kv_heads * group * width], as y
  float* y;                    // written when there is one split
  float* sums;                 // [rows * kv_heads * group, splits, width]: of weight * value
  RowStats* stats;             // [rows * kv_heads * group, splits]
  const std::int64_t* length;  // of the cache
  KvView cache;
  std::int64_t split_keys;  // 0: the row's own, see keys_of_split()
  int rows;                 // tokens
  int group;                // query heads of a KV head
  int splits;               // of the grid
  int tiles;                // of packed rows, of one KV head
  int stages;               // tiles of keys and values that have room in shared memory
  float scale;              // log2(e) / sqrt(width)
};

// Keys of one split for a row that sees `seen`: of the row alone, so that a row is computed the same way whatever is
// computed with it. At most kMostSplits are needed, and beyond 8 K keys at least 57 of these, so that all
// multiprocessors have work. It grows only every 4 K keys: eight consecutive rows have at most two sizes.
__device__ inline std::int64_t keys_of_split(std::int64_t seen) {
  const std::int64_t even = (seen + kMostSplits - 1) / kMostSplits;
  std::int64_t unit = 64;
  while (16 * unit < even) unit *= 2;
  return max(std::int64_t{128}, (even + unit - 1) / unit * unit);
}

// The packed row `index` of a KV head.
struct PackedRow {
  int token;
  int head;  // of all query heads

  __device__ PackedRow(const AttentionCall& call, int kv_head, int index)
      : token(index / call.group), head(kv_head * call.group + index % call.group) {}
  __device__ std::int64_t seen(const AttentionCall& call) const { return *call.length - call.rows + token + 1; }
  // Among all tokens' query heads.
  __device__ std::int64_t number(const AttentionCall& call) const {
    return static_cast<std::int64_t>(token) * call.cache.heads * call.group + head;
  }
  // Of its numbers in q and y.
  __device__ std::int64_t offset(const AttentionCall& call) const { return number(call) * call.cache.width; }
};

__device__ inline std::int64_t keys_of_split(const AttentionCall& call, std::int64_t seen) {
  return call.split_keys > 0 ? call.split_keys : keys_of_split(seen);
}

struct AttentionKernel {
  void (*kernel)(AttentionCall) = nullptr;  // null: none for such a cache
  int threads = 0;
  int tile_rows = 0;  // packed rows of a block
  int stages = 0;
  int column_parts = 1;  // blocks that share the columns of a tile's values
  std::int64_t shared_bytes = 0;
};

// Kernels for the matrix units, which round queries and weights to BF16.
inline bool on_matrix_units(KvType type, int width) { return type != KvType::kF32 && width % 16 == 0 && width <= 256; }
// For `rows` packed rows of up to kSmallBatchRows tokens; always with kMostSplits splits.
AttentionKernel small_batch_kernel(KvType type, int width, int rows, std::int64_t shared_limit);
// For any number of rows.
AttentionKernel flash_kernel(KvType type, int width, std::int64_t shared_limit);

// Working memory of attention for up to `rows` tokens, whatever the length of the cache.
std::int64_t attention_working_bytes(const AttentionShape& shape, std::int64_t rows, std::int64_t multiprocessors);

}  // namespace lectern::engine::cuda
