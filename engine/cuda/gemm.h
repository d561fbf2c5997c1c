// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/products.h"

// Products of stored weights with many rows of activations, on the matrix units: a block computes a tile of 128 rows by
// 128 columns (rows of the weights). Weights are decoded to BF16 in shared memory, once per tile; sums are floats.
namespace lectern::engine::cuda {

inline constexpr int kTileRows = 128;
inline constexpr int kTileCols = 128;
inline constexpr int kTileDepth = 64;
inline constexpr int kTileThreads = 256;

// Dynamic shared memory of multiply_tile(): needs allow_shared_memory(). Two stages of activations and weights.
inline constexpr int kTileBytes = kTileRows * kTileDepth * 2;
inline constexpr std::size_t kTileSharedBytes = 4 * kTileBytes;

// Numbers in a row of BF16 activations for `cols` columns: zeros behind them.
__host__ __device__ constexpr std::int64_t tile_depth(std::int64_t cols) {
  return (cols + kTileDepth - 1) / kTileDepth * kTileDepth;
}

// Rows of a tile are 128 bytes: eight pieces of 16, their places mixed so that neither eight rows of one piece nor the
// pieces of one row meet in a memory bank.
__device__ inline int tile_offset(int row, int piece) { return row * 128 + ((piece ^ (row & 7)) << 4); }

// What one thread brings of the weights of a tile: 32 columns of row threadIdx.x / 2.
template <DType Type>
struct RawNumbers {
  static constexpr int kChunks = kGroup / kChunk<Type>;
  std::uint32_t words[kChunks][4];
  float scale;
};
template <DType Type>
using RawTilePart = std::conditional_t<kIsCoded<Type>, RawGroup<Type>, RawNumbers<Type>>;

// `group`: of 32 columns, within the row.
template <DType Type>
__device__ inline RawTilePart<Type> load_tile_part(const DeviceMatrix& w, const StoredRow& stored, std::int64_t row,
                                                   int group) {
  if constexpr (kIsCoded<Type>) {
    return load_group<Type>(stored, group);
  } else {
    RawNumbers<Type> raw;
#pragma unroll
    for (int i = 0; i < RawNumbers<Type>::kChunks; ++i) {
      const std::int64_t at = 16LL * (group * RawNumbers<Type>::kChunks + i);
      if (at < w.row_bytes) {
        load_16_bytes(w.codes + row * w.row_bytes + at, raw.words[i]);
      } else {
        for (std::uint32_t& word : raw.words[i]) word = 0;
      }
    }
    raw.scale = Type == DType::kF8E4M3 ? f8_scale(w, row, std::int64_t{kGroup} * group) : 1.0F;
    return raw;
  }
}

// 16 bytes of BF16: columns 8 Piece to 8 Piece + 7 of the part.
template <DType Type, int Piece>
__device__ inline uint4 decode_piece(const RawTilePart<Type>& raw, const GroupFactors& factors) {
  float v[8];
  if constexpr (kIsCoded<Type>) {
    constexpr int kHalf = Piece / 2;
    constexpr int kWord = 2 * (Piece % 2);
    GroupCodes codes;
    expand_word<Type, kWord>(raw, codes);
    expand_word<Type, kWord + 1>(raw, codes);
    const std::uint32_t* words = kHalf == 0 ? codes.low : codes.high;
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = weight_value<Type>(words[kWord + i / 4], i % 4, factors, kHalf);
  } else {
    constexpr int kFirst = 8 * Piece / kChunk<Type>;
    float chunk[kChunk<Type>];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i % kChunk<Type> == 0) expand_chunk<Type>(raw.words[kFirst + i / kChunk<Type>], chunk);
      v[i] = chunk[(8 * Piece + i) % kChunk<Type>] * raw.scale;
    }
  }
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

