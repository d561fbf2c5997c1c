// SPDX-License-Identifier: Apache-2.0
// Softmax attention tile by tile of keys, without a matrix of all scores (Milakov and Gimelshein 2018, "Online
// normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention"), in float, for any shape.
#include "cuda/attention.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "cuda/cuda_backend.h"
#include "cuda/numbers.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTileKeys = kWarp;        // a lane scores one key
constexpr int kTileNumbers = 32;        // of keys and queries that stand in shared memory at a time
constexpr int kPitch = kTileKeys + 4;   // between rows in shared memory: 16-byte reads of 8 lanes meet no bank twice
constexpr int kMostColumns = kThreads;  // of values that a block adds up; wider heads take several blocks
constexpr std::int64_t kKeysUnit = 64;  // of splits: whole tiles of every kernel
constexpr int kFewRows = 16;
constexpr int kManyRows = 32;

// A head of a cache.
template <KvType kType>
struct CachedHead {
  KvView cache;
  int head;

  __device__ float number(std::int64_t row, int i, Side side) const {
    const std::byte* numbers = cache.row(row, head, side);
    if constexpr (kType == KvType::kF32) return reinterpret_cast<const float*>(numbers)[i];
    if constexpr (kType == KvType::kBF16) return bf16_to_float(reinterpret_cast<const std::uint16_t*>(numbers)[i]);
    return static_cast<float>(reinterpret_cast<const std::int8_t*>(numbers)[i]) *
           cache.row_scales(row, head, side)[i / kScaleNumbers];
  }
};

// Rows of keys and values of one head as numbers, `stride` apart.
struct HeadRows {
  const float* keys;
  const float* values;
  std::int64_t stride;

  __device__ float number(std::int64_t row, int i, Side side) const {
    return (side == Side::kKeys ? keys : values)[row * stride + i];
  }
};

// Up to kRows queries against the keys of one range. Warp w scores the rows w, w + 8, ...; afterwards each thread adds
// up one column of the values for some of the rows.
template <int kRows>
struct QueryTile {
  static constexpr int kOfWarp = kRows / kWarps;

  struct Row {
    std::int64_t offset;  // of its numbers in q and y; negative: there is no such row
    int begin;            // the keys that it sees, from the range's first on
    int end;
  };
  alignas(16) float queries[kRows][kTileNumbers];
  alignas(16) float keys[kTileKeys][kPitch];
  alignas(16) float weights[kRows][kPitch];
  float shrink[kRows];
  RowStats stats[kRows];
  Row rows[kRows];
};

template <int kRows>
class TileWorker {
 public:
  using Tile = QueryTile<kRows>;
  __device__ TileWorker(Tile& tile, const float* q, int width, int first_column, float scale)
      : tile_(tile),
        q_(q),
        width_(width),
        scale_(scale),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {
    columns_ = kWarp;
    while (columns_ < kMostColumns && columns_ < width - first_column) columns_ *= 2;
    column_ = first_column + static_cast<int>(threadIdx.x) % columns_;
    first_row_ = static_cast<int>(threadIdx.x) / columns_;
    row_step_ = kThreads / columns_;
  }

  // Keys [first, first + count); the tile's rows have been set, and all threads have passed a barrier since.
  template <class Source>
  __device__ void attend(const Source& source, std::int64_t first, int count) {
    for (float& sum : sums_) sum = 0;
    float largest[Tile::kOfWarp];
    float total[Tile::kOfWarp];
#pragma unroll
    for (int i = 0; i < Tile::kOfWarp; ++i) {
      largest[i] = kNoScore;
      total[i] = 0;
    }
    for (int key = 0; key < count; key += kTileKeys) {
      float scores[Tile::kOfWarp] = {};
      score(source, first + key, min(kTileKeys, count - key), scores);
      bool all_seen = key + kTileKeys <= count;
#pragma unroll
      for (int i = 0; i < Tile::kOfWarp; ++i) all_seen &= weigh(i, key, scores[i], largest[i], total[i]);
      const bool masked = __syncthreads_and(all_seen ? 1 : 0) == 0;
      if (masked) {
        add_values<true>(source, first + key, min(kTileKeys, count - key));
      } else {
        add_values<false>(source, first + key, kTileKeys);
      }
    }
#pragma unroll
    for (int i = 0; i < Tile::kOfWarp; ++i) tile_.stats[warp_ + i * kWarps] = {largest[i], total[i]};
    __syncthreads();
  }

