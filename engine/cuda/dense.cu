// SPDX-License-Identifier: Apache-2.0
// Embedding and products of weights with activations.
#include <algorithm>

#include "cuda/cublas.h"
#include "cuda/cuda_backend.h"
#include "cuda/gemm.h"
#include "cuda/products.h"
#include "cuda/row_products.h"

namespace lectern::engine::cuda {
namespace {

// Rows up to which weights are read anew for every eight of them: reading them from the cache is cheaper than decoding
// tiles of which most is empty.
constexpr std::int64_t kFewRows = 32;

// Columns up to which one or two rows are coded by each block for itself, which spares a launch.
constexpr std::int64_t kMostOwnColumns = 16384;

// --- embedding ------------------------------------------------------------------------------------------------------

// One block per token, one unit of a row (a group or a chunk) per thread.
template <DType Type>
__global__ void embed_rows(DeviceMatrix table, const TokenId* tokens, float* y) {
  const std::int64_t row = max(tokens[blockIdx.x], 0);  // kNoToken is not a row
  float* to = y + static_cast<std::int64_t>(blockIdx.x) * table.cols;
  for (int unit = static_cast<int>(threadIdx.x); unit < units_of<Type>(table.cols);
       unit += static_cast<int>(blockDim.x)) {
    if constexpr (kIsCoded<Type>) {
      const RawGroup<Type> raw = load_group<Type>(stored_row<Type>(table, row), unit);
      const GroupCodes codes = expand_codes<Type>(raw);
      const GroupFactors factors = expand_factors<Type>(raw, unit);
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        to[kGroup * unit + i] = weight_value<Type>(codes.low[i / 4], i % 4, factors, 0);
        to[kGroup * unit + 16 + i] = weight_value<Type>(codes.high[i / 4], i % 4, factors, 1);
      }
    } else {
      std::uint32_t words[4];
      load_16_bytes(table.codes + row * table.row_bytes + 16LL * unit, words);
      const std::int64_t col = static_cast<std::int64_t>(unit) * kChunk<Type>;
      float values[kChunk<Type>];
      expand_chunk<Type>(words, values);
      for (int i = 0; i < kChunk<Type> && col + i < table.cols; ++i) {
        to[col + i] = Type == DType::kF8E4M3 ? values[i] * f8_scale(table, row, col) : values[i];
      }
    }
  }
}

// --- few rows -------------------------------------------------------------------------------------------------------

// All rows of the weights.
template <DType Type, int Rows>
__device__ inline void multiply_all(const RowProduct& p, const Activations<Type>& x, std::int64_t t_first) {
  __shared__ Partial<kWeightRows * Rows> partial;
  multiply_share<Type, Rows>(p, x, blockIdx.x, gridDim.x, t_first, partial);
}

// Rows 8 blockIdx.y to 8 blockIdx.y + 7 of x, of which there are at most Rows.
template <DType Type, int Rows>
__global__ void __launch_bounds__(kBlockThreads, kLeastBlocks<Rows>) multiply_numbers(RowProduct p, FloatRows x) {
  const std::int64_t first = kSmallBatchRows * blockIdx.y;
  x.data += first * x.stride;
  x.last = min(x.last - first, kSmallBatchRows - 1);
  multiply_all<Type, Rows>(p, x, first);
}

template <DType Type, int Rows>
__global__ void __launch_bounds__(kBlockThreads, kLeastBlocks<Rows>) multiply_codes(RowProduct p, CodedRows x) {
  const std::int64_t first = kSmallBatchRows * blockIdx.y;
  x = from_row(x, first);
  x.last = min(x.last, kSmallBatchRows - 1);
  multiply_all<Type, Rows>(p, x, first);
}

// Exactly `Rows` rows of floats, aligned to 16, which every block codes for itself.
template <DType Type, int Rows>
__global__ void __launch_bounds__(kBlockThreads, kLeastBlocks<Rows>) multiply_own_codes(RowProduct p, const float* x) {
  const CodedRows rows = coded_rows(dynamic_shared<std::uint8_t>(), Rows, p.w.cols);
  code_by_block(x, Rows * rows.groups, rows);
  __syncthreads();
  multiply_all<Type, Rows>(p, rows, 0);
}

__global__ void __launch_bounds__(kBlockThreads) code_rows(const float* x, std::int64_t groups, CodedRows to) {
  constexpr std::int64_t kGroups = kBlockThreads / 4;
  const std::int64_t first = kGroups * blockIdx.x;
  CodedRows part = to;
  part.low += 16 * first;
  part.high += 16 * first;
  part.facts += first;
  code_by_block(x + kGroup * first, min(kGroups, groups - first), part);
}

// --- many rows ------------------------------------------------------------------------------------------------------

// Rows of x in BF16, `depth` numbers each, zeros behind the columns; with two parts, what is left of each number.
__global__ void to_bf16_parts(const float* x, std::int64_t rows, std::int64_t cols, std::int64_t depth, int parts,
                              std::uint16_t* to) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= rows * depth) return;
  const std::int64_t col = at % depth;
  float rest = col < cols ? x[at / depth * cols + col] : 0.0F;
  for (int part = 0; part < parts; ++part) {
    const std::uint32_t bits = float_to_bf16(rest);
    to[part * rows * depth + at] = static_cast<std::uint16_t>(bits);
    rest -= bf16_to_float(bits);
  }
}

