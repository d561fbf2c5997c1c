// SPDX-License-Identifier: Apache-2.0
// The gated delta rule (Yang et al. 2024, "Gated Delta Networks"): row by row here, in chunks where there are many.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cuda/cuda_backend.h"
#include "cuda/delta_chunks.h"
#include "cuda/delta_gates.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

bool is_aligned(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory) % 16 == 0; }

// How the lanes of a warp share columns of one head's state: each holds kRows rows of kColumns columns in registers,
// kAcross lanes stand side by side, and the others below them.
template <int kAcrossLanes, int kLaneColumns, int kLaneRows, int kSlabRows>
struct Layout {
  static constexpr int kAcross = kAcrossLanes;
  static constexpr int kColumns = kLaneColumns;
  static constexpr int kRows = kLaneRows;
  static constexpr int kGroups = kWarp / kAcross;    // of lanes below one another
  static constexpr int kMostKeys = kGroups * kRows;  // key_dim that fits
  static constexpr int kWidth = kAcross * kColumns;  // columns of a warp
  static constexpr int kSlab = kSlabRows;            // rows of the input that are prepared together
};
using NarrowLayout = Layout<2, 4, 8, 8>;    // key_dim <= 128
using WideLayout = Layout<2, 1, 16, 8>;     // key_dim <= 256
using WidestLayout = Layout<1, 1, 128, 1>;  // key_dim <= 4,096, the largest of any model

constexpr int kWarps = 4;  // of a block: neighbouring columns of one head

struct Heads {
  int key_heads;
  int value_heads;
  int key_dim;
  int value_dim;
  std::int64_t wide;  // not 0: four columns of the state can be read at once
};

Heads heads_of(const DeltaShape& shape, const float* state) {
  return {static_cast<int>(shape.key_heads), static_cast<int>(shape.value_heads), static_cast<int>(shape.key_dim),
          static_cast<int>(shape.value_dim), shape.value_dim % 4 == 0 && is_aligned(state) ? 1 : 0};
}

// The part of a head's state that one lane holds. Rows and columns beyond the state are 0 and stay so.
template <class L>
struct StatePart {
  float numbers[L::kRows][L::kColumns];
  int first_row;
  int first_column;
  bool wide;  // its columns can be read at once

  // `column`: the first of the warp.
  __device__ StatePart(const Heads& heads, const float* state, int column) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    first_row = lane / L::kAcross * L::kRows;
    first_column = column + lane % L::kAcross * L::kColumns;
    wide = heads.wide != 0 && first_column < heads.value_dim;
#pragma unroll
    for (int r = 0; r < L::kRows; ++r) {
      const bool inside = first_row + r < heads.key_dim;
      const float* from = state + static_cast<std::int64_t>(first_row + r) * heads.value_dim + first_column;
      if constexpr (L::kColumns == 4) {
        if (wide) {
          const float4 quad = inside ? *reinterpret_cast<const float4*>(from) : make_float4(0.0F, 0.0F, 0.0F, 0.0F);
          numbers[r][0] = quad.x;
          numbers[r][1] = quad.y;
          numbers[r][2] = quad.z;
          numbers[r][3] = quad.w;
          continue;
        }
      }
#pragma unroll
      for (int c = 0; c < L::kColumns; ++c) {
        numbers[r][c] = inside && first_column + c < heads.value_dim ? from[c] : 0.0F;
      }
    }
  }

  __device__ void store(const Heads& heads, float* state) const {
#pragma unroll
    for (int r = 0; r < L::kRows; ++r) {
      if (first_row + r >= heads.key_dim) continue;
      float* to = state + static_cast<std::int64_t>(first_row + r) * heads.value_dim + first_column;
      if constexpr (L::kColumns == 4) {
        if (wide) {
          *reinterpret_cast<float4*>(to) = make_float4(numbers[r][0], numbers[r][1], numbers[r][2], numbers[r][3]);
          continue;
        }
      }
#pragma unroll
      for (int c = 0; c < L::kColumns; ++c) {
        if (first_column + c < heads.value_dim) to[c] = numbers[r][c];
      }
    }
  }

  // S = keep S + k change^T. Everything that changes a state goes through here, so that equal changes give equal bits.
  __device__ void change(float keep, const float* k, const float (&changes)[L::kColumns]) {
#pragma unroll
    for (int r = 0; r < L::kRows; ++r) {
      const float key = k[first_row + r];
#pragma unroll
      for (int c = 0; c < L::kColumns; ++c) numbers[r][c] = fmaf(key, changes[c], keep * numbers[r][c]);
    }
  }
};