template <DType Type>
__device__ inline void store_tile_part(const RawTilePart<Type>& raw, int group, bool valid, std::uint8_t* tile) {
  const int row = static_cast<int>(threadIdx.x) / 2;
  const int first = 4 * (static_cast<int>(threadIdx.x) % 2);
  uint4 pieces[4] = {};
  if (valid) {
    GroupFactors factors = {};
    if constexpr (kIsCoded<Type>) factors = expand_factors<Type>(raw, group);
    pieces[0] = decode_piece<Type, 0>(raw, factors);
    pieces[1] = decode_piece<Type, 1>(raw, factors);
    pieces[2] = decode_piece<Type, 2>(raw, factors);
    pieces[3] = decode_piece<Type, 3>(raw, factors);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) *reinterpret_cast<uint4*>(tile + tile_offset(row, first + i)) = pieces[i];
}

// Sums of a warp: rows 16 (2 m + warp / 4) and columns 32 (warp % 4) + 8 n of the tile, for m, n = 0 .. 3.
struct TileSums {
  float part[4][4][4] = {};
};

// `strips`: how many of the four m have rows. 16 and 32 rows further on, pieces have the same places.
__device__ inline void add_tile(const std::uint8_t* x, const std::uint8_t* w, int strips, TileSums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int x_at = tile_offset(16 * (warp / 4) + lane % 16, lane / 16);
  const int w_at = tile_offset(32 * (warp % 4) + lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int step = 0; step < kTileDepth / 16; ++step) {
    const int mixed = 2 * step << 4;  // the piece, mixed with the row already
    std::uint32_t b[2][4];
    load_matrices(b[0], w + (w_at ^ mixed));
    load_matrices(b[1], w + (w_at ^ mixed) + 16 * 128);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      if (m >= strips) break;
      std::uint32_t a[4];
      load_matrices(a, x + (x_at ^ mixed) + m * 32 * 128);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const std::uint32_t pair[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
        mma_bf16(sums.part[m][n], a, pair);
      }
    }
  }
}

// Which rows of weights make a tile: row r of it is row row(r) of matrix(r), where exists(r).
struct OneMatrix {
  const DeviceMatrix& w;
  int first;

  __device__ const DeviceMatrix& matrix(int) const { return w; }
  __device__ int row(int r) const { return first + r; }
  __device__ bool exists(int r) const { return row(r) < w.rows; }
};

// Two matrices of one shape and type, eight rows of each in turn, so that a thread has the sums of both.
struct TwoMatrices {
  const DeviceMatrix& a;
  const DeviceMatrix& b;
  int first;

  __device__ const DeviceMatrix& matrix(int r) const { return r / 8 % 2 == 0 ? a : b; }
  __device__ int row(int r) const { return first + r / 16 * 8 + r % 8; }
  __device__ bool exists(int r) const { return row(r) < a.rows; }
};

