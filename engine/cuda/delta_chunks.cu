// SPDX-License-Identifier: Apache-2.0
// What concerns one chunk of rows alone, all chunks of a slab at once.
#include "cuda/delta_chunks.h"

#include <algorithm>
#include <cmath>

#include "cuda/delta_fragments.h"
#include "cuda/delta_gates.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

using namespace delta;

constexpr int kKeyStride = kHead + 8;  // pairs of neighbouring rows then lie in different banks
constexpr int kMatrixStride = kRows + 4;

struct ChunkGates {
  // The running sums G of g as sums of two floats, so that their differences are exact to a float.
  float sum[kRows];
  float rest[kRows];
  float beta[kRows];

  __device__ float weight(int i, int j) const { return j <= i ? expf((sum[i] - sum[j]) + (rest[i] - rest[j])) : 0.0F; }
};

struct KeyMemory {
  float row[kRows][kKeyStride];
};
struct SolverMemory {
  float matrix[kRows][kMatrixStride];
  float inverse[kRows][kMatrixStride];
};

struct PreparationMemory {
  union {
    KeyMemory keys;
    SolverMemory solver;  // once the keys have been multiplied
  };
  ChunkGates gates;
};

// One warp's 16 normalised rows of keys or queries, as fragments.
struct VectorRows {
  float4 fragments[kHeadSteps];

  // `from`: row 0 of the tile, `valid` rows of which exist.
  __device__ VectorRows(const Lane& at, const float* from, std::int64_t stride, int valid, bool query) {
    float2 numbers[2][kHeadSteps];
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at.row + 8 * half;
      float squares = 0.0F;
#pragma unroll
      for (int i = 0; i < kHeadSteps; ++i) {
        const float* place = from + row * stride + kStep * i + 2 * at.pair;
        float2& two = numbers[half][i];
        two = row < valid ? *reinterpret_cast<const float2*>(place) : make_float2(0.0F, 0.0F);
        squares = fmaf(two.y, two.y, fmaf(two.x, two.x, squares));
      }
      squares += __shfl_xor_sync(kAllLanes, squares, 1);
      squares += __shfl_xor_sync(kAllLanes, squares, 2);
      factors[half] = query ? query_scale(squares, kHead) : key_scale(squares);
    }
#pragma unroll
    for (int i = 0; i < kHeadSteps; ++i) {
      fragments[i] = make_float4(numbers[0][i].x * factors[0], numbers[1][i].x * factors[1],
                                 numbers[0][i].y * factors[0], numbers[1][i].y * factors[1]);
    }
  }

  __device__ void write(const Lane& at, int tile, float4* matrix) const {
    float4* to = matrix + tile * kHeadSteps * kFragment + at.lane;
#pragma unroll
    for (int k = 0; k < kHeadSteps; ++k) to[k * kFragment] = fragments[k];
  }

  __device__ void write(const Lane& at, int tile, KeyMemory& keys) const {
    float* to = &keys.row[kTile * tile + at.row][2 * at.pair];
#pragma unroll
    for (int k = 0; k < kHeadSteps; ++k) {
      *reinterpret_cast<float2*>(to + kStep * k) = make_float2(fragments[k].x, fragments[k].z);
      *reinterpret_cast<float2*>(to + 8 * kKeyStride + kStep * k) = make_float2(fragments[k].y, fragments[k].w);
    }
  }

  // products[j] = these rows times keys 8 j .. 8 j + 7, for the keys that are not later than the tile.
  __device__ void multiply_keys(const Lane& at, int tile, const KeyMemory& keys, float (&products)[8][4]) const {
#pragma unroll
    for (int k = 0; k < kHeadSteps; ++k) {
      const LeftFragment left(fragments[k]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (j > 2 * tile + 1) continue;
        const float2 two = *reinterpret_cast<const float2*>(&keys.row[8 * j + at.row][kStep * k + 2 * at.pair]);
        multiply(products[j], left, RightFragment(two.x, two.y));
      }
    }
  }
};