  // visit(row, column, sum) for what this thread has added up.
  template <class Visit>
  __device__ void each_sum(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = first_row_ + i * row_step_;
      if (row >= kRows) break;
      if (column_ < width_ && tile_.rows[row].offset >= 0) visit(row, column_, sums_[i]);
    }
  }

 private:
  template <class Source>
  __device__ void score(const Source& source, std::int64_t first, int count, float (&scores)[Tile::kOfWarp]) {
    for (int part = 0; part < width_; part += kTileNumbers) {
      __syncthreads();  // the last part has been used
      const int i = part + lane_;
      for (int row = warp_; row < kRows; row += kWarps) {
        const std::int64_t offset = tile_.rows[row].offset;
        tile_.queries[row][lane_] = offset >= 0 && i < width_ ? q_[offset + i] : 0.0F;
      }
      for (int key = warp_; key < kTileKeys; key += kWarps) {
        tile_.keys[key][lane_] = key < count && i < width_ ? source.number(first + key, i, Side::kKeys) : 0.0F;
      }
      __syncthreads();
#pragma unroll
      for (int at = 0; at < kTileNumbers; at += 4) {
        const float4 k = *reinterpret_cast<const float4*>(&tile_.keys[lane_][at]);
#pragma unroll
        for (int r = 0; r < Tile::kOfWarp; ++r) {
          const float4 q = *reinterpret_cast<const float4*>(&tile_.queries[warp_ + r * kWarps][at]);
          scores[r] = fmaf(q.x, k.x, fmaf(q.y, k.y, fmaf(q.z, k.z, fmaf(q.w, k.w, scores[r]))));
        }
      }
    }
  }

  // The warp's i-th row against the tile that begins at `key`. Scores become weights relative to the row's largest so
  // far. Gives whether the row sees this lane's key.
  __device__ bool weigh(int i, int key, float score, float& largest, float& total) {
    const int row = warp_ + i * kWarps;
    const bool seen = key + lane_ >= tile_.rows[row].begin && key + lane_ < tile_.rows[row].end;
    score *= scale_;
    const float now = fmaxf(largest, warp_max(seen ? score : kNoScore));
    const float weight = seen ? exp2f(score - now) : 0.0F;
    const float shrink = exp2f(largest - now);
    total = fmaf(total, shrink, warp_sum(weight));
    largest = now;
    tile_.weights[row][lane_] = weight;
    if (lane_ == 0) tile_.shrink[row] = shrink;
    return seen;
  }

  // kMasked: some row does not see some key, and that key's numbers, finite or not, must not reach it.
  template <bool kMasked, class Source>
  __device__ void add_values(const Source& source, std::int64_t first, int count) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = first_row_ + i * row_step_;
      if (row >= kRows) break;
      sums_[i] *= tile_.shrink[row];
    }
    for (int key = 0; key < count; key += 4) {
      float v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool there = column_ < width_ && (!kMasked || key + j < count);
        v[j] = there ? source.number(first + key + j, column_, Side::kValues) : 0.0F;
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int row = first_row_ + i * row_step_;
        if (row >= kRows) break;
        const float4 w = *reinterpret_cast<const float4*>(&tile_.weights[row][key]);
        add<kMasked>(w.x, v[0], sums_[i]);
        add<kMasked>(w.y, v[1], sums_[i]);
        add<kMasked>(w.z, v[2], sums_[i]);
        add<kMasked>(w.w, v[3], sums_[i]);
      }
    }
  }

  template <bool kMasked>
  __device__ static void add(float weight, float value, float& sum) {
    sum = kMasked && weight == 0 ? sum : fmaf(weight, value, sum);
  }

  Tile& tile_;
  const float* q_;
  int width_;
  float scale_;
  int warp_;
  int lane_;
  int columns_;  // of a row of threads
  int column_;   // this thread's
  int first_row_;
  int row_step_;
  float sums_[kRows];  // the first kRows / row_step_ are used
};

// The rows of a tile that have splits of `size` keys; `first` is the range's first key. Others see nothing.
template <int kRows>
__device__ void set_causal_rows(const AttentionCall& call, int first_row, std::int64_t first, std::int64_t size,
                                QueryTile<kRows>& tile) {
  const int index = static_cast<int>(threadIdx.x);
  if (index >= kRows) return;
  if (first_row + index >= call.rows * call.group) {
    tile.rows[index] = {-1, 0, 0};
    return;
  }
  const PackedRow row(call, static_cast<int>(blockIdx.y), first_row + index);
  const std::int64_t seen = row.seen(call);
  const std::int64_t end = keys_of_split(call, seen) == size ? max(std::int64_t{0}, min(size, seen - first)) : 0;
  tile.rows[index] = {row.offset(call), 0, static_cast<int>(end)};
}

