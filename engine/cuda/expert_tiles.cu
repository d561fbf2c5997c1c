// SPDX-License-Identifier: Apache-2.0
#include "cuda/expert_tiles.h"

#include "cuda/numbers.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

__device__ inline void put_rounded(float value, const RoundedRows& rows, std::int64_t at, std::int32_t parts) {
  for (std::int32_t part = 0; part < parts; ++part) {
    const std::uint32_t bits = float_to_bf16(value);
    rows.numbers[part * rows.part + at] = static_cast<std::uint16_t>(bits);
    value -= bf16_to_float(bits);
  }
}

// Neighbours, `at` even; rows have room for both.
__device__ inline void put_two_rounded(float first, float second, const RoundedRows& rows, std::int64_t at,
                                       std::int32_t parts) {
  for (std::int32_t part = 0; part < parts; ++part) {
    const std::uint32_t pair = pack_bf16(first, second);
    *reinterpret_cast<std::uint32_t*>(rows.numbers + part * rows.part + at) = pair;
    first -= low_bf16(pair);
    second -= high_bf16(pair);
  }
}

// What a block works on, in shared memory.
struct TileWork {
  ExpertTile tile;
  std::int32_t pairs[kTileRows];
  std::int32_t sources[kTileRows];  // rows of the activations
};

// Rows of x, or for `down` those of inner, which are sorted.
__device__ void find_work(const TileProduct& job, const ExpertTile& tile, TileWork& work) {
  const auto row = static_cast<std::int32_t>(threadIdx.x);
  const std::int32_t before = tile.first >= job.pairs ? job.pairs : 0;  // the shared expert's come last
  if (row == 0) work.tile = tile;
  if (row < tile.rows) {
    const std::int32_t pair = job.sorted[tile.first + row];
    work.pairs[row] = pair;
    if (job.step == ExpertStep::kDown) {
      work.sources[row] = tile.first + row - before;
    } else {
      work.sources[row] = before > 0 ? pair - before : pair / job.chosen;
    }
  }
  __syncthreads();
}

__device__ inline const RoundedRows& inner_of(const TileProduct& job, const TileWork& work) {
  return work.tile.first >= job.pairs ? job.inner_shared : job.inner;
}
// Of a row of the tile, at a column of inner.
__device__ inline std::int64_t inner_at(const TileProduct& job, const TileWork& work, const RoundedRows& inner, int row,
                                        int col) {
  const std::int32_t place = work.tile.first + row - (work.tile.first >= job.pairs ? job.pairs : 0);
  return place * inner.depth + col;
}

__device__ inline bool is_type(const PlacedMatrix& placed, DType type) {
  return static_cast<DType>(placed.type) == type;
}

// inner = silu(gate x) up x: half as many columns to a block.
template <DType Type>
__global__ void __launch_bounds__(kTileThreads, 2) multiply_gated_tiles(TileProduct job) {
  __shared__ TileWork work;
  if (static_cast<std::int32_t>(blockIdx.y) >= *job.count) return;
  const ExpertTile tile = job.tiles[blockIdx.y];
  const PlacedExpert& expert = job.experts[tile.expert];
  const int first = static_cast<int>(blockIdx.x) * kTileCols / 2;
  if (!is_type(expert.gate, Type) || first >= expert.gate.matrix.rows) return;
  find_work(job, tile, work);
  const RoundedRows& inner = inner_of(job, work);
  multiply_two<Type>(
      expert.gate.matrix, expert.up.matrix, first, tile.rows,
      [&](int row) { return job.x.numbers + work.sources[row] * job.x.depth; }, job.parts, job.x.part,
      [&](int row, int col, float gate0, float up0, float gate1, float up1) {
        // Behind the last column this is the product of zeros.
        put_two_rounded(silu(gate0) * up0, silu(gate1) * up1, inner, inner_at(job, work, inner, row, col), job.parts);
      },
      dynamic_shared<std::uint8_t>());
}

