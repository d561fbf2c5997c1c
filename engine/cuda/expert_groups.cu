// SPDX-License-Identifier: Apache-2.0
#include "cuda/expert_groups.h"

#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

constexpr int kWarps = kExpertThreads / kWarp;
constexpr int kAhead = 4;        // units of weights that a lane of group_sums() has under way
constexpr int kHeldGroups = 64;  // that a block of it knows at a time

static_assert(kWarps == kGroupRows, "one warp for the results of each row");

// --- units: a group of codes or a chunk of numbers
// --------------------------------------------------------------------

struct NumberRow {
  const std::uint8_t* numbers;
  const float* scales;  // of F8
};
struct RawChunk {
  std::uint32_t words[4];
  float scale;
};
struct OpenGroup {
  GroupCodes codes;
  GroupFactors factors;
};
template <DType Type>
struct OpenChunk {
  float values[kChunk<Type>];
  float scale;
};

template <DType Type>
using MatrixRow = std::conditional_t<kIsCoded<Type>, StoredRow, NumberRow>;
template <DType Type>
using RawUnit = std::conditional_t<kIsCoded<Type>, RawGroup<Type>, RawChunk>;
template <DType Type>
using OpenUnit = std::conditional_t<kIsCoded<Type>, OpenGroup, OpenChunk<Type>>;

template <DType Type>
__device__ inline MatrixRow<Type> matrix_row(const DeviceMatrix& w, std::int64_t row) {
  if constexpr (kIsCoded<Type>) {
    return stored_row<Type>(w, row);
  } else {
    const std::int64_t across = (w.cols + 127) / 128;
    return {w.codes + row * w.row_bytes, reinterpret_cast<const float*>(w.scales) + row / 128 * across};
  }
}

template <DType Type>
__device__ inline RawUnit<Type> load_unit(const MatrixRow<Type>& row, int unit) {
  if constexpr (kIsCoded<Type>) {
    return load_group<Type>(row, unit);
  } else {
    RawChunk raw;
    load_16_bytes(row.numbers + 16LL * unit, raw.words);
    raw.scale = Type == DType::kF8E4M3 ? 256.0F * row.scales[unit * kChunk<Type> / 128] : 1.0F;
    return raw;
  }
}

template <DType Type>
__device__ inline OpenUnit<Type> open_unit(const RawUnit<Type>& raw, int unit) {
  if constexpr (kIsCoded<Type>) {
    return {expand_codes<Type>(raw), expand_factors<Type>(raw, unit)};
  } else {
    OpenChunk<Type> open;
    expand_chunk<Type>(raw.words, open.values);
    open.scale = raw.scale;
    return open;
  }
}

// sum + the unit's product with a row
template <DType Type>
__device__ inline float add_unit(const OpenUnit<Type>& open, const Activations<Type>& x, std::int64_t row, int unit,
                                 float sum) {
  if constexpr (kIsCoded<Type>) {
    return add_group<Type>(open.codes, open.factors, activation_group(x, row, unit), sum);
  } else {
    return add_chunk<Type>(open.values, open.scale, x, row, std::int64_t{unit} * kChunk<Type>, sum);
  }
}

template <DType Type>
__device__ inline Activations<Type> inner_rows(const PairRows& rows, bool shared) {
  if constexpr (kIsCoded<Type>) {
    return shared ? rows.coded_shared : rows.coded;
  } else {
    return shared ? rows.floats_shared : rows.floats;
  }
}

// --- one step
// ---------------------------------------------------------------------------------------------------------

// What a block works on.
struct Work {
  std::int32_t expert;
  std::int32_t first_row;  // of the matrix
  std::int32_t count;      // of pairs
  std::int32_t pairs[kGroupRows];
  std::int32_t x_rows[kGroupRows];  // of the activations; behind the last pair its row again
};

__device__ void find_work(const GroupProduct& job, Work& work) {
  if (threadIdx.x != 0) return;
  work.first_row = job.first_row + static_cast<std::int32_t>(blockIdx.x) * kSliceRows;
  if (job.groups == nullptr) {
    const ExpertTile tile = job.tiles[blockIdx.y];
    work.expert = tile.expert;
    work.count = tile.rows;
    for (int i = 0; i < tile.rows; ++i) work.pairs[i] = job.sorted[tile.first + i];
  } else {
    const ExpertGroup& group = job.groups[blockIdx.y];
    work.expert = group.expert;
    work.count = 0;
    for (int t = 0; t < kGroupRows; ++t) {
      if ((group.rows >> t & 1U) != 0) work.pairs[work.count++] = group.pairs[t];
    }
  }
  const bool shared = work.pairs[0] >= job.pairs;
  for (int i = 0; i < kGroupRows; ++i) {
    const std::int32_t pair = work.pairs[min(i, work.count - 1)];
    const std::int32_t routed = job.step == ExpertStep::kDown ? pair : pair / job.chosen;
    work.x_rows[i] = shared ? pair - job.pairs : routed;
  }
}