// Grid: splits, KV heads, (tiles of packed rows) * (parts of the columns).
template <int kRows, KvType kType>
__global__ void attend_plain(AttentionCall call) {
  __shared__ QueryTile<kRows> tile;
  const int width = call.cache.width;
  const int part = static_cast<int>(blockIdx.z) / call.tiles;
  // Later rows see more keys: they come first.
  const int first_row = (call.tiles - 1 - static_cast<int>(blockIdx.z) % call.tiles) * kRows;
  const int last_row = min(first_row + kRows, call.rows * call.group) - 1;
  const int kv_head = static_cast<int>(blockIdx.y);
  const std::int64_t most_seen = PackedRow(call, kv_head, last_row).seen(call);
  const std::int64_t last_size = keys_of_split(call, most_seen);
  const CachedHead<kType> source = {call.cache, kv_head};
  TileWorker<kRows> worker(tile, call.q, width, part * kMostColumns, call.scale);
  const auto attend_size = [&](std::int64_t size) {
    const std::int64_t first = blockIdx.x * size;
    if (first >= most_seen) return;
    __syncthreads();
    set_causal_rows(call, first_row, first, size, tile);
    __syncthreads();
    worker.attend(source, first, static_cast<int>(min(size, most_seen - first)));
    worker.each_sum([&](int row, int column, float sum) {
      const std::int64_t offset = tile.rows[row].offset;
      if (call.sums == nullptr) {
        call.y[offset + column] = sum / tile.stats[row].total;
      } else if (tile.rows[row].end > 0) {
        const std::int64_t at = offset / width * call.splits + blockIdx.x;
        call.sums[at * width + column] = sum;
        if (column == 0) call.stats[at] = tile.stats[row];
      }
    });
  };
  const std::int64_t first_size = keys_of_split(call, PackedRow(call, kv_head, first_row).seen(call));
  if (first_size != last_size) attend_size(first_size);
  attend_size(last_size);
}

// Adds up what the splits have gathered. A block for each query head of each token.
__global__ void combine_splits(AttentionCall call) {
  __shared__ float factors[kMostSplits];
  const std::int64_t number = blockIdx.x;
  const std::int64_t seen = *call.length - call.rows + number / (call.cache.heads * call.group) + 1;
  const std::int64_t size = keys_of_split(call, seen);
  const int splits = static_cast<int>((seen + size - 1) / size);
  const RowStats* stats = call.stats + number * call.splits;
  float largest = kNoScore;
  for (int i = 0; i < splits; ++i) largest = fmaxf(largest, stats[i].largest);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < splits) factors[thread] = exp2f(stats[thread].largest - largest);
  __syncthreads();
  float total = 0;
  for (int i = 0; i < splits; ++i) total = fmaf(factors[i], stats[i].total, total);
  const int width = call.cache.width;
  for (int column = thread; column < width; column += static_cast<int>(blockDim.x)) {
    const float* sums = call.sums + number * call.splits * width + column;
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < splits; ++i) sum = fmaf(factors[i], sums[static_cast<std::int64_t>(i) * width], sum);
    call.y[number * width + column] = sum / total;
  }
}

// Grid: tiles of rows, heads, parts of the columns. `starts`: of the sequences, and the end of the last.
__global__ void attend_sequences(const float* q, HeadRows all, int rows, int width, const std::int64_t* starts,
                                 int sequences, float scale, float* y) {
  __shared__ QueryTile<kManyRows> tile;
  const int first_row = static_cast<int>(blockIdx.x) * kManyRows;
  const int index = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const auto sequence_of = [&](int row) {
    int first = 0;
    for (int last = sequences - 1; first < last;) {
      const int middle = (first + last + 1) / 2;
      if (starts[middle] <= row)
        first = middle;
      else
        last = middle - 1;
    }
    return first;
  };
  const std::int64_t first = starts[sequence_of(first_row)];
  const std::int64_t last = starts[sequence_of(min(first_row + kManyRows, rows) - 1) + 1];
  if (index < kManyRows) {
    const int row = first_row + index;
    const int sequence = sequence_of(min(row, rows - 1));
    tile.rows[index] = {row < rows ? row * all.stride + head * width : -1, static_cast<int>(starts[sequence] - first),
                        static_cast<int>(starts[sequence + 1] - first)};
  }
  __syncthreads();
  const HeadRows source = {all.keys + head * width, all.values + head * width, all.stride};
  TileWorker<kManyRows> worker(tile, q, width, static_cast<int>(blockIdx.z) * kMostColumns, scale);
  worker.attend(source, first, static_cast<int>(last - first));
  worker.each_sum(
      [&](int row, int column, float sum) { y[tile.rows[row].offset + column] = sum / tile.stats[row].total; });
}

float score_scale(std::int64_t width) {
  return static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(width)));
}

unsigned parts_of(std::int64_t count, std::int64_t size) { return static_cast<unsigned>((count + size - 1) / size); }

