// SPDX-License-Identifier: Apache-2.0
#include "cuda/routing.h"

#include <algorithm>

#include "cuda/norms.h"
#include "cuda/numbers.h"
#include "cuda/ordered_bits.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

constexpr int kWarps = kRouterThreads / kWarp;
constexpr int kParts = kWarps / kRouterRows;  // warps that share a row of the router
constexpr int kLoads = 8;                     // of four weights each, under way at the same time
constexpr int kPart = kLoads * 4 * kWarp;     // columns

constexpr std::int64_t kCodedGroups = kRouterThreads / 4;  // by a block

static_assert(kGroupRows <= kWarps, "one warp chooses for one row of a small batch");

// Columns [column, column + 4) of a row; rows are padded with zeros.
__device__ float4 four_weights(const DeviceMatrix& w, DType type, std::int64_t row, int column) {
  const std::uint8_t* numbers = w.codes + row * w.row_bytes;
  if (type == DType::kF32) return *reinterpret_cast<const float4*>(numbers + 4 * static_cast<std::int64_t>(column));
  const uint2 pairs = *reinterpret_cast<const uint2*>(numbers + 2 * static_cast<std::int64_t>(column));
  if (type == DType::kBF16) return {low_bf16(pairs.x), high_bf16(pairs.x), low_bf16(pairs.y), high_bf16(pairs.y)};
  return {f16_to_float(pairs.x & 0xffffU), f16_to_float(pairs.x >> 16), f16_to_float(pairs.y & 0xffffU),
          f16_to_float(pairs.y >> 16)};
}

__device__ float4 four_inputs(const float* row, int column, int columns, bool aligned) {
  if (aligned) return *reinterpret_cast<const float4*>(row + column);
  return {row[column], column + 1 < columns ? row[column + 1] : 0.0F, column + 2 < columns ? row[column + 2] : 0.0F,
          column + 3 < columns ? row[column + 3] : 0.0F};
}

// Rows of x as the experts see them: `factors` of the norm, one for each, in shared memory.
struct RouterInputs {
  RouterNorm norm;
  const float* factors;

  // The normed numbers of columns [column, column + 4) of row t.
  __device__ float4 normed(float4 a, std::int64_t t, int column, int columns) const {
    if (norm.gain == nullptr) return a;
    const float factor = factors[t];
    const float4 g = load_quad(norm.gain + column, columns - column, norm.wide != 0);
    return {a.x * factor * g.x, a.y * factor * g.y, a.z * factor * g.z, a.w * factor * g.w};
  }
};

// sums[t] += what columns [first, first + kPart) of the router's row give with row t of x, for one lane
__device__ void add_part(const RouterProduct& product, const RouterInputs& rows, const DeviceMatrix& w, DType type,
                         int row, int first, float (&sums)[kGroupRows]) {
  float4 weights[kLoads];
  const int column = first + 4 * static_cast<int>(threadIdx.x % kWarp);
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    weights[i] = {0, 0, 0, 0};
    if (column + i * 4 * kWarp < w.cols) weights[i] = four_weights(w, type, row, column + i * 4 * kWarp);
  }
#pragma unroll
  for (int t = 0; t < kGroupRows; ++t) {
    if (t >= product.rows) break;
    const float* x = product.x + static_cast<std::int64_t>(t) * w.cols;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = column + i * 4 * kWarp;
      if (at >= w.cols) continue;
      const float4 inputs = rows.normed(four_inputs(x, at, w.cols, product.aligned != 0), t, at, w.cols);
      sums[t] = __fmaf_rn(weights[i].x, inputs.x, sums[t]);
      sums[t] = __fmaf_rn(weights[i].y, inputs.y, sums[t]);
      sums[t] = __fmaf_rn(weights[i].z, inputs.z, sums[t]);
      sums[t] = __fmaf_rn(weights[i].w, inputs.w, sums[t]);
    }
  }
}