// K^T, 16 of its rows to a warp.
__device__ inline void write_turned_keys(const Lane& at, const KeyMemory& keys, float4* turned) {
  const int column = kTile * at.warp + at.row;
  float4* to = turned + at.warp * kRowSteps * kFragment + at.lane;
#pragma unroll
  for (int k = 0; k < kRowSteps; ++k) {
    const float* first = keys.row[kStep * k + 2 * at.pair] + column;
    const float* second = first + kKeyStride;
    to[k * kFragment] = make_float4(first[0], first[8], second[0], second[8]);
  }
}

// A sum with what its rounding left over.
struct Sum {
  float value;
  float rest;
};

__device__ inline Sum add(const Sum& a, const Sum& b) {
  const float value = a.value + b.value;
  const float part = value - a.value;
  const float rest = ((a.value - (value - part)) + (b.value - part)) + (a.rest + b.rest);
  const float whole = value + rest;
  return {whole, rest - (whole - value)};
}

// One warp: gates of the chunk's rows of one value head, two to a lane. Rows that do not exist change nothing.
__device__ inline void find_gates(const ChunkWork& work, std::int64_t first, int head, ChunkGates& gates,
                                  float* decay) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float g[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::int64_t row = first + 2 * lane + i;
    const float* ba = work.ba + row * 2 * work.value_heads + head;
    const bool exists = row < work.rows;
    g[i] = exists ? log_decay(ba[work.value_heads], work.gates, head) : 0.0F;
    gates.beta[2 * lane + i] = exists ? sigmoid(ba[0]) : 0.0F;
  }
  Sum sum = add({g[0], 0.0F}, {g[1], 0.0F});
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Sum before = {__shfl_up_sync(kAllLanes, sum.value, static_cast<unsigned>(offset)),
                        __shfl_up_sync(kAllLanes, sum.rest, static_cast<unsigned>(offset))};
    if (lane >= offset) sum = add(before, sum);
  }
  const Sum first_of_two = add(sum, {-g[1], 0.0F});
  gates.sum[2 * lane] = first_of_two.value;
  gates.rest[2 * lane] = first_of_two.rest;
  gates.sum[2 * lane + 1] = sum.value;
  gates.rest[2 * lane + 1] = sum.rest;
  __syncwarp();
  for (int i = lane; i < kRows; i += kWarp) {
    decay[i] = expf(gates.sum[i]);
    decay[kRows + i] = gates.weight(kRows - 1, i);
  }
}

// A of one warp's 16 rows.
__device__ inline void write_matrix(const Lane& at, int tile, const float (&products)[8][4], const ChunkGates& gates,
                                    SolverMemory& solver) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (j > 2 * tile + 1) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = kTile * tile + at.row + i / 2 * 8;
      const int column = 8 * j + 2 * at.pair + i % 2;
      const float weight = column < row ? gates.beta[row] * gates.weight(row, column) : 0.0F;
      solver.matrix[row][column] = weight * products[j][i];
    }
  }
}

// The weighted products of one warp's 16 rows.
__device__ inline void write_pairs(const Lane& at, int tile, const float (&products)[8][4], const ChunkGates& gates,
                                   float4* pairs) {
  float4* to = pairs + tile * kRowSteps * kFragment + at.lane;
  const int row = kTile * tile + at.row;
#pragma unroll
  for (int k = 0; k < kRowSteps; ++k) {
    if (k > 2 * tile + 1) continue;
    const int column = kStep * k + 2 * at.pair;
    const float(&p)[4] = products[k];
    to[k * kFragment] = make_float4(p[0] * gates.weight(row, column), p[2] * gates.weight(row + 8, column),
                                    p[1] * gates.weight(row, column + 1), p[3] * gates.weight(row + 8, column + 1));
  }
}

using SolverRows = float[kRows][kMatrixStride];