// The lane of the lower half that ends up with column `c` of the lanes beside it, see sum_over_keys().
template <class L>
__device__ int lane_of_column(int c) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (L::kColumns == 4) return lane % L::kAcross | (c >> 1) << 3 | (c & 1) << 2;
  return lane % L::kAcross;
}

template <class L>
__device__ int column_of_lane() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return L::kColumns == 4 ? (lane >> 3 & 1) << 1 | (lane >> 2 & 1) : 0;
}

// One of S^T k (lanes below 16) and S^T q (the others) for one column of the lane's. At each step a lane gives away
// half of its sums and gets the other lane's for the half it keeps.
template <class L>
__device__ float sum_over_keys(const StatePart<L>& part, const float* k, const float* q) {
  static_assert(L::kColumns == 1 || (L::kColumns == 4 && L::kAcross == 2));
  float sums[2][L::kColumns] = {};
#pragma unroll
  for (int r = 0; r < L::kRows; ++r) {
    const float key = k[part.first_row + r];
    const float query = q[part.first_row + r];
#pragma unroll
    for (int c = 0; c < L::kColumns; ++c) {
      sums[0][c] = fmaf(key, part.numbers[r][c], sums[0][c]);
      sums[1][c] = fmaf(query, part.numbers[r][c], sums[1][c]);
    }
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float kept[L::kColumns];
#pragma unroll
  for (int c = 0; c < L::kColumns; ++c) {
    const float given = (lane & 16) != 0 ? sums[0][c] : sums[1][c];
    kept[c] = ((lane & 16) != 0 ? sums[1][c] : sums[0][c]) + __shfl_xor_sync(kAllLanes, given, 16);
  }
  int mask = 8;
  if constexpr (L::kColumns == 4) {
#pragma unroll
    for (int half = 2; half > 0; half /= 2, mask /= 2) {
#pragma unroll
      for (int c = 0; c < half; ++c) {
        const float given = (lane & mask) != 0 ? kept[c] : kept[c + half];
        kept[c] = ((lane & mask) != 0 ? kept[c + half] : kept[c]) + __shfl_xor_sync(kAllLanes, given, mask);
      }
    }
  }
  float sum = kept[0];
  for (; mask >= L::kAcross; mask /= 2) sum += __shfl_xor_sync(kAllLanes, sum, mask);
  return sum;
}

// Rows that are prepared together, in shared memory.
template <class L>
struct Slab {
  float key[L::kSlab][L::kMostKeys];    // of length 1, then zeros
  float query[L::kSlab][L::kMostKeys];  // of length 1 / sqrt(key_dim), then zeros
  float value[L::kSlab][kWarps * L::kWidth];
  float query_key[L::kSlab];
  float keep[L::kSlab];
  float beta[L::kSlab];
};

struct DeltaInput {
  const float* qkv;
  const float* ba;
  DeltaGates gates;
  Heads heads;
};
// Calls with equal bytes are taken for the same by PassGraphs.
static_assert(std::has_unique_object_representations_v<DeltaInput>);

// One warp for one row. `head`: a value head; `column`: the block's first.
template <class L>
__device__ void prepare_row(const DeltaInput& in, std::int64_t row, int head, int column, int index, Slab<L>& slab) {
  const Heads& heads = in.heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int keys = heads.key_heads * heads.key_dim;
  const std::int64_t width = 2 * static_cast<std::int64_t>(keys) + heads.value_heads * heads.value_dim;
  const float* q = in.qkv + row * width + head / (heads.value_heads / heads.key_heads) * heads.key_dim;
  const float* k = q + keys;
  const float* v = in.qkv + row * width + 2 * keys + head * heads.value_dim + column;
  const float* ba = in.ba + row * 2 * heads.value_heads + head;
  const float beta = sigmoid(ba[0]);
  const float keep = expf(log_decay(ba[heads.value_heads], in.gates, head));
  float qq = 0.0F;
  float kk = 0.0F;
  float qk = 0.0F;
  for (int i = lane; i < L::kMostKeys; i += kWarp) {
    const float a = i < heads.key_dim ? q[i] : 0.0F;
    const float b = i < heads.key_dim ? k[i] : 0.0F;
    slab.query[index][i] = a;
    slab.key[index][i] = b;
    qq = fmaf(a, a, qq);
    kk = fmaf(b, b, kk);
    qk = fmaf(a, b, qk);
  }
  for (int i = lane; i < kWarps * L::kWidth; i += kWarp) {
    slab.value[index][i] = column + i < heads.value_dim ? v[i] : 0.0F;
  }
  const float query_factor = query_scale(warp_sum(qq), heads.key_dim);
  const float key_factor = key_scale(warp_sum(kk));
  qk = warp_sum(qk);
  for (int i = lane; i < L::kMostKeys; i += kWarp) {
    slab.query[index][i] *= query_factor;
    slab.key[index][i] *= key_factor;
  }
  if (lane != 0) return;
  slab.query_key[index] = qk * query_factor * key_factor;
  slab.beta[index] = beta;
  slab.keep[index] = keep;
}

// Writes the part of a change that depends on no column: [k | ... | keep].
template <class L>
__device__ void record_key(const Slab<L>& slab, int index, const Heads& heads, float* record) {
  for (int i = static_cast<int>(threadIdx.x); i < heads.key_dim; i += kWarps * kWarp) record[i] = slab.key[index][i];
  if (threadIdx.x == 0) record[heads.key_dim + heads.value_dim] = slab.keep[index];
}

// One prepared row for the columns of a warp: the changes of the lane's columns and, in lanes from 16 on, the output of
// the column for which the lane stands. S = exp(g) S; S += k (beta (v - S^T k))^T; o = S^T q, with S read once:
// o = exp(g) S^T q + (q . k) change, where S is the state before.
template <class L>
__device__ void step(const Slab<L>& slab, int index, int column_in_block, StatePart<L>& part,
                     float (&changes)[L::kColumns], float& output) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float keep = slab.keep[index];
  const float seen = sum_over_keys(part, slab.key[index], slab.query[index]);
  const float difference = fmaf(-keep, seen, slab.value[index][column_in_block]);
  const float change = slab.beta[index] * difference;  // in the lanes below 16, which hold S^T k
  const float own = __shfl_sync(kAllLanes, change, lane & 15);
  output = fmaf(slab.query_key[index], own, keep * seen);
#pragma unroll
  for (int c = 0; c < L::kColumns; ++c) changes[c] = __shfl_sync(kAllLanes, change, lane_of_column<L>(c));
  part.change(keep, slab.key[index], changes);
}

