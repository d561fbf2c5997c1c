// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/expert_groups.h"
#include "cuda/gemm.h"

// Products of experts with many rows, on the matrix units, and what goes before and after them.
namespace lectern::engine::cuda {

// Rows of BF16 activations, one or more parts of each number (gemm.h).
struct RoundedRows {
  std::uint16_t* numbers = nullptr;  // [parts, rows, depth]
  std::int64_t columns = 0;
  std::int64_t depth = 0;  // columns and the zeros behind them
  std::int64_t part = 0;   // numbers of a part
};

struct TileProduct {
  const PlacedExpert* experts = nullptr;
  const ExpertTile* tiles = nullptr;
  const std::int32_t* sorted = nullptr;
  const std::int32_t* count = nullptr;  // of tiles
  RoundedRows x;
  RoundedRows inner;          // by place in `sorted`
  RoundedRows inner_shared;   // the same, from the first of the shared expert on
  float* products = nullptr;  // [pairs, product_width]
  std::int64_t product_width = 0;
  ExpertStep step = ExpertStep::kGateAndUp;
  std::int32_t pairs = 0;   // without the shared expert's
  std::int32_t chosen = 0;  // of a row
  std::int32_t parts = 0;
  std::int32_t first_column = 0;  // of `down`, a multiple of kTileCols, to column 0 of `products`
  std::int32_t none = 0;          // no padding
};

// Grid: pieces of tile_columns() columns, most tiles of rows; kTileThreads threads and kTileSharedBytes. Experts whose
// matrix is of another type are left out. None for F32.
using TileKernel = void (*)(TileProduct);
TileKernel tile_kernel(DType type, ExpertStep step);
int tile_columns(ExpertStep step);

// inner = silu(gates) products, both [pairs, product_width]; grid: all of these numbers. places: rows of all inner.
__global__ void gate_inner(TileProduct job, const float* gates, std::int32_t places);

// y[t, first + c] += what the row's pairs have, by rank and weighted, and then its shared expert.
struct Combination {
  const float* products = nullptr;  // [pairs, width]
  const float* weights = nullptr;   // by pair
  float* y = nullptr;               // [rows, columns]
  std::int64_t columns = 0;
  std::int64_t width = 0;
  std::int32_t first_column = 0;
  std::int32_t rows = 0;
  std::int32_t chosen = 0;
  std::int32_t with_shared = 0;
};

inline constexpr unsigned kPlainThreads = 256;

__global__ void combine_pairs(Combination job);  // grid: combine_blocks()
__global__ void round_rows(const float* x, RoundedRows to, std::int64_t rows, std::int32_t parts);
// Zeros behind the columns.
__global__ void clear_behind(RoundedRows rows, std::int64_t count);

unsigned combine_blocks(const Combination& job);

}  // namespace lectern::engine::cuda