// The inverses of the 16 x 16 blocks on the diagonal of 1 + A, one column to a thread, and the zeros that
// join_inverses() reads.
__device__ inline void invert_diagonal(const SolverRows& matrix, SolverRows& inverse) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= kRows) return;
  const int start = thread / kTile * kTile;
  const int column = thread % kTile;
  float x[kTile];
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float sum = i == column ? 1.0F : 0.0F;
#pragma unroll
    for (int k = 0; k < i; ++k) sum = fmaf(-matrix[start + i][start + k], x[k], sum);
    x[i] = sum;
    inverse[start + i][thread] = sum;
    if (start % (2 * kTile) == 0) inverse[start + i][thread + kTile] = 0.0F;
  }
}

// to[0 .. kSize)[0 .. kSize) = sign left right, four columns to each of kSize^2 / 4 threads.
template <int kSize>
__device__ inline void multiply_squares(int thread, const float* left, const float* right, float sign, float* to) {
  const int row = thread / (kSize / 4);
  const int column = thread % (kSize / 4) * 4;
  float4 sum = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    const float a = left[row * kMatrixStride + k];
    const float4 b = *reinterpret_cast<const float4*>(right + k * kMatrixStride + column);
    sum = make_float4(fmaf(a, b.x, sum.x), fmaf(a, b.y, sum.y), fmaf(a, b.z, sum.z), fmaf(a, b.w, sum.w));
  }
  *reinterpret_cast<float4*>(to + row * kMatrixStride + column) =
      make_float4(sign * sum.x, sign * sum.y, sign * sum.z, sign * sum.w);
}

// Joins the inverses of neighbouring blocks: of (P 0; A Q) it is (P^-1 0; -Q^-1 A P^-1 Q^-1). A P^-1 waits where the
// matrix has nothing, beside P.
template <int kSize>
__device__ inline void join_inverses(SolverMemory& solver) {
  constexpr int kBlockThreads = kSize * kSize / 4;
  constexpr int kPairs = kRows / (2 * kSize);
  const int thread = static_cast<int>(threadIdx.x) % kBlockThreads;
  const int start = static_cast<int>(threadIdx.x) / kBlockThreads * 2 * kSize;
  const bool busy = start < kPairs * 2 * kSize;
  if (busy) {
    multiply_squares<kSize>(thread, &solver.matrix[start + kSize][start], &solver.inverse[start][start], 1.0F,
                            &solver.matrix[start][start + kSize]);
  }
  __syncthreads();
  if (busy) {
    multiply_squares<kSize>(thread, &solver.inverse[start + kSize][start + kSize], &solver.matrix[start][start + kSize],
                            -1.0F, &solver.inverse[start + kSize][start]);
  }
  __syncthreads();
}

// (1 + A)^-1 diag(beta), its fragments on and below the diagonal divided among the warps.
__device__ inline void write_solver(const Lane& at, const SolverMemory& solver, const ChunkGates& gates,
                                    float4* matrix) {
  for (int index = at.warp; index < kRowTiles * kRowSteps; index += kThreads / kWarp) {
    const int tile = index / kRowSteps;
    const int k = index % kRowSteps;
    if (k > 2 * tile + 1) continue;
    const int column = kStep * k + 2 * at.pair;
    const float* first = &solver.inverse[kTile * tile + at.row][column];
    const float* second = first + 8 * kMatrixStride;
    const float beta[2] = {gates.beta[column], gates.beta[column + 1]};
    matrix[index * kFragment + at.lane] =
        make_float4(first[0] * beta[0], second[0] * beta[0], first[1] * beta[1], second[1] * beta[1]);
  }
}