// The rows of the router that belong to this block, for at most kGroupRows rows of x.
__device__ void multiply_few(const RouterProduct& product, const RouterInputs& rows) {
  __shared__ float parts[kWarps][kGroupRows];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int experts = product.router.rows;
  const int row = static_cast<int>(blockIdx.x) * kRouterRows + warp / kParts;
  const bool shared = row >= experts;
  const DeviceMatrix& w = shared ? product.shared_router : product.router;
  const auto type = static_cast<DType>(shared ? product.shared_type : product.router_type);
  float sums[kGroupRows] = {};
  if (row < experts + product.shared_router.rows) {
    for (int first = warp % kParts * kPart; first < w.cols; first += kParts * kPart) {
      add_part(product, rows, w, type, shared ? row - experts : row, first, sums);
    }
  }
#pragma unroll
  for (int t = 0; t < kGroupRows; ++t) {
    if (t >= product.rows) break;
    const float sum = warp_sum(sums[t]);
    if (threadIdx.x % kWarp == 0) parts[warp][t] = sum;
  }
  __syncthreads();
  const int t = static_cast<int>(threadIdx.x) % kGroupRows;
  const int own = static_cast<int>(threadIdx.x) / kGroupRows;
  const int expert = static_cast<int>(blockIdx.x) * kRouterRows + own;
  if (own >= kRouterRows || t >= product.rows || expert >= experts + product.shared_router.rows) return;
  float sum = 0;
  for (int part = 0; part < kParts; ++part) sum += parts[own * kParts + part][t];
  if (expert < experts) {
    product.logits[static_cast<std::int64_t>(t) * experts + expert] = sum;
  } else {
    product.shared[t] = sum;
  }
}

// The block codes part `part` of x.
__device__ void code_part(const RouterProduct& product, const RouterInputs& rows, const Coding& coding,
                          std::int64_t part) {
  const std::int64_t group = part * kCodedGroups + threadIdx.x / 4;
  const bool valid = group < coding.groups;
  const int columns = product.router.cols;
  float4 parts[2] = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
  if (valid) {
    const std::int64_t t = group / coding.to.groups;
    const int column = static_cast<int>(group % coding.to.groups) * kGroup + 8 * static_cast<int>(threadIdx.x % 4);
    for (int i = 0; i < 2; ++i) {
      const int at = column + 4 * i;
      parts[i] = rows.normed(four_inputs(product.x + t * columns, at, columns, product.aligned != 0), t, at, columns);
    }
  }
  const float values[8] = {parts[0].x, parts[0].y, parts[0].z, parts[0].w,
                           parts[1].x, parts[1].y, parts[1].z, parts[1].w};
  code_group(values, group, valid, coding.to);
}

// The block writes part `part` of the normed rows.
__device__ void write_part(const RouterProduct& product, const RouterInputs& rows, std::int64_t part) {
  const int columns = product.router.cols;
  const int quads = (columns + static_cast<int>(kQuad) - 1) / static_cast<int>(kQuad);
  const std::int64_t index = part * kRouterThreads + threadIdx.x;
  const std::int64_t t = index / quads;
  if (t >= product.rows) return;
  const int column = static_cast<int>(index % quads) * static_cast<int>(kQuad);
  const float4 from = four_inputs(product.x + t * columns, column, columns, product.aligned != 0);
  store_quad(rows.normed(from, t, column, columns), rows.norm.to + t * columns + column, columns - column,
             rows.norm.wide != 0);
}

// --- choice ---------------------------------------------------------------------------------------------------------

struct Candidates {
  unsigned* keys;        // [experts], ordered bits of the logits
  unsigned short* list;  // [experts]
};

__device__ Candidates candidates_of(const Choices& choices, int warp) {
  auto* const keys = dynamic_shared<unsigned>();
  auto* const lists = reinterpret_cast<unsigned short*>(keys + kWarps * choices.experts);
  return {keys + warp * choices.experts, lists + warp * choices.experts};
}

// The lanes' best keys bound from below what is chosen: at least `chosen` experts are not below the chosen-th best.
__device__ unsigned least_wanted(unsigned best, int chosen) {
  if (chosen > kWarp) return 0;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int rank = 0;
  for (int other = 0; other < kWarp; ++other) {
    const unsigned key = __shfl_sync(kAllLanes, best, other);
    if (key > best || (key == best && other < lane)) ++rank;
  }
  const unsigned last = __ballot_sync(kAllLanes, rank == chosen - 1 ? 1 : 0);
  return __shfl_sync(kAllLanes, best, __ffs(static_cast<int>(last)) - 1);
}

// The warp's list of experts whose keys are not below `least`, by number.
__device__ int list_wanted(const Candidates& all, int experts, unsigned least) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int count = 0;
  for (int base = 0; base < experts; base += kWarp) {
    const int expert = base + lane;
    const bool wanted = expert < experts && all.keys[expert] >= least;
    const unsigned lanes = __ballot_sync(kAllLanes, wanted ? 1 : 0);
    if (wanted) {
      all.list[count + __popc(lanes & ((1U << lane) - 1U))] = static_cast<unsigned short>(expert);
    }
    count += __popc(lanes);
  }
  __syncwarp();
  return count;
}

