// SPDX-License-Identifier: Apache-2.0
// The states of the gated delta rule from chunk to chunk, and the outputs.
#include "cuda/delta_chunks.h"
#include "cuda/delta_fragments.h"

namespace lectern::engine::cuda {
namespace {

using namespace delta;

constexpr int kColumns = 32;  // of the state for one block
constexpr int kSlices = kHead / kColumns;

// Rows of 32 numbers, so far apart that the rows and columns which the lanes read lie in different banks.
template <int kCount>
struct ColumnMemory {
  static constexpr int kStride = kColumns + 4;
  float row[kCount][kStride];

  // Columns 8 j + 2 pair and the next.
  __device__ void put(int at_row, int j, int pair, float a, float b) {
    *reinterpret_cast<float2*>(&row[at_row][8 * j + 2 * pair]) = make_float2(a, b);
  }

  // Rows 8 k .. 8 k + 7 of columns 8 j .. 8 j + 7.
  __device__ RightFragment get(const Lane& at, int k, int j) const {
    const float* from = &row[kStep * k + 2 * at.pair][8 * j + at.row];
    return RightFragment(from[0], from[kStride]);
  }
};

struct ScanMemory {
  ColumnMemory<kHead> state;
  ColumnMemory<kRows> targets;  // V - exp(G) K S
  ColumnMemory<kRows> changes;  // V'
  ColumnMemory<kRows> lasting;  // V' as far as it lasts to the end of the chunk
  float decay[2][2][kRows];     // of this chunk and the next
};

// d[j] += a b for columns 8 j .. 8 j + 7.
template <int kCount>
__device__ inline void multiply_columns(const Lane& at, const float4& numbers, int k, const ColumnMemory<kCount>& b,
                                        float (&d)[4][4]) {
  const LeftFragment a(numbers);
#pragma unroll
  for (int j = 0; j < 4; ++j) multiply(d[j], a, b.get(at, k, j));
}

// One warp of a block that carries 32 columns of one head's state through the chunks. Warps 0 to 3 have 32 rows of the
// state each, and multiply 16 rows of keys; warps 4 to 7 have 16 rows of queries each, and of the output. The
// fragments of the next product are on their way while one is computed.
struct ScanWarp {
  static constexpr int kHeld = kHeadSteps;

  const ChunkWork& work;
  ScanMemory& memory;
  Lane at;
  int head;
  int first_column;
  bool output;  // warps 4 to 7
  int tile;     // of rows of the chunk
  int later_count;
  float4 held[kHeld];  // rows of keys or queries, then of K^T or pairs
  float4 solver[kRowSteps];
  float state[2][4][4];

  __device__ ScanWarp(const ChunkWork& in, ScanMemory& shared)
      : work(in),
        memory(shared),
        head(static_cast<int>(blockIdx.x) / kSlices),
        first_column(static_cast<int>(blockIdx.x) % kSlices * kColumns),
        output(at.warp >= kRowTiles),
        tile(output ? 2 * kRowTiles - 1 - at.warp : at.warp),
        later_count(output ? 2 * (tile + 1) : kHeld) {}

  __device__ std::int64_t key_place(std::int64_t chunk) const {
    return (chunk * work.key_heads + head / (work.value_heads / work.key_heads)) * kKeyMatrix + at.lane;
  }
  __device__ std::int64_t pair_place(std::int64_t chunk) const {
    return (chunk * work.value_heads + head) * kPairMatrix + at.lane;
  }
  __device__ const float4* vectors(std::int64_t chunk) const {
    return (output ? work.queries : work.keys) + key_place(chunk) + tile * kHeadSteps * kFragment;
  }
  __device__ const float4* later(std::int64_t chunk) const {
    return output ? work.pairs + pair_place(chunk) + tile * kRowSteps * kFragment
                  : work.keys_turned + key_place(chunk) + 2 * tile * kRowSteps * kFragment;
  }
  __device__ void load_solver(std::int64_t chunk) {
    const float4* from = work.solver + pair_place(chunk) + tile * kRowSteps * kFragment;
#pragma unroll
    for (int i = 0; i < kRowSteps; ++i) {
      if (i <= 2 * tile + 1) solver[i] = from[i * kFragment];
    }
  }
  __device__ float decay(std::int64_t chunk, int kind, int row) const { return memory.decay[chunk % 2][kind][row]; }
  __device__ float* state_at(int half, int j, int i) const {
    const std::int64_t row = 2 * kTile * tile + kTile * half + at.row + i / 2 * 8;
    return work.state + (head * static_cast<std::int64_t>(kHead) + row) * kHead + first_column + 8 * j + 2 * at.pair;
  }