// One block for one chunk and one key head with its value heads. Warps 0 to 3 have 16 rows of keys each, the others
// queries.
__global__ void __launch_bounds__(kThreads, 2) prepare_chunks(ChunkWork work) {
  __shared__ __align__(16) PreparationMemory memory;
  const Lane at;
  const int key_head = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * kRows;
  const std::int64_t keys = work.key_heads * kHead;
  const std::int64_t stride = 2 * keys + work.value_heads * kHead;
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * work.key_heads + key_head;
  const bool query = at.warp >= kRowTiles;
  const int tile = query ? 2 * kRowTiles - 1 - at.warp : at.warp;  // so that all parts of the processor have as much
  const std::int64_t row = first + tile * kTile;
  const float* from = work.qkv + row * stride + (query ? 0 : keys) + key_head * kHead;
  const int valid = static_cast<int>(work.rows - row < kTile ? work.rows - row : kTile);
  float products[8][4] = {};
  {
    const VectorRows rows(at, from, stride, valid, query);
    rows.write(at, tile, (query ? work.queries : work.keys) + place * kKeyMatrix);
    if (!query) rows.write(at, tile, memory.keys);
    __syncthreads();
    write_turned_keys(at, memory.keys, work.keys_turned + place * kKeyMatrix);
    rows.multiply_keys(at, tile, memory.keys, products);
  }
  const std::int64_t group = work.value_heads / work.key_heads;
  for (std::int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    const std::int64_t head_place = static_cast<std::int64_t>(blockIdx.x) * work.value_heads + head;
    __syncthreads();
    if (at.warp == 0) {
      find_gates(work, first, static_cast<int>(head), memory.gates, work.decay + head_place * 2 * kRows);
    }
    __syncthreads();
    if (query) {
      write_pairs(at, tile, products, memory.gates, work.pairs + head_place * kPairMatrix);
    } else {
      write_matrix(at, tile, products, memory.gates, memory.solver);
    }
    __syncthreads();
    invert_diagonal(memory.solver.matrix, memory.solver.inverse);
    __syncthreads();
    join_inverses<kTile>(memory.solver);
    join_inverses<2 * kTile>(memory.solver);
    write_solver(at, memory.solver, memory.gates, work.solver + head_place * kPairMatrix);
  }
}

std::int64_t chunks_of(std::int64_t rows) { return (rows + kChunkRows - 1) / kChunkRows; }

}  // namespace

bool goes_in_chunks(const DeltaShape& shape, std::int64_t rows) {
  return rows >= kChunkRows && shape.key_dim == kHead && shape.value_dim == kHead;
}

std::int64_t chunk_work_bytes(const DeltaShape& shape, std::int64_t rows) {
  const std::int64_t key_bytes = std::int64_t{3} * kKeyMatrix * static_cast<std::int64_t>(sizeof(float4));
  const std::int64_t value_bytes = std::int64_t{2} * kPairMatrix * static_cast<std::int64_t>(sizeof(float4)) +
                                   std::int64_t{2} * kRows * static_cast<std::int64_t>(sizeof(float));
  return chunks_of(std::min(rows, kSlabRows)) * (shape.key_heads * key_bytes + shape.value_heads * value_bytes);
}

void place_chunk_work(std::byte* memory, std::int64_t rows, ChunkWork& work) {
  const std::int64_t chunks = chunks_of(std::min(rows, kSlabRows));
  work.keys = reinterpret_cast<float4*>(memory);
  work.keys_turned = work.keys + chunks * work.key_heads * kKeyMatrix;
  work.queries = work.keys_turned + chunks * work.key_heads * kKeyMatrix;
  work.solver = work.queries + chunks * work.key_heads * kKeyMatrix;
  work.pairs = work.solver + chunks * work.value_heads * kPairMatrix;
  work.decay = reinterpret_cast<float*>(work.pairs + chunks * work.value_heads * kPairMatrix);
}

ChunkStep preparation_of_chunks(const ChunkWork& work) {
  const auto chunks = static_cast<unsigned>(chunks_of(work.rows));
  return {{dim3(chunks, static_cast<unsigned>(work.key_heads)), kThreads, 0}, prepare_chunks};
}

}  // namespace lectern::engine::cuda