// One warp chooses for row t. Every key has its rank, ties by number, so that NaN spoils nothing but the weights.
__device__ void choose_for(const Choices& choices, std::int64_t t, const Candidates& all) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* logits = choices.logits + t * choices.experts;
  unsigned best = 0;
  for (int expert = lane; expert < choices.experts; expert += kWarp) {
    const unsigned key = ordered_bits(__ldcg(logits + expert));
    all.keys[expert] = key;
    best = key > best ? key : best;
  }
  const float largest = warp_max(from_ordered_bits(best));
  const int count = list_wanted(all, choices.experts, least_wanted(best, choices.chosen));
  std::int32_t* const experts_of = choices.experts_of + t * choices.chosen;
  float* const weights = choices.weights + t * choices.chosen;
  float sum = 0;
  for (int i = lane; i < count; i += kWarp) {
    const int expert = all.list[i];
    const unsigned key = all.keys[expert];
    int rank = 0;
    for (int other = 0; other < count; ++other) {
      const unsigned others = all.keys[all.list[other]];
      if (others > key || (others == key && other < i)) ++rank;
    }
    if (rank >= choices.chosen) continue;
    experts_of[rank] = expert;
    weights[rank] = expf(from_ordered_bits(key) - largest);
    sum += weights[rank];
  }
  if (choices.normalise == 0) {
    sum = 0;
    for (int expert = lane; expert < choices.experts; expert += kWarp) {
      sum += expf(from_ordered_bits(all.keys[expert]) - largest);
    }
  }
  sum = warp_sum(sum);
  __syncwarp();
  for (int rank = lane; rank < choices.chosen; rank += kWarp) weights[rank] /= sum;
  if (lane == 0 && choices.shared != nullptr) {
    choices.weights[static_cast<std::int64_t>(choices.rows) * choices.chosen + t] = sigmoid(__ldcg(choices.shared + t));
  }
}

// The block gives every expert of a small batch its rows.
__device__ void group_rows(const Choices& choices, const GroupedRows& grouped) {
  __shared__ unsigned short expert_of[kGroupRows * kMostChosen];
  __shared__ bool first_of[kGroupRows * kMostChosen];  // the first pair of its expert
  const int pairs = choices.rows * choices.chosen;
  const auto thread = static_cast<int>(threadIdx.x);
  int count = choices.shared != nullptr ? 1 : 0;
  const int before_all = count;
  for (int i = thread; i < pairs; i += kRouterThreads) {
    expert_of[i] = static_cast<unsigned short>(choices.experts_of[i]);
  }
  __syncthreads();
  for (int base = 0; base < pairs; base += kRouterThreads) {
    const int i = base + thread;
    bool first = i < pairs;
    for (int other = 0; first && other < i; ++other) first = expert_of[other] != expert_of[i];
    if (i < pairs) first_of[i] = first;
    count += __syncthreads_count(first ? 1 : 0);
  }
  for (int i = thread; i < pairs; i += kRouterThreads) {
    int place = before_all;
    std::uint32_t rows = 0;
    for (int other = 0; other < pairs; ++other) {
      if (first_of[other] && expert_of[other] < expert_of[i]) ++place;
      if (expert_of[other] == expert_of[i]) rows |= 1U << (other / choices.chosen);
    }
    ExpertGroup& group = grouped.groups[place];
    group.pairs[i / choices.chosen] = i;
    if (!first_of[i]) continue;
    group.expert = expert_of[i];
    group.rows = rows;
  }
  if (before_all != 0 && thread < choices.rows) {
    grouped.groups[0].pairs[thread] = pairs + thread;
    if (thread == 0) grouped.groups[0].expert = choices.experts;
    if (thread == 0) grouped.groups[0].rows = (1U << choices.rows) - 1U;
  }
  if (thread == 0) *grouped.count = count;
}

__device__ void choose_and_group(const Choices& choices, const GroupedRows& grouped) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  const std::int64_t row = grouped.groups != nullptr ? warp : t;
  if (row < choices.rows) choose_for(choices, row, candidates_of(choices, warp));
  if (grouped.groups == nullptr) return;
  __syncthreads();
  group_rows(choices, grouped);
}

// --- product with many rows -----------------------------------------------------------------------------------------

constexpr int kTile = 64;   // rows of x and of the router to a block
constexpr int kDepth = 16;  // columns of both in shared memory
constexpr int kOwn = 4;     // results of a thread in either direction

}  // namespace