// Any number of rows, one after another. Blocks: columns, heads. With kTentative the state stays as it is and the
// changes are written down.
template <class L, bool kTentative>
__global__ void __launch_bounds__(kWarps* kWarp, 1)
    recur(DeltaInput in, std::int64_t rows, const float* before, float* after, float* changes, float* o) {
  __shared__ Slab<L> slab;
  const Heads& heads = in.heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int head = static_cast<int>(blockIdx.y);
  const int block_column = static_cast<int>(blockIdx.x) * kWarps * L::kWidth;
  const std::int64_t record_size = heads.key_dim + heads.value_dim + 1;
  const std::int64_t head_place = static_cast<std::int64_t>(head) * heads.key_dim * heads.value_dim;
  StatePart<L> part(heads, before + head_place, block_column + warp * L::kWidth);
  // After the sums a lane stands for one column, of S^T q in the upper half of the warp; of equal ones the first
  // writes.
  const int own = part.first_column - block_column + column_of_lane<L>();
  const bool speaks = lane_of_column<L>(column_of_lane<L>()) == (lane & 15) && block_column + own < heads.value_dim;
  for (std::int64_t first = 0; first < rows; first += L::kSlab) {
    const int count = static_cast<int>(rows - first < L::kSlab ? rows - first : L::kSlab);
    for (int i = warp; i < count; i += kWarps) prepare_row(in, first + i, head, block_column, i, slab);
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      float lane_changes[L::kColumns];
      float output = 0.0F;
      step(slab, i, own, part, lane_changes, output);
      const std::int64_t place = (first + i) * heads.value_heads + head;
      if (speaks && lane >= 16) o[place * heads.value_dim + block_column + own] = output;
      if constexpr (kTentative) {
        float* record = changes + place * record_size;
        if (blockIdx.x == 0) record_key(slab, i, heads, record);
#pragma unroll
        for (int c = 0; c < L::kColumns; ++c) {
          const bool writes = lane < L::kAcross && part.first_column + c < heads.value_dim;
          if (writes) record[heads.key_dim + part.first_column + c] = lane_changes[c];
        }
      }
    }
    __syncthreads();
  }
  if constexpr (!kTentative) part.store(heads, after + head_place);
}