template <DType Type>
__global__ void __launch_bounds__(kTileThreads, 2)
    multiply_tiles(DeviceMatrix w, const std::uint16_t* x, std::int64_t rows, std::int64_t depth, int parts, float* y,
                   std::int64_t accumulate) {
  const std::int64_t first_row = static_cast<std::int64_t>(kTileRows) * blockIdx.x;
  const int count = static_cast<int>(min(static_cast<std::int64_t>(kTileRows), rows - first_row));
  float* to = y + first_row * w.rows;
  const std::uint16_t* from = x + first_row * depth;
  multiply_tile<Type>(
      w, kTileCols * static_cast<int>(blockIdx.y), count, [&](int row) { return from + row * depth; }, parts,
      rows * depth,
      [&](int row, int col, float y0, float y1) {
        float* at = to + static_cast<std::int64_t>(row) * w.rows + col;
        at[0] = accumulate != 0 ? at[0] + y0 : y0;
        if (col + 1 < w.rows) at[1] = accumulate != 0 ? at[1] + y1 : y1;
      },
      dynamic_shared<std::uint8_t>());
}

// to: [rows, stride], zeros behind the columns.
__global__ void pad_rows(const float* x, std::int64_t rows, std::int64_t cols, std::int64_t stride, float* to) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= rows * stride) return;
  to[at] = at % stride < cols ? x[at / stride * cols + at % stride] : 0.0F;
}

// Weights of float: tiles of 64 x 64 on the arithmetic units, a thread 4 x 4 of them.
constexpr int kFloatTile = 64;
constexpr int kFloatDepth = 16;
constexpr unsigned kFloatThreads = 256;

// tile[k][row]: 64 rows from `first` on, kFloatDepth columns from `col` on, zeros behind the end.
__device__ inline void load_float_tile(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                                       std::int64_t first, std::int64_t col,
                                       float (&tile)[kFloatDepth][kFloatTile + 4]) {
  const int k = static_cast<int>(threadIdx.x) % kFloatDepth;
#pragma unroll
  for (int i = 0; i < kFloatTile * kFloatDepth / static_cast<int>(kFloatThreads); ++i) {
    const int row = static_cast<int>(threadIdx.x) / kFloatDepth + i * static_cast<int>(kFloatThreads) / kFloatDepth;
    const bool exists = first + row < rows && col + k < cols;
    tile[k][row] = exists ? from[(first + row) * stride + col + k] : 0.0F;
  }
}

__global__ void __launch_bounds__(kFloatThreads)
    multiply_float_tiles(DeviceMatrix w, const float* x, std::int64_t rows, float* y, std::int64_t accumulate) {
  __shared__ __align__(16) float x_tile[kFloatDepth][kFloatTile + 4];
  __shared__ __align__(16) float w_tile[kFloatDepth][kFloatTile + 4];
  const std::int64_t first_row = static_cast<std::int64_t>(kFloatTile) * blockIdx.x;
  const std::int64_t first_col = static_cast<std::int64_t>(kFloatTile) * blockIdx.y;
  const auto* weights = reinterpret_cast<const float*>(w.codes);
  const int own_row = static_cast<int>(threadIdx.x) / 16 * 4;
  const int own_col = static_cast<int>(threadIdx.x) % 16 * 4;
  float sums[4][4] = {};
  for (std::int64_t k = 0; k < w.cols; k += kFloatDepth) {
    load_float_tile(x, w.cols, rows, w.cols, first_row, k, x_tile);
    load_float_tile(weights, w.row_bytes / 4, w.rows, w.cols, first_col, k, w_tile);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kFloatDepth; ++i) {
      const float4 a = *reinterpret_cast<const float4*>(&x_tile[i][own_row]);
      const float4 b = *reinterpret_cast<const float4*>(&w_tile[i][own_col]);
      const float left[4] = {a.x, a.y, a.z, a.w};
      const float right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[r][c] = fmaf(left[r], right[c], sums[r][c]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const std::int64_t row = first_row + own_row + r;
      const std::int64_t col = first_col + own_col + c;
      if (row >= rows || col >= w.rows) continue;
      float* at = y + row * w.rows + col;
      *at = accumulate != 0 ? *at + sums[r][c] : sums[r][c];
    }
  }
}

}  // namespace

void CudaBackend::embed(const Weight& table, std::span<const TokenId> tokens, const Tensor& y) {
  embed_chosen(table, values_.add(tokens), y);
}