// sums[r][t] = the warp's product of weight row r with row x_rows[t] of x. The next units are on their way while these
// are multiplied.
template <DType Type, int WeightRows, int Rows>
__device__ inline void multiply_units(const MatrixRow<Type> (&rows)[WeightRows], int units, const Activations<Type>& x,
                                      const std::int32_t* x_rows, float (&sums)[WeightRows][Rows]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  RawUnit<Type> raw[WeightRows] = {};
#pragma unroll
  for (int r = 0; r < WeightRows; ++r) {
    if (lane < units) raw[r] = load_unit<Type>(rows[r], lane);
#pragma unroll
    for (int t = 0; t < Rows; ++t) sums[r][t] = 0;
  }
#pragma unroll 1
  for (int unit = lane; unit < units; unit += kWarp) {
#pragma unroll
    for (int r = 0; r < WeightRows; ++r) {
      const OpenUnit<Type> open = open_unit<Type>(raw[r], unit);
      if (unit + kWarp < units) raw[r] = load_unit<Type>(rows[r], unit + kWarp);
#pragma unroll
      for (int t = 0; t < Rows; ++t) sums[r][t] = add_unit<Type>(open, x, x_rows[t], unit, sums[r][t]);
    }
  }
#pragma unroll
  for (int r = 0; r < WeightRows; ++r) {
#pragma unroll
    for (int t = 0; t < Rows; ++t) sums[r][t] = warp_sum(sums[r][t]);
  }
}

using Results = float[kGroupRows][kSliceRows];

// The rows of one or two matrices of equal shape that belong to the block, for the first `Rows` pairs of its work.
template <DType Type, int Matrices, int Rows>
__device__ inline void multiply_slice(const DeviceMatrix (&matrices)[Matrices], std::int32_t first_row,
                                      const Activations<Type>& x, const std::int32_t* x_rows, int first_pair,
                                      Results (&results)[Matrices]) {
  constexpr int kOwnRows = kSliceRows / kWarps;
  constexpr int kAtOnce = Rows == 1 ? 2 : 1;  // rows of each matrix
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first = static_cast<int>(threadIdx.x) / kWarp * kOwnRows;
#pragma unroll 1
  for (int own = first; own < first + kOwnRows; own += kAtOnce) {
    MatrixRow<Type> rows[kAtOnce * Matrices];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t row = min(first_row + own + i, static_cast<int>(matrices[0].rows) - 1);
#pragma unroll
      for (int m = 0; m < Matrices; ++m) rows[i * Matrices + m] = matrix_row<Type>(matrices[m], row);
    }
    float sums[kAtOnce * Matrices][Rows];
    multiply_units<Type, kAtOnce * Matrices, Rows>(rows, units_of<Type>(matrices[0].cols), x, x_rows + first_pair,
                                                   sums);
    if (lane != 0) continue;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int m = 0; m < Matrices; ++m) {
#pragma unroll
        for (int t = 0; t < Rows; ++t) results[m][first_pair + t][own + i] = sums[i * Matrices + m][t];
      }
    }
  }
}

// Puts the block's part of the inner rows where the next product reads it.
__device__ void put_inner(const GroupProduct& job, const Work& work, bool coded, std::int32_t rows, Results& inner) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const bool shared = work.pairs[0] >= job.pairs;
  const std::int64_t first = shared ? job.pairs : 0;
  if (!coded) {
    const int row = work.first_row + lane;
    if (warp >= work.count || row >= rows) return;
    const FloatRows& to = shared ? job.inner.floats_shared : job.inner.floats;
    const_cast<float*>(to.data)[(work.pairs[warp] - first) * to.stride + row] = inner[warp][lane];
    return;
  }
  __syncthreads();
  if (warp != 0) return;
  // Four lanes for each pair's group.
  const int own = min(lane / 4, work.count - 1);
  const CodedRows& to = shared ? job.inner.coded_shared : job.inner.coded;
  float values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = inner[own][lane % 4 * 8 + i];
  code_group(values, (work.pairs[own] - first) * to.groups + work.first_row / kGroup, lane / 4 < work.count, to);
}