// Blocks as of recur().
template <class L>
__global__ void __launch_bounds__(kWarps* kWarp, 1)
    apply_records(const float* changes, int rows, Heads heads, float* state) {
  __shared__ float keys[L::kMostKeys];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int head = static_cast<int>(blockIdx.y);
  float* head_state = state + static_cast<std::int64_t>(head) * heads.key_dim * heads.value_dim;
  StatePart<L> part(heads, head_state, (static_cast<int>(blockIdx.x) * kWarps + warp) * L::kWidth);
  for (int t = 0; t < rows; ++t) {
    const std::int64_t place = static_cast<std::int64_t>(t) * heads.value_heads + head;
    const float* record = changes + place * (heads.key_dim + heads.value_dim + 1);
    for (int i = static_cast<int>(threadIdx.x); i < L::kMostKeys; i += kWarps * kWarp) {
      keys[i] = i < heads.key_dim ? record[i] : 0.0F;
    }
    float lane_changes[L::kColumns];
#pragma unroll
    for (int c = 0; c < L::kColumns; ++c) {
      const int column = part.first_column + c;
      lane_changes[c] = column < heads.value_dim ? record[heads.key_dim + column] : 0.0F;
    }
    __syncthreads();
    part.change(record[heads.key_dim + heads.value_dim], keys, lane_changes);
    __syncthreads();
  }
  part.store(heads, head_state);
}

// Calls f with the layout for `key_dim`.
template <class F>
void with_layout(std::int64_t key_dim, const F& f) {
  if (key_dim <= NarrowLayout::kMostKeys) return f(NarrowLayout());
  if (key_dim <= WideLayout::kMostKeys) return f(WideLayout());
  f(WidestLayout());
}

template <class L>
Grid grid_of(const DeltaShape& shape) {
  return {dim3(blocks_for(shape.value_dim, kWarps * L::kWidth), static_cast<unsigned>(shape.value_heads)),
          kWarps * kWarp, 0};
}

}  // namespace

void CudaBackend::delta_rule(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape,
                             float* state, const Tensor& o) {
  const bool aligned = is_aligned(qkv.data) && is_aligned(state) && is_aligned(o.data);
  if (aligned && goes_in_chunks(shape, qkv.rows)) {
    Workspace workspace(*this);
    ChunkWork work = {};
    work.gates = gates;
    work.key_heads = shape.key_heads;
    work.value_heads = shape.value_heads;
    work.state = state;
    place_chunk_work(workspace.take<std::byte>(chunk_work_bytes(shape, qkv.rows)), qkv.rows, work);
    for (std::int64_t first = 0; first < qkv.rows; first += kSlabRows) {
      work.qkv = qkv.row(first);
      work.ba = ba.row(first);
      work.o = o.row(first);
      work.rows = std::min(kSlabRows, qkv.rows - first);
      for (const ChunkStep& step : {preparation_of_chunks(work), scan_of_chunks(work)}) {
        run(step.grid, step.kernel, work);
      }
    }
    return;
  }
  const DeltaInput in = {qkv.data, ba.data, gates, heads_of(shape, state)};
  with_layout(shape.key_dim, [&]<class L>(L) {
    run(grid_of<L>(shape), recur<L, false>, in, qkv.rows, state, state, nullptr, o.data);
  });
}

void CudaBackend::delta_rule_tentative(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates,
                                       const DeltaShape& shape, const float* state, float* changes, const Tensor& o) {
  const DeltaInput in = {qkv.data, ba.data, gates, heads_of(shape, state)};
  with_layout(shape.key_dim, [&]<class L>(L) {
    run(grid_of<L>(shape), recur<L, true>, in, qkv.rows, state, nullptr, changes, o.data);
  });
}

void CudaBackend::apply_changes(const float* changes, std::int64_t rows, const DeltaShape& shape, float* state) {
  if (rows == 0) return;
  with_layout(shape.key_dim, [&]<class L>(L) {
    run(grid_of<L>(shape), apply_records<L>, changes, static_cast<int>(rows), heads_of(shape, state), state);
  });
}

}  // namespace lectern::engine::cuda