__global__ void __launch_bounds__(kRouterThreads)
    route_few(RouterProduct product, RouterNorm norm, Coding coding, Choices choices, GroupedRows grouped) {
  __shared__ float factors[kGroupRows];
  __shared__ float partial[kGroupRows * kMostNormWarps];
  const RouterInputs rows = {norm, factors};
  if (norm.gain != nullptr) {
    find_norm_factors(product.x, product.rows, product.router.cols, norm.eps, norm.wide != 0, factors, partial);
  }
  const int of_router = (product.router.rows + product.shared_router.rows + kRouterRows - 1) / kRouterRows;
  const int behind = static_cast<int>(blockIdx.x) - of_router;
  const auto of_coding = static_cast<int>((coding.groups + kCodedGroups - 1) / kCodedGroups);
  if (behind < 0) {
    multiply_few(product, rows);
  } else if (behind < of_coding) {
    code_part(product, rows, coding, behind);
  } else {
    write_part(product, rows, behind - of_coding);
  }
  if (arrives_last(grouped.arrived, gridDim.x)) choose_and_group(choices, grouped);
}

__global__ void __launch_bounds__(kRouterThreads) code_activations(RouterProduct product, Coding coding) {
  code_part(product, {}, coding, blockIdx.x);
}

__global__ void __launch_bounds__(kRouterThreads) choose_experts(Choices choices, GroupedRows grouped) {
  choose_and_group(choices, grouped);
}

// Sums in the order of the columns, one thread for 4 x 4 of them.
__global__ void __launch_bounds__(kRouterThreads) route_many(RouterProduct product) {
  __shared__ __align__(16) float inputs[kDepth][kTile];
  __shared__ __align__(16) float weights[kDepth][kTile];
  const int columns = product.router.cols;
  const int experts = product.router.rows;
  const int all = experts + product.shared_router.rows;
  const int first_row = static_cast<int>(blockIdx.x) * kTile;
  const int first_expert = static_cast<int>(blockIdx.y) * kTile;
  // What this thread brings into shared memory: four columns of one row of each.
  const int line = static_cast<int>(threadIdx.x) / (kDepth / 4);
  const int place = static_cast<int>(threadIdx.x) % (kDepth / 4) * 4;
  const int x_row = first_row + line;
  const int w_row = first_expert + line;
  const bool shared = w_row >= experts;
  const DeviceMatrix& w = shared ? product.shared_router : product.router;
  const auto type = static_cast<DType>(shared ? product.shared_type : product.router_type);
  const float* x = product.x + static_cast<std::int64_t>(x_row) * columns;
  const int across = static_cast<int>(threadIdx.x) % (kTile / kOwn) * kOwn;  // experts of this thread
  const int down = static_cast<int>(threadIdx.x) / (kTile / kOwn) * kOwn;    // its rows
  float sums[kOwn][kOwn] = {};
  for (int first = 0; first < columns; first += kDepth) {
    const int column = first + place;
    float4 from_x = {0, 0, 0, 0};
    float4 from_w = {0, 0, 0, 0};
    if (column < columns && x_row < product.rows) from_x = four_inputs(x, column, columns, product.aligned != 0);
    if (column < columns && w_row < all) from_w = four_weights(w, type, shared ? w_row - experts : w_row, column);
    __syncthreads();
    const float x_of[4] = {from_x.x, from_x.y, from_x.z, from_x.w};
    const float w_of[4] = {from_w.x, from_w.y, from_w.z, from_w.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      inputs[place + i][line] = x_of[i];
      weights[place + i][line] = w_of[i];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const float4 a = *reinterpret_cast<const float4*>(&inputs[k][down]);
      const float4 b = *reinterpret_cast<const float4*>(&weights[k][across]);
      const float a_of[kOwn] = {a.x, a.y, a.z, a.w};
      const float b_of[kOwn] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) sums[i][j] = __fmaf_rn(a_of[i], b_of[j], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int t = first_row + down + i;
      const int expert = first_expert + across + j;
      if (t >= product.rows || expert >= all) continue;
      if (expert < experts) {
        product.logits[static_cast<std::int64_t>(t) * experts + expert] = sums[i][j];
      } else {
        product.shared[t] = sums[i][j];
      }
    }
  }
}

unsigned router_blocks(const RouterProduct& product) {
  return static_cast<unsigned>((product.router.rows + product.shared_router.rows + kRouterRows - 1) / kRouterRows);
}

unsigned coding_blocks(const Coding& coding) {
  return static_cast<unsigned>((coding.groups + kCodedGroups - 1) / kCodedGroups);
}

unsigned norm_blocks(const RouterProduct& product, const RouterNorm& norm) {
  if (norm.to == nullptr) return 0;
  const std::int64_t quads = (product.router.cols + kQuad - 1) / kQuad;
  return static_cast<unsigned>((product.rows * quads + kRouterThreads - 1) / kRouterThreads);
}