__device__ void put_products(const GroupProduct& job, const Work& work, std::int32_t rows, const Results& products) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int row = work.first_row + lane;
  if (warp >= work.count || row >= rows) return;
  job.products[work.pairs[warp] * job.product_width + (row - job.first_row)] = products[warp][lane];
}

// More than four rows of an expert, which only the shared one often has, take its weights from the cache again.
template <DType Type, int Matrices>
__device__ inline void multiply_work(const GroupProduct& job, const Work& work,
                                     const DeviceMatrix (&matrices)[Matrices], Results (&results)[Matrices]) {
  Activations<Type> x;
  if (job.step == ExpertStep::kDown) {
    x = inner_rows<Type>(job.inner, work.pairs[0] >= job.pairs);
  } else if constexpr (kIsCoded<Type>) {
    x = job.coded_x;
  } else {
    x = job.x;
  }
  if (work.count == 1) {
    multiply_slice<Type, Matrices, 1>(matrices, work.first_row, x, work.x_rows, 0, results);
  } else if (work.count == 2) {
    multiply_slice<Type, Matrices, 2>(matrices, work.first_row, x, work.x_rows, 0, results);
  } else {
#pragma unroll 1
    for (int pair = 0; pair < work.count; pair += 4) {
      multiply_slice<Type, Matrices, 4>(matrices, work.first_row, x, work.x_rows, pair, results);
    }
  }
}

template <DType Type>
__global__ void __launch_bounds__(kExpertThreads, 2) multiply_gate_and_up(GroupProduct job) {
  __shared__ Work work;
  __shared__ Results results[2];
  if (static_cast<std::int32_t>(blockIdx.y) >= *job.count) return;
  find_work(job, work);
  __syncthreads();
  const PlacedExpert& expert = job.experts[work.expert];
  if (static_cast<DType>(expert.gate.type) != Type || static_cast<DType>(expert.up.type) != Type) return;
  const DeviceMatrix matrices[2] = {expert.gate.matrix, expert.up.matrix};
  const std::int32_t rows = matrices[0].rows;
  if (work.first_row >= rows) return;
  multiply_work<Type, 2>(job, work, matrices, results);
  __syncthreads();
  float& own = results[0][threadIdx.x / kWarp][threadIdx.x % kWarp];
  own = silu(own) * results[1][threadIdx.x / kWarp][threadIdx.x % kWarp];
  put_inner(job, work, expert.down.coded != 0, rows, results[0]);
}