  __device__ void begin() {
    const float4* from = vectors(0);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = from[i * kFragment];
    load_solver(0);
    if (output) return;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      const float2 two = *reinterpret_cast<const float2*>(state_at(n / 8, n / 2 % 4, n % 2 * 2));
      state[n / 8][n / 2 % 4][n % 2 * 2] = two.x;
      state[n / 8][n / 2 % 4][n % 2 * 2 + 1] = two.y;
    }
    share_state();
  }

  __device__ void end() const {
    if (output) return;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      const float* two = &state[n / 8][n / 2 % 4][n % 2 * 2];
      *reinterpret_cast<float2*>(state_at(n / 8, n / 2 % 4, n % 2 * 2)) = make_float2(two[0], two[1]);
    }
  }

  __device__ void share_state() {
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      const float* two = &state[n / 8][n / 2 % 4][n % 2 * 2];
      memory.state.put(2 * kTile * tile + n / 8 * kTile + at.row + n % 2 * 8, n / 2 % 4, at.pair, two[0], two[1]);
    }
  }

  // K S or Q S.
  __device__ void multiply_state(std::int64_t chunk, float (&products)[4][4]) {
    const float4* next = later(chunk);
#pragma unroll
    for (int k = 0; k < kHeadSteps; ++k) {
      multiply_columns(at, held[k], k, memory.state, products);
      if (k < later_count) held[k] = next[k * kFragment];
    }
  }

  // Starts copying the decay, and V to where share_targets() takes it.
  __device__ void fetch_numbers(std::int64_t chunk) {
    constexpr int kPieces = kColumns / 4;
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t stride = (2 * work.key_heads + work.value_heads) * kHead;
    for (int i = thread; i < kRows * kPieces; i += kThreads) {
      const std::int64_t row = chunk * kRows + i / kPieces;
      const int column = i % kPieces * 4;
      const float* from = work.qkv + row * stride + (2 * work.key_heads + head) * kHead + first_column + column;
      copy_async(&memory.targets.row[i / kPieces][column], from, row < work.rows);
    }
    if (thread < 2 * kRows / 4) {
      const float* from = work.decay + (chunk * work.value_heads + head) * 2 * kRows;
      copy_async(&memory.decay[chunk % 2][0][0] + 4 * thread, from + 4 * thread);
    }
    commit_copies();
  }

  // What the rows want to be changed if none of the chunk changed anything: V - exp(G) K S.
  __device__ void share_targets(std::int64_t chunk, const float (&products)[4][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile * kTile + at.row + 8 * half;
      const float kept = -decay(chunk, 0, row);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float2& two = *reinterpret_cast<float2*>(&memory.targets.row[row][8 * j + 2 * at.pair]);
        two = make_float2(fmaf(kept, products[j][2 * half], two.x), fmaf(kept, products[j][2 * half + 1], two.y));
      }
    }
  }

  // V', 16 rows and 16 columns to a warp. Three sums side by side, since so few products would wait for one another.
  __device__ void solve(std::int64_t chunk, bool more) {
    const int j0 = output ? 2 : 0;
    float changes[2][4] = {};
    float corrections[2][2][4] = {};
#pragma unroll
    for (int k = 0; k < kRowSteps; ++k) {
      if (k > 2 * tile + 1) continue;
      const LeftFragment a(solver[k]);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const RightFragment b = memory.targets.get(at, k, j0 + j);
        mma_tf32(changes[j], a.upper, b.upper);
        mma_tf32(corrections[0][j], a.upper, b.lower);
        mma_tf32(corrections[1][j], a.lower, b.upper);
      }
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) changes[n / 4][n % 4] += corrections[0][n / 4][n % 4] + corrections[1][n / 4][n % 4];
    if (more) load_solver(chunk + 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile * kTile + at.row + 8 * half;
      const float lasts = decay(chunk, 1, row);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float* two = &changes[j][2 * half];
        memory.changes.put(row, j0 + j, at.pair, two[0], two[1]);
        memory.lasting.put(row, j0 + j, at.pair, lasts * two[0], lasts * two[1]);
      }
    }
  }

  // O = exp(G) Q S + P V'
  __device__ void give_output(std::int64_t chunk, bool more, float (&products)[4][4]) {
    const float4* next = vectors(chunk + 1);
#pragma unroll
    for (int n = 0; n < 16; ++n) products[n / 4][n % 4] *= decay(chunk, 0, tile * kTile + at.row + n / 2 % 2 * 8);
#pragma unroll
    for (int k = 0; k < kRowSteps; ++k) {
      if (k <= 2 * tile + 1) multiply_columns(at, held[k], k, memory.changes, products);
      if (more) load_vectors(next, k);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = chunk * kRows + tile * kTile + at.row + 8 * half;
      if (row >= work.rows) continue;
      float* to = work.o + (row * work.value_heads + head) * kHead + first_column + 2 * at.pair;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        *reinterpret_cast<float2*>(to + 8 * j) = make_float2(products[j][2 * half], products[j][2 * half + 1]);
      }
    }
  }

  // S = exp(G_63) S + K^T V', V' as far as it lasts
  __device__ void carry(std::int64_t chunk, bool more) {
    const float4* next = vectors(chunk + 1);
    const float kept = decay(chunk, 0, kRows - 1);
#pragma unroll
    for (int n = 0; n < 32; ++n) state[n / 16][n / 4 % 4][n % 4] *= kept;
#pragma unroll
    for (int k = 0; k < kRowSteps; ++k) {
      const LeftFragment above(held[k]);
      const LeftFragment below(held[kRowSteps + k]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const RightFragment b = memory.lasting.get(at, k, j);
        multiply(state[0][j], above, b);
        multiply(state[1][j], below, b);
      }
      if (more) load_vectors(next, k);
    }
  }

  // Two fragments of the next rows of keys or queries, once what they replace has been used.
  __device__ void load_vectors(const float4* next, int k) {
    held[k] = next[k * kFragment];
    held[kRowSteps + k] = next[(kRowSteps + k) * kFragment];
  }
};

__global__ void __launch_bounds__(kThreads, 1) scan_chunks(ChunkWork work) {
  __shared__ __align__(16) ScanMemory memory;
  ScanWarp warp(work, memory);
  warp.fetch_numbers(0);
  warp.begin();
  const std::int64_t chunks = (work.rows + kRows - 1) / kRows;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const bool more = chunk + 1 < chunks;
    wait_for_copies<0>();
    __syncthreads();
    float products[4][4] = {};
    warp.multiply_state(chunk, products);
    if (!warp.output) warp.share_targets(chunk, products);
    __syncthreads();
    warp.solve(chunk, more);
    __syncthreads();
    if (more) warp.fetch_numbers(chunk + 1);
    if (warp.output) {
      warp.give_output(chunk, more, products);
    } else {
      warp.carry(chunk, more);
      warp.share_state();
    }
  }
  warp.end();
}

}  // namespace

ChunkStep scan_of_chunks(const ChunkWork& work) {
  return {{static_cast<unsigned>(work.value_heads) * kSlices, kThreads, 0}, scan_chunks};
}

}  // namespace lectern::engine::cuda