// Rows [0, rows) of activations, at most kTileRows, times the rows of weights of a tile.
// source(row): const std::uint16_t*, the row in BF16, tile_depth(columns) numbers, aligned to 16. Activations may be
// the sum of `parts` such numbers, the further ones `part_stride` numbers behind: two give 16 bits of fraction. All
// kTileThreads threads must call this, with kTileSharedBytes of `shared`; rows and parts are the same for all of them.
// Before `shared` is used again: a barrier.
template <DType Type, class Weights, class Source>
__device__ inline void sum_tile(const Weights& weights, int rows, const Source& source, int parts,
                                std::int64_t part_stride, std::uint8_t* shared, TileSums& sums) {
  constexpr bool kCopied = Type == DType::kBF16;
  const int thread = static_cast<int>(threadIdx.x);
  const DeviceMatrix& w = weights.matrix(thread / 2);
  const int tiles = static_cast<int>(tile_depth(w.cols)) / kTileDepth;
  const int steps = tiles * parts;
  const bool exists = weights.exists(thread / 2);
  const std::int64_t w_row = exists ? weights.row(thread / 2) : 0;
  StoredRow stored = {};
  if constexpr (kIsCoded<Type>) stored = stored_row<Type>(w, w_row);

  // Each thread copies piece thread % 8 of four rows.
  const int own_offset = tile_offset(thread / 8, thread % 8);
  const std::uint16_t* from[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = thread / 8 + 32 * i;
    from[i] = row < rows ? source(row) + thread % 8 * 8 : nullptr;
  }
  const auto copy = [&](int step) {
    const int tile = step % tiles;
    const std::int64_t at = step / tiles * part_stride + std::int64_t{kTileDepth} * tile;
    std::uint8_t* x_tile = shared + step % 2 * kTileBytes;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      copy_async(x_tile + own_offset + 32 * 128 * i, from[i] + (from[i] != nullptr ? at : 0), from[i] != nullptr);
    }
    if constexpr (kCopied) {
      const std::int64_t offset = std::int64_t{2 * kTileDepth} * tile + thread % 8 * 16;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = thread / 8 + 32 * i;
        const DeviceMatrix& own = weights.matrix(row);
        const bool valid = weights.exists(row) && offset < own.row_bytes;
        copy_async(x_tile + 2 * kTileBytes + own_offset + 32 * 128 * i,
                   own.codes + (valid ? weights.row(row) * own.row_bytes + offset : 0), valid);
      }
    }
    commit_copies();
  };
  const auto group_of = [&](int step) { return 2 * (step % tiles) + thread % 2; };
  const auto has = [&](int step) { return kGroup * group_of(step) < w.cols && exists; };
  RawTilePart<Type> raw = {};
  const auto load = [&](int step) {
    if (has(step)) raw = load_tile_part<Type>(w, stored, w_row, group_of(step));
  };
  const auto store = [&](int step) {
    store_tile_part<Type>(raw, group_of(step), has(step), shared + (2 + step % 2) * kTileBytes);
  };

  copy(0);
  if constexpr (!kCopied) {
    load(0);
    store(0);
  }
  wait_for_copies<0>();
  __syncthreads();
  const int strips = (rows - thread / kWarp / 4 * 16 + 31) / 32;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const bool more = step + 1 < steps;
    if (more) copy(step + 1);
    if constexpr (!kCopied) {
      if (more) load(step + 1);
    }
    add_tile(shared + step % 2 * kTileBytes, shared + (2 + step % 2) * kTileBytes, strips, sums);
    if constexpr (!kCopied) {
      if (more) store(step + 1);
    }
    wait_for_copies<0>();
    __syncthreads();
  }
}

// Rows [first, first + kTileCols) of w, those that exist, as sum_tile(); first is the same for all threads.
// sink(row, col, y0, y1): results of columns col and col + 1 of w's rows; col exists, col + 1 only if below w.rows.
template <DType Type, class Source, class Sink>
__device__ inline void multiply_tile(const DeviceMatrix& w, int first, int rows, const Source& source, int parts,
                                     std::int64_t part_stride, const Sink& sink, std::uint8_t* shared) {
  TileSums sums;
  sum_tile<Type>(OneMatrix{w, first}, rows, source, parts, part_stride, shared, sums);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int row = 16 * (2 * m + thread / kWarp / 4) + lane / 4;
      const int col = first + 32 * (thread / kWarp % 4) + 8 * n + lane % 4 * 2;
      const float* y = sums.part[m][n];
      if (col < w.rows && row < rows) sink(row, col, y[0], y[1]);
      if (col < w.rows && row + 8 < rows) sink(row + 8, col, y[2], y[3]);
    }
  }
}

// Rows [first, first + kTileCols / 2) of two matrices of one shape and type.
// sink(row, col, a0, b0, a1, b1): the results of columns col and col + 1, as multiply_tile().
template <DType Type, class Source, class Sink>
__device__ inline void multiply_two(const DeviceMatrix& a, const DeviceMatrix& b, int first, int rows,
                                    const Source& source, int parts, std::int64_t part_stride, const Sink& sink,
                                    std::uint8_t* shared) {
  TileSums sums;
  sum_tile<Type>(TwoMatrices{a, b, first}, rows, source, parts, part_stride, shared, sums);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      const int row = 16 * (2 * m + thread / kWarp / 4) + lane / 4;
      const int col = first + 16 * (thread / kWarp % 4) + 4 * n + lane % 4 * 2;
      const float* of_a = sums.part[m][n];
      const float* of_b = sums.part[m][n + 1];
      if (col < a.rows && row < rows) sink(row, col, of_a[0], of_b[0], of_a[1], of_b[1]);
      if (col < a.rows && row + 8 < rows) sink(row + 8, col, of_a[2], of_b[2], of_a[3], of_b[3]);
    }
  }
}

}  // namespace lectern::engine::cuda