dim3 router_tiles(const RouterProduct& product) {
  const int all = product.router.rows + product.shared_router.rows;
  return {static_cast<unsigned>((product.rows + kTile - 1) / kTile), static_cast<unsigned>((all + kTile - 1) / kTile)};
}

unsigned choice_blocks(const Choices& choices) { return static_cast<unsigned>((choices.rows + kWarps - 1) / kWarps); }

std::size_t choice_bytes(const Choices& choices) {
  return static_cast<std::size_t>(kWarps) * static_cast<std::size_t>(choices.experts) *
         (sizeof(unsigned) + sizeof(unsigned short));
}

// --- sorting --------------------------------------------------------------------------------------------------------

namespace {

constexpr int kSortWarps = kSortThreads / kWarp;

// The sum over the threads before this one; `total` gets that over all.
__device__ int block_sum_before(int value, int* partial, int& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  int through = value;
  for (unsigned offset = 1; offset < kWarp; offset *= 2) {
    const int other = __shfl_up_sync(kAllLanes, through, offset);
    if (lane >= static_cast<int>(offset)) through += other;
  }
  __syncthreads();
  if (lane == kWarp - 1) partial[warp] = through;
  __syncthreads();
  int before = through - value;
  total = 0;
  for (int i = 0; i < kSortWarps; ++i) {
    if (i < warp) before += partial[i];
    total += partial[i];
  }
  return before;
}

// Tiles of all experts, once the starts are known.
__device__ void list_tiles(const SortedPairs& pairs, int* partial) {
  int done = 0;
  for (int base = 0; base <= pairs.experts; base += kSortThreads) {
    const int expert = base + static_cast<int>(threadIdx.x);
    int first = 0;
    int rows = 0;
    if (expert <= pairs.experts) {
      first = __ldcg(&pairs.starts[expert]);
      rows = __ldcg(&pairs.starts[expert + 1]) - first;
    }
    int total = 0;
    int tile = done + block_sum_before((rows + pairs.tile_rows - 1) / pairs.tile_rows, partial, total);
    for (int at = 0; at < rows; at += pairs.tile_rows) {
      pairs.tiles[tile++] = {expert, first + at, min(pairs.tile_rows, rows - at)};
    }
    done += total;
  }
  if (threadIdx.x == 0) *pairs.tile_count = done;
}

}  // namespace

std::int64_t most_tiles(const SortedPairs& pairs) {
  const std::int64_t full = pairs.pairs / pairs.tile_rows + pairs.shared_rows / pairs.tile_rows;
  return full + std::min<std::int64_t>(pairs.experts, pairs.pairs) + 1;
}

// Block e finds the pairs of expert e, and by counting those of lower experts, their place. Each thread looks at
// consecutive pairs, so that they keep their order.
__global__ void __launch_bounds__(kSortThreads) sort_pairs(SortedPairs pairs) {
  __shared__ int partial[kSortWarps];
  const auto expert = static_cast<int>(blockIdx.x);
  const int each = ((pairs.pairs + kSortThreads - 1) / kSortThreads + 3) / 4 * 4;
  const int first = min(static_cast<int>(threadIdx.x) * each, pairs.pairs);
  const int last = min(first + each, pairs.pairs);
  int lower = 0;
  int own = 0;
  int i = first;
  for (; i + 4 <= last; i += 4) {
    const int4 four = *reinterpret_cast<const int4*>(pairs.experts_of + i);
    lower += (four.x < expert) + (four.y < expert) + (four.z < expert) + (four.w < expert);
    own += (four.x == expert) + (four.y == expert) + (four.z == expert) + (four.w == expert);
  }
  for (; i < last; ++i) {
    lower += pairs.experts_of[i] < expert ? 1 : 0;
    own += pairs.experts_of[i] == expert ? 1 : 0;
  }
  int start = 0;
  block_sum_before(lower, partial, start);
  int total = 0;
  int place = start + block_sum_before(own, partial, total);
  for (i = first; own > 0 && i < last; ++i) {
    if (pairs.experts_of[i] == expert) pairs.sorted[place++] = i;
  }
  for (int t = static_cast<int>(threadIdx.x); expert == 0 && t < pairs.shared_rows; t += kSortThreads) {
    pairs.sorted[pairs.pairs + t] = pairs.pairs + t;
  }
  if (threadIdx.x == 0) {
    pairs.starts[expert] = start;
    if (expert == 0) pairs.starts[pairs.experts] = pairs.pairs;
    if (expert == 0) pairs.starts[pairs.experts + 1] = pairs.pairs + pairs.shared_rows;
  }
  if (arrives_last(pairs.arrived, gridDim.x)) list_tiles(pairs, partial);
}

}  // namespace lectern::engine::cuda