template <DType Type>
__global__ void __launch_bounds__(kExpertThreads, 2) multiply_one(GroupProduct job) {
  __shared__ Work work;
  __shared__ Results results[1];
  if (static_cast<std::int32_t>(blockIdx.y) >= *job.count) return;
  find_work(job, work);
  __syncthreads();
  const PlacedExpert& expert = job.experts[work.expert];
  const PlacedMatrix& placed = job.step == ExpertStep::kGate ? expert.gate
                               : job.step == ExpertStep::kUp ? expert.up
                                                             : expert.down;
  if (static_cast<DType>(placed.type) != Type) return;
  const DeviceMatrix matrices[1] = {placed.matrix};
  const std::int32_t rows = matrices[0].rows;
  if (work.first_row >= rows) return;
  multiply_work<Type, 1>(job, work, matrices, results);
  __syncthreads();
  if (job.step != ExpertStep::kUp) {
    put_products(job, work, rows, results[0]);
    return;
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int32_t row = work.first_row + lane;
  if (warp < work.count && row < rows) {
    results[0][warp][lane] *= silu(job.products[work.pairs[warp] * job.product_width + row]);
  }
  put_inner(job, work, expert.down.coded != 0, rows, results[0]);
}

// --- weighted sums
// ----------------------------------------------------------------------------------------------------

// What a block knows of a group.
struct HeldGroup {
  DeviceMatrix down;
  std::uint32_t rows;  // none where the type is another
  std::int32_t pairs[kGroupRows];
  float weights[kGroupRows];
};

__device__ void hold_group(const GroupSum& job, std::int32_t index, DType type, HeldGroup& held) {
  const ExpertGroup& group = job.groups[index];
  const PlacedMatrix& down = job.experts[group.expert].down;
  held.down = down.matrix;
  held.rows = static_cast<DType>(down.type) == type ? group.rows : 0;
  for (int t = 0; t < kGroupRows; ++t) {
    const bool chosen = (held.rows >> t & 1U) != 0;
    held.pairs[t] = chosen ? group.pairs[t] : 0;
    held.weights[t] = chosen ? job.weights[group.pairs[t]] : 0;
  }
}

// sums[t] += weight * (the unit's product with the inner row of row t's pair); `first` is the first pair of the inner
// rows.
template <DType Type, int Rows>
__device__ inline void add_weighted(const HeldGroup& held, const RawUnit<Type>& raw, const Activations<Type>& inner,
                                    std::int32_t first, int unit, float (&sums)[Rows]) {
  const OpenUnit<Type> open = open_unit<Type>(raw, unit);
#pragma unroll
  for (int t = 0; t < Rows; ++t) {
    if ((held.rows >> t & 1U) == 0) continue;
    sums[t] = __fmaf_rn(held.weights[t], add_unit<Type>(open, inner, held.pairs[t] - first, unit, 0.0F), sums[t]);
  }
}

// Each warp has some rows of all experts' `down` and adds in the order of the experts, so that no block waits for
// another and every sum has one order.
template <DType Type, int Rows>
__global__ void __launch_bounds__(kExpertThreads, 3) group_sums(GroupSum job) {
  __shared__ HeldGroup held[kHeldGroups];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int slots = kWarp / job.lanes;
  const int column =
      (static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp) * slots + lane / job.lanes;
  const std::int64_t row = min(column, job.columns - 1);
  float sums[Rows] = {};
  const std::int32_t count = *job.count;
  for (std::int32_t base = 0; base < count; base += kHeldGroups) {
    const int here = min(kHeldGroups, count - base);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < here) {
      hold_group(job, base + static_cast<int>(threadIdx.x), Type, held[threadIdx.x]);
    }
    __syncthreads();
#pragma unroll 1
    for (int at = 0; at < here; at += kAhead) {
      // The shared expert may have another width than those that follow it.
      const bool shared = base + at == 0 && job.with_shared != 0;
      const int batch = shared ? 1 : min(kAhead, here - at);
      const Activations<Type> inner = inner_rows<Type>(job.inner, shared);
      const std::int32_t first = shared ? job.pairs : 0;
      const int units = units_of<Type>(held[at].down.cols);
#pragma unroll 1
      for (int unit = lane % job.lanes; unit < units; unit += job.lanes) {
        RawUnit<Type> raw[kAhead] = {};
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (i >= batch || held[at + i].rows == 0) continue;
          raw[i] = load_unit<Type>(matrix_row<Type>(held[at + i].down, row), unit);
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (i >= batch || held[at + i].rows == 0) continue;
          add_weighted<Type, Rows>(held[at + i], raw[i], inner, first, unit, sums);
        }
      }
      if (shared) at -= kAhead - 1;
    }
  }
#pragma unroll
  for (int t = 0; t < Rows; ++t) {
    const float sum = share_sum(sums[t], job.lanes);
    const bool exists = t < job.rows && column < job.columns;
    if (exists && lane % job.lanes == 0) job.y[static_cast<std::int64_t>(t) * job.columns + column] += sum;
  }
}

}  // namespace

GroupKernel group_kernel(DType type, ExpertStep step) {
  GroupKernel kernel = nullptr;
  with_type(type, [&]<DType Type>() {
    kernel = step == ExpertStep::kGateAndUp ? multiply_gate_and_up<Type> : multiply_one<Type>;
  });
  return kernel;
}

GroupSumKernel group_sum_kernel(DType type, std::int64_t rows) {
  GroupSumKernel kernel = nullptr;
  with_type(type, [&]<DType Type>() {
    kernel = rows == 1   ? group_sums<Type, 1>
             : rows == 2 ? group_sums<Type, 2>
             : rows <= 4 ? group_sums<Type, 4>
                         : group_sums<Type, 8>;
  });
  return kernel;
}

int sum_lanes(DType type, std::int64_t cols) {
  int units = 0;
  with_type(type, [&]<DType Type>() { units = units_of<Type>(cols); });
  int lanes = kWarp;
  while (lanes > 1 && lanes / 2 >= units) lanes /= 2;
  return lanes;
}

unsigned group_sum_blocks(const GroupSum& sum) {
  const int columns = kWarps * (kWarp / sum.lanes);
  return static_cast<unsigned>((sum.columns + columns - 1) / columns);
}

}  // namespace lectern::engine::cuda