template <int kRows>
AttentionKernel plain_kernel(KvType type, int width) {
  AttentionKernel kernel;
  kernel.kernel = type == KvType::kF32    ? attend_plain<kRows, KvType::kF32>
                  : type == KvType::kBF16 ? attend_plain<kRows, KvType::kBF16>
                                          : attend_plain<kRows, KvType::kQ8>;
  kernel.threads = kThreads;
  kernel.tile_rows = kRows;
  kernel.column_parts = static_cast<int>(parts_of(width, kMostColumns));
  return kernel;
}

AttentionKernel kernel_for(const AttentionCall& call, KvType type, std::int64_t shared_limit) {
  const int width = call.cache.width;
  const bool few = call.rows <= kSmallBatchRows;
  const AttentionKernel kernel = few ? small_batch_kernel(type, width, call.rows * call.group, shared_limit)
                                     : flash_kernel(type, width, shared_limit);
  if (kernel.kernel != nullptr) return kernel;
  return few ? plain_kernel<kFewRows>(type, width) : plain_kernel<kManyRows>(type, width);
}

// For many rows: splits where there are too few tiles to occupy the GPU about twice.
void cut_keys(std::int64_t length, std::int64_t blocks, std::int64_t multiprocessors, AttentionCall& call) {
  const std::int64_t wanted = std::min<std::int64_t>((2 * multiprocessors + blocks - 1) / blocks, kMostSplits);
  const std::int64_t even = (length + wanted - 1) / wanted;
  call.split_keys = std::max<std::int64_t>(2 * kKvBlockRows, (even + kKeysUnit - 1) / kKeysUnit * kKeysUnit);
  call.splits = static_cast<int>((length + call.split_keys - 1) / call.split_keys);
}

}  // namespace

// Sums of the splits: of all rows of a small batch, or of a few tiles for each multiprocessor; see cut_keys().
std::int64_t attention_working_bytes(const AttentionShape& shape, std::int64_t rows, std::int64_t multiprocessors) {
  constexpr std::int64_t kMostTileRows = 128;
  const std::int64_t of_row = 4 * shape.head_dim + static_cast<std::int64_t>(sizeof(RowStats));
  const std::int64_t few = std::min(rows, kSmallBatchRows) * shape.query_heads * kMostSplits;
  const std::int64_t many = std::min(4 * multiprocessors * kMostTileRows, rows * shape.query_heads * kMostSplits);
  return std::max(few, many) * of_row + 2 * kAlignment;
}

void CudaBackend::attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) {
  const auto& from = static_cast<const CudaKvCache&>(cache);
  note(from.make_table(stream_), "Reading keys and values");
  if (failure_) return;
  AttentionCall call = {};
  call.q = q.data;
  call.y = y.data;
  call.length = values_.add(from.length());
  call.cache = from.view();
  call.rows = static_cast<int>(q.rows);
  call.group = static_cast<int>(shape.query_heads / shape.kv_heads);
  call.scale = score_scale(shape.head_dim);
  const AttentionKernel kernel =
      kernel_for(call, from.type(), static_cast<std::int64_t>(properties_.sharedMemPerBlockOptin));
  call.stages = kernel.stages;
  call.tiles = static_cast<int>(parts_of(q.rows * call.group, kernel.tile_rows));
  call.splits = kMostSplits;
  const std::int64_t blocks = shape.kv_heads * call.tiles * kernel.column_parts;
  if (q.rows > kSmallBatchRows) cut_keys(from.length(), blocks, multiprocessors(), call);
  Workspace workspace(*this);
  if (call.splits > 1) {
    call.sums = workspace.take<float>(q.rows * q.cols * call.splits);
    call.stats = workspace.take<RowStats>(q.rows * shape.query_heads * call.splits);
  }
  allow_shared_memory(kernel.kernel);
  run({{static_cast<unsigned>(call.splits), static_cast<unsigned>(shape.kv_heads),
        static_cast<unsigned>(call.tiles * kernel.column_parts)},
       static_cast<unsigned>(kernel.threads),
       static_cast<std::size_t>(kernel.shared_bytes)},
      kernel.kernel, call);
  if (call.splits > 1) run({static_cast<unsigned>(q.rows * shape.query_heads), kThreads}, combine_splits, call);
}

void CudaBackend::attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                                       std::span<const std::int64_t> starts, const Tensor& y) {
  const std::int64_t width = q.cols / heads;
  const HeadRows all = {k.data, v.data, k.cols};
  const Grid grid = {{parts_of(q.rows, kManyRows), static_cast<unsigned>(heads), parts_of(width, kMostColumns)},
                     kThreads};
  run(grid, attend_sequences, static_cast<const float*>(q.data), all, static_cast<int>(q.rows), static_cast<int>(width),
      values_.add(starts), static_cast<int>(starts.size()) - 1, score_scale(width), y.data);
}

}  // namespace lectern::engine::cuda