template <DType Type>
__global__ void __launch_bounds__(kTileThreads, 2) multiply_expert_tiles(TileProduct job) {
  __shared__ TileWork work;
  if (static_cast<std::int32_t>(blockIdx.y) >= *job.count) return;
  const ExpertTile tile = job.tiles[blockIdx.y];
  const PlacedExpert& expert = job.experts[tile.expert];
  const PlacedMatrix& placed = job.step == ExpertStep::kGate ? expert.gate
                               : job.step == ExpertStep::kUp ? expert.up
                                                             : expert.down;
  const int first = job.first_column + static_cast<int>(blockIdx.x) * kTileCols;
  if (!is_type(placed, Type) || first >= placed.matrix.rows) return;
  find_work(job, tile, work);
  const RoundedRows& from = job.step == ExpertStep::kDown ? inner_of(job, work) : job.x;
  const std::uint16_t* const numbers = from.numbers;
  const std::int64_t depth = from.depth;
  multiply_tile<Type>(
      placed.matrix, first, tile.rows, [&](int row) { return numbers + work.sources[row] * depth; }, job.parts,
      from.part,
      [&](int row, int col, float y0, float y1) {
        float* to = job.products + work.pairs[row] * job.product_width + (col - job.first_column);
        to[0] = y0;
        if (col + 1 < placed.matrix.rows) to[1] = y1;
      },
      dynamic_shared<std::uint8_t>());
}

}  // namespace

int tile_columns(ExpertStep step) { return step == ExpertStep::kGateAndUp ? kTileCols / 2 : kTileCols; }

TileKernel tile_kernel(DType type, ExpertStep step) {
  TileKernel kernel = nullptr;
  with_type(type, [&]<DType Type>() {
    if constexpr (Type != DType::kF32) {
      kernel = step == ExpertStep::kGateAndUp ? multiply_gated_tiles<Type> : multiply_expert_tiles<Type>;
    }
  });
  return kernel;
}

__global__ void __launch_bounds__(kPlainThreads) gate_inner(TileProduct job, const float* gates, std::int32_t places) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x;
  const std::int64_t place = at / job.product_width;
  const std::int64_t col = at % job.product_width;
  const bool shared = place >= job.pairs;
  const RoundedRows& inner = shared ? job.inner_shared : job.inner;
  if (place >= places || col >= inner.columns) return;
  const std::int64_t from = job.sorted[place] * job.product_width + col;
  put_rounded(silu(gates[from]) * job.products[from], inner, (place - (shared ? job.pairs : 0)) * inner.depth + col,
              job.parts);
}

__global__ void __launch_bounds__(kPlainThreads) combine_pairs(Combination job) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x;
  const std::int64_t t = at / job.width;
  const std::int64_t column = job.first_column + at % job.width;
  if (t >= job.rows || column >= job.columns) return;
  const std::int64_t first = t * job.chosen;
  float sum = 0;
#pragma unroll 4
  for (std::int32_t rank = 0; rank < job.chosen; ++rank) {
    sum = __fmaf_rn(job.weights[first + rank], job.products[(first + rank) * job.width + at % job.width], sum);
  }
  if (job.with_shared != 0) {
    const std::int64_t pair = static_cast<std::int64_t>(job.rows) * job.chosen + t;
    sum = __fmaf_rn(job.weights[pair], job.products[pair * job.width + at % job.width], sum);
  }
  job.y[t * job.columns + column] += sum;
}

unsigned combine_blocks(const Combination& job) {
  return static_cast<unsigned>((job.rows * job.width + kPlainThreads - 1) / kPlainThreads);
}

__global__ void __launch_bounds__(kPlainThreads)
    round_rows(const float* x, RoundedRows to, std::int64_t rows, std::int32_t parts) {
  const std::int64_t at = 2 * (static_cast<std::int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x);
  if (at >= rows * to.depth) return;
  const std::int64_t col = at % to.depth;
  const float* from = x + at / to.depth * to.columns + col;
  put_two_rounded(col < to.columns ? from[0] : 0.0F, col + 1 < to.columns ? from[1] : 0.0F, to, at, parts);
}

__global__ void __launch_bounds__(kPlainThreads) clear_behind(RoundedRows rows, std::int64_t count) {
  const std::int64_t width = rows.depth - rows.columns;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x;
  if (at < count * width) rows.numbers[at / width * rows.depth + rows.columns + at % width] = 0;
}

}  // namespace lectern::engine::cuda