void CudaBackend::embed_chosen(const Weight& table, const TokenId* chosen, const Tensor& y) {
  const CudaWeight& w = cuda_weight(table);
  with_type(w.type(), [&]<DType Type>() {
    const int units = units_of<Type>(table.cols());
    run({static_cast<unsigned>(y.rows), units > 64 ? 256U : 64U}, embed_rows<Type>, w.matrix(), chosen, y.data);
  });
}

void CudaBackend::linear(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) {
  if (x.rows <= kFewRows) return multiply_few(x, w, accumulate, y);
  if (cuda_weight(w).type() == DType::kF32) return multiply_floats(x, w, accumulate, y);
  multiply_many(x, w, accumulate, y);
}

void CudaBackend::multiply_few(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) {
  const CudaWeight& weight = cuda_weight(w);
  Workspace workspace(*this);
  // x as it is, or a copy whose rows begin on 16 bytes and are multiples of `unit` numbers.
  const auto padded = [&](std::int64_t unit) -> FloatRows {
    const std::int64_t stride = (x.cols + unit - 1) / unit * unit;
    const bool aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
    if (aligned && stride == x.cols) return {x.data, x.cols, x.cols, x.rows - 1, 1};
    auto* const copy = workspace.take<float>(x.rows * stride);
    run({quotient_up(x.rows * stride, 256), 256}, pad_rows, static_cast<const float*>(x.data), x.rows, x.cols, stride,
        copy);
    return {copy, stride, x.cols, x.rows - 1, 1};
  };
  const auto multiply = [&]<DType Type, int Rows>() {
    const RowShare share = share_of(units_of<Type>(x.cols), w.rows(), multiprocessors());
    const RowProduct p = {weight.matrix(), y.data, x.rows, share, accumulate ? 1 : 0};
    const int most = multiprocessors() * (kIsCoded<Type> && Rows <= 2 ? kLeastBlocks<Rows> : 8);
    const unsigned blocks = std::min(quotient_up(w.rows(), step_rows(share)), static_cast<unsigned>(most));
    Grid grid = {dim3(blocks, quotient_up(x.rows, kSmallBatchRows)), kBlockThreads};
    if constexpr (!kIsCoded<Type>) {
      run(grid, multiply_numbers<Type, Rows>, p, padded(kChunk<Type>));
    } else if constexpr (Rows <= 2) {
      grid.shared_bytes = static_cast<std::size_t>(coded_bytes(Rows, x.cols));
      run(grid, multiply_own_codes<Type, Rows>, p, padded(kGroup).data);
    } else {
      const CodedRows coded = coded_rows(workspace.take<std::uint8_t>(coded_bytes(x.rows, x.cols)), x.rows, x.cols);
      const std::int64_t groups = x.rows * coded.groups;
      run({quotient_up(groups, kBlockThreads / 4), kBlockThreads}, code_rows, padded(kGroup).data, groups, coded);
      run(grid, multiply_codes<Type, Rows>, p, coded);
    }
  };
  with_type(weight.type(), [&]<DType Type>() {
    const bool own = !kIsCoded<Type> || x.cols <= kMostOwnColumns;
    if (own && x.rows == 1) return multiply.template operator()<Type, 1>();
    if (own && x.rows == 2) return multiply.template operator()<Type, 2>();
    if (x.rows <= 4) return multiply.template operator()<Type, 4>();
    multiply.template operator()<Type, 8>();
  });
}

void CudaBackend::multiply_many(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) {
  const CudaWeight& weight = cuda_weight(w);
  // Weights of BF16 are exact in the product; two parts make it so for the activations, at twice the products.
  const int parts = weight.type() == DType::kBF16 ? 2 : 1;
  const std::int64_t depth = tile_depth(x.cols);
  Workspace workspace(*this);
  auto* const rounded = workspace.take<std::uint16_t>(parts * x.rows * depth);
  run({quotient_up(x.rows * depth, 256), 256}, to_bf16_parts, static_cast<const float*>(x.data), x.rows, x.cols, depth,
      parts, rounded);
  if (multiply_by_library({rounded, x.rows, depth, parts}, weight, accumulate, y)) return;
  const Grid grid = {dim3(quotient_up(x.rows, kTileRows), quotient_up(w.rows(), kTileCols)), kTileThreads,
                     kTileSharedBytes};
  with_type(weight.type(), [&]<DType Type>() {
    if constexpr (Type != DType::kF32) {
      allow_shared_memory(multiply_tiles<Type>);
      run(grid, multiply_tiles<Type>, weight.matrix(), static_cast<const std::uint16_t*>(rounded), x.rows, depth, parts,
          y.data, accumulate ? 1 : 0);
    }
  });
}

void CudaBackend::multiply_floats(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) {
  const Grid grid = {dim3(quotient_up(x.rows, kFloatTile), quotient_up(w.rows(), kFloatTile)), kFloatThreads};
  run(grid, multiply_float_tiles, cuda_weight(w).matrix(), static_cast<const float*>(x.data), x.rows, y.data,
      accumulate ? 1 : 0);
}

}  // namespace lectern::engine::cuda
