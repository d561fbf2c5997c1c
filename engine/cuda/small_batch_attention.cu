// SPDX-License-Identifier: Apache-2.0
// Attention of up to eight tokens on the matrix units. A block reads one split of the keys and values of one KV head,
// once for all packed rows. For each tile of keys the warps divide the keys among them to score, then the values'
// columns to add up: so that every row is computed in the same order however many there are.
#include "cuda/attention.h"
#include "cuda/attention_tiles.h"
#include "cuda/stored_factors.h"

namespace lectern::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostStages = 4;

// Tiles of kKeys keys (32 or 64) and kTiles * 16 packed rows. Eight warps score them: each takes some groups of eight
// keys and half of the tiles of rows; where there is but one of these, all groups have a warp, or two, one for each
// half of the dimensions.
template <KvType kType, int kDim, int kTiles, int kKeys>
struct Layout {
  static constexpr int kRows = 16 * kTiles;
  static constexpr bool kHalves = kTiles == 1 && kKeys == 32;
  static constexpr int kPlanes = kHalves ? 2 : 1;
  static constexpr int kKeyWarps = kTiles == 1 && kKeys == 64 ? 8 : 4;
  static constexpr int kOwnGroups = kKeys / 8 / kKeyWarps;
  static constexpr int kOwnTiles = kTiles == 1 ? 1 : kTiles / 2;
  static constexpr int kScorePitch = kKeys + 8;        // floats: a half warp's pairs meet no bank twice
  static constexpr int kWeightPitch = 2 * kKeys + 16;  // bytes
  using Stored = StoredTile<kType, kDim, kKeys>;

  static constexpr int kScores = kRows * kMatrixPitch<kDim>;  // behind the queries
  static constexpr int kWeights = kScores + kPlanes * kRows * kScorePitch * 4;
  static constexpr int kShrink = kWeights + kRows * kWeightPitch;
  static constexpr int kSeen = kShrink + kRows * 4;
  static constexpr int kBroken = kSeen + kRows * 4;
  static constexpr int kStages = kBroken + kKeys * 4;
  static constexpr int kStageBytes = 2 * Stored::kBytes;
  static_assert(kStages % 16 == 0 && kStageBytes % 16 == 0);
};

template <KvType kType, int kDim, int kTiles, int kKeys>
class SplitReader {
  using At = Layout<kType, kDim, kTiles, kKeys>;
  static constexpr int kScorePitch = At::kScorePitch;
  static constexpr int kWeightPitch = At::kWeightPitch;
  static constexpr int kRows = At::kRows;
  static constexpr int kColumnTiles = kDim / 8 / kWarps;  // of values, per warp
  static constexpr int kLanesOfRow = kThreads / kRows;    // that weigh a row
  static constexpr int kKeysOfLane = kKeys / kLanesOfRow;

 public:
  __device__ SplitReader(const AttentionCall& call, std::byte* shared)
      : call_(call),
        shared_(shared),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / kWarp),
        lane_(thread_ % kWarp),
        kv_head_(static_cast<int>(blockIdx.y)),
        first_row_(static_cast<int>(blockIdx.z) * kRows),
        rows_(min(kRows, call.rows * call.group - first_row_)) {}

  __device__ std::int64_t seen_by(int row) const { return PackedRow(call_, kv_head_, first_row_ + row).seen(call_); }
  __device__ int rows() const { return rows_; }

  __device__ void load_queries() {
    for (int i = thread_; i < kRows * kDim; i += kThreads) {
      const int row = i / kDim;
      const int at = i % kDim;
      float number = 0;
      if (row < rows_ && at < call_.cache.width) {
        number = call_.q[PackedRow(call_, kv_head_, first_row_ + row).offset(call_) + at];
      }
      reinterpret_cast<std::uint16_t*>(shared_ + row * kMatrixPitch<kDim>)[query_column<kType>(at)] =
          static_cast<std::uint16_t>(float_to_bf16(number));
    }
  }

  // Keys [first, last) for the rows whose splits have `size` keys.
  __device__ void attend(std::int64_t first, std::int64_t last, std::int64_t size) {
    first_ = first;
    count_ = static_cast<int>(last - first);
    const int all_see = set_seen(size);
    start();
    BlockCursor cursor(call_.cache, first, last);
    const int ahead = call_.stages - 1;
    for (int i = 0; i < ahead; ++i) load_stage(cursor, i);
    const int tiles = (count_ + kKeys - 1) / kKeys;
    for (int tile = 0; tile < tiles; ++tile) {
      wait_for_stage();
      __syncthreads();
      load_stage(cursor, tile + ahead);
      const std::byte* stage = stage_of(tile);
      const bool masked = (tile + 1) * kKeys > all_see;
      if (masked) clean(stage, min(kKeys, count_ - tile * kKeys));
      score(stage);
      __syncthreads();
      weigh(tile * kKeys, masked);
      __syncthreads();
      add_values(stage + At::Stored::kBytes);
    }
    give();
    __syncthreads();
  }

 private:
  __device__ float* shrink() const { return reinterpret_cast<float*>(shared_ + At::kShrink); }
  __device__ int* seen() const { return reinterpret_cast<int*>(shared_ + At::kSeen); }
  __device__ int* broken() const { return reinterpret_cast<int*>(shared_ + At::kBroken); }
  __device__ std::byte* stage_of(int tile) const {
    return shared_ + At::kStages + tile % call_.stages * At::kStageBytes;
  }

  // How many of the split's keys each row sees; gives how many all rows do that have splits of `size` keys.
  __device__ int set_seen(std::int64_t size) {
    int all_see = count_;
    for (int row = 0; row < rows_; row += call_.group - (first_row_ + row) % call_.group) {
      const std::int64_t sees = seen_by(row);
      if (keys_of_split(call_, sees) == size) {
        all_see = static_cast<int>(max(std::int64_t{0}, min(std::int64_t{all_see}, sees - first_)));
      }
    }
    if (thread_ < kRows) {
      std::int64_t sees = 0;
      if (thread_ < rows_) {
        const std::int64_t all = seen_by(thread_);
        if (keys_of_split(call_, all) == size) sees = min(std::int64_t{count_}, all - first_);
      }
      seen()[thread_] = static_cast<int>(max(std::int64_t{0}, sees));
    }
    return all_see;
  }

  __device__ void start() {
    largest_ = kNoScore;
    total_ = 0;
#pragma unroll
    for (auto& tile : sums_) {
#pragma unroll
      for (auto& columns : tile) {
#pragma unroll
        for (float& sum : columns) sum = 0;
      }
    }
  }

  // A group of copies for every tile, empty behind the last.
  __device__ void load_stage(BlockCursor& cursor, int tile) {
    const int key = tile * kKeys;
    if (key < count_) {
      const std::int64_t row = first_ + key;
      const std::byte* block = cursor.block_of(row);
      const int in_block = static_cast<int>(row % kKvBlockRows);
      const int count = min(kKeys, count_ - key);
      std::byte* to = stage_of(tile);
      load_tile<kType, kDim, kKeys, kThreads>(call_.cache, kv_head_, Side::kKeys, block, in_block, count, to);
      load_tile<kType, kDim, kKeys, kThreads>(call_.cache, kv_head_, Side::kValues, block, in_block, count,
                                              to + At::Stored::kBytes);
    }
    commit_copies();
  }

  __device__ void wait_for_stage() const {
    if (call_.stages == 2) wait_for_copies<0>();
    if (call_.stages == 3) wait_for_copies<1>();
    if (call_.stages == 4) wait_for_copies<2>();
  }

  __device__ void clean(const std::byte* stage, int count) {
    if (thread_ < kKeys) broken()[thread_] = 0;
    __syncthreads();
    std::byte* values = const_cast<std::byte*>(stage) + At::Stored::kBytes;
    if constexpr (kType == KvType::kBF16) {
      clean_values<kDim, kKeys, kThreads>(values, broken());
    } else {
      const int scales = call_.cache.scales;
      auto* scale = reinterpret_cast<float*>(values + At::Stored::kScalesOffset);
      for (int i = thread_; i < kKeys * scales; i += kThreads) {
        if (i / scales < count && isfinite(scale[i])) continue;
        scale[i] = 0;
        broken()[i / scales] = 1;
      }
    }
    __syncthreads();
  }

  using Scores = float[At::kOwnTiles][At::kOwnGroups][4];

  // The groups first_group, first_group + 4 of keys and the tiles of rows from first_tile on; dimensions
  // [half * kDim / 2, (half + 1) * kDim / 2).
  __device__ void score_half(const std::byte* keys, int first_group, int first_tile, int half, Scores& sums) const {
#pragma unroll
    for (int block = 0; block < kDim / 64; ++block) {
      const int at = half * kDim / 2 + block * 32;
      std::uint32_t b[At::kOwnGroups][4];
      float scales[At::kOwnGroups][2];
#pragma unroll
      for (int i = 0; i < At::kOwnGroups; ++i) {
        load_keys<kType, kDim, kKeys>(keys, first_group + 4 * i, at, b[i]);
        if constexpr (kType == KvType::kQ8) {
          load_key_scales<kDim, kKeys>(keys, first_group + 4 * i, at, call_.cache.scales, scales[i]);
        }
      }
#pragma unroll
      for (int tile = 0; tile < At::kOwnTiles; ++tile) {
        const std::byte* queries = shared_ + (first_tile + tile) * 16 * kMatrixPitch<kDim> + 2 * at;
        std::uint32_t a[2][4];
        load_matrices(a[0], matrix_address<kMatrixPitch<kDim>>(queries));
        load_matrices(a[1], matrix_address<kMatrixPitch<kDim>>(queries + 32));
#pragma unroll
        for (int i = 0; i < At::kOwnGroups; ++i) {
          if constexpr (kType == KvType::kBF16) {
            mma_bf16(sums[tile][i], a[0], {b[i][0], b[i][1]});
            mma_bf16(sums[tile][i], a[1], {b[i][2], b[i][3]});
          } else {
            float products[4] = {};
            mma_bf16(products, a[0], {b[i][0], b[i][1]});
            mma_bf16(products, a[1], {b[i][2], b[i][3]});
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[tile][i][j] = fmaf(products[j], scales[i][j % 2], sums[tile][i][j]);
          }
        }
      }
    }
  }

  __device__ void score(const std::byte* keys) const {
    const int group = warp_ % At::kKeyWarps;
    const int part = warp_ / At::kKeyWarps;  // of the dimensions or of the tiles
    const int first_tile = At::kHalves ? 0 : part * At::kOwnTiles;
    Scores sums = {};
    score_half(keys, group, first_tile, At::kHalves ? part : 0, sums);
    if constexpr (!At::kHalves) {
      Scores others = {};
      score_half(keys, group, first_tile, 1, others);
#pragma unroll
      for (int i = 0; i < At::kOwnTiles * At::kOwnGroups * 4; ++i) {
        float& sum = sums[i / 4 / At::kOwnGroups][i / 4 % At::kOwnGroups][i % 4];
        sum = __fadd_rn(sum, others[i / 4 / At::kOwnGroups][i / 4 % At::kOwnGroups][i % 4]);
      }
    }
    auto* scores = reinterpret_cast<float*>(shared_ + At::kScores) + (At::kHalves ? part * kRows * kScorePitch : 0);
#pragma unroll
    for (int tile = 0; tile < At::kOwnTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < At::kOwnGroups; ++i) {
        const auto& sum = sums[tile][i];
        float* to = scores + ((first_tile + tile) * 16 + lane_ / 4) * kScorePitch + (group + 4 * i) * 8 + lane_ % 4 * 2;
        *reinterpret_cast<float2*>(to) = {sum[0], sum[1]};
        *reinterpret_cast<float2*>(to + 8 * kScorePitch) = {sum[2], sum[3]};
      }
    }
  }

  // Scores become weights relative to the row's largest so far. Sums are trees over the keys, the same ones however
  // many lanes share a row.
  __device__ void weigh(int first_key, bool masked) {
    const int row = thread_ / kLanesOfRow;
    const int key = thread_ % kLanesOfRow * kKeysOfLane;
    const float* scores = reinterpret_cast<const float*>(shared_ + At::kScores) + row * kScorePitch + key;
    float weights[kKeysOfLane];
    float now = largest_;
#pragma unroll
    for (int i = 0; i < kKeysOfLane; ++i) {
      float score = At::kHalves ? __fadd_rn(scores[i], scores[i + kRows * kScorePitch]) : scores[i];
      if (masked && broken()[key + i] != 0) score = __uint_as_float(0x7fc00000U);
      weights[i] = __fmul_rn(score, call_.scale);
      if (masked && first_key + key + i >= seen()[row]) weights[i] = -HUGE_VALF;
      now = fmaxf(now, weights[i]);
    }
#pragma unroll
    for (int offset = 1; offset < kLanesOfRow; offset *= 2) now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, offset));
#pragma unroll
    for (int i = 0; i < kKeysOfLane; ++i) weights[i] = exp2f(__fsub_rn(weights[i], now));
    store_weights(row, key, weights);
#pragma unroll
    for (int step = 1; step < kKeysOfLane; step *= 2) {
#pragma unroll
      for (int i = 0; i < kKeysOfLane; i += 2 * step) weights[i] += weights[i + step];
    }
    float sum = weights[0];
#pragma unroll
    for (int offset = 1; offset < kLanesOfRow; offset *= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    const float factor = exp2f(__fsub_rn(largest_, now));
    total_ = fmaf(total_, factor, sum);
    largest_ = now;
    if (key == 0) shrink()[row] = factor;
  }

  __device__ void store_weights(int row, int key, const float (&weights)[kKeysOfLane]) const {
    auto* to = reinterpret_cast<std::uint16_t*>(shared_ + At::kWeights + row * kWeightPitch);
#pragma unroll
    for (int i = 0; i < kKeysOfLane; i += 2) {
      const std::uint32_t pair = pack_bf16(weights[i], weights[i + 1]);
      if constexpr (kType == KvType::kBF16) {
        *reinterpret_cast<std::uint32_t*>(to + key + i) = pair;
      } else {
        to[weight_column<kType>(key + i)] = static_cast<std::uint16_t>(pair);
        to[weight_column<kType>(key + i + 1)] = static_cast<std::uint16_t>(pair >> 16);
      }
    }
  }

  __device__ void add_values(const std::byte* values) {
    const int column = warp_ * kColumnTiles * 8;  // this warp's first
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const float upper = shrink()[tile * 16 + lane_ / 4];
      const float lower = shrink()[tile * 16 + lane_ / 4 + 8];
#pragma unroll
      for (int i = 0; i < kColumnTiles; ++i) {
        sums_[tile][i][0] *= upper;
        sums_[tile][i][1] *= upper;
        sums_[tile][i][2] *= lower;
        sums_[tile][i][3] *= lower;
      }
    }
#pragma unroll
    for (int key = 0; key < kKeys; key += 32) {
      std::uint32_t b[2][kColumnTiles][2];
      load_values<kType, kDim, kKeys>(values + key * At::Stored::kPitch, column, b);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        std::uint32_t scales[2];
        if constexpr (kType == KvType::kQ8) {
          load_value_scales<kDim, kKeys>(values, key + step * 16, column, call_.cache.scales, scales);
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          std::uint32_t a[4];
          load_matrices(
              a, matrix_address<kWeightPitch>(shared_ + At::kWeights + tile * 16 * kWeightPitch + 2 * key + step * 32));
          if constexpr (kType == KvType::kQ8) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = fma_bf16_pairs(a[i], scales[i / 2], 0x80008000U);
          }
#pragma unroll
          for (int i = 0; i < kColumnTiles; ++i) mma_bf16(sums_[tile][i], a, b[step][i]);
        }
      }
    }
  }

  // Results of the rows that see something of this split.
  __device__ void give() const {
    const int weighed = thread_ / kLanesOfRow;
    if (thread_ % kLanesOfRow == 0 && seen()[weighed] > 0) {
      call_.stats[part_of(weighed)] = {largest_, total_};
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = tile * 16 + half * 8 + lane_ / 4;
        if (seen()[row] == 0) continue;
        float* to = call_.sums + part_of(row) * call_.cache.width;
#pragma unroll
        for (int i = 0; i < kColumnTiles; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int n = lane_ % 4 * 2 + j;
            const int column = warp_ * kColumnTiles * 8 + (kType == KvType::kQ8 ? n * kColumnTiles + i : i * 8 + n);
            if (column < call_.cache.width) to[column] = sums_[tile][i][2 * half + j];
          }
        }
      }
    }
  }

  __device__ std::int64_t part_of(int row) const {
    return PackedRow(call_, kv_head_, first_row_ + row).number(call_) * call_.splits + blockIdx.x;
  }

  const AttentionCall& call_;
  std::byte* shared_;
  int thread_;
  int warp_;
  int lane_;
  int kv_head_;
  int first_row_;
  int rows_;
  std::int64_t first_ = 0;
  int count_ = 0;
  float largest_ = 0;  // of the row that this thread helps to weigh
  float total_ = 0;
  float sums_[kTiles][kColumnTiles][4];
};

// Grid: splits, KV heads, tiles of packed rows.
template <KvType kType, int kDim, int kTiles, int kKeys>
__global__ void __launch_bounds__(kThreads, 1) attend_small_batch(const __grid_constant__ AttentionCall call) {
  SplitReader<kType, kDim, kTiles, kKeys> reader(call, dynamic_shared<std::byte>());
  const std::int64_t most_seen = reader.seen_by(reader.rows() - 1);
  const std::int64_t first_size = keys_of_split(call, reader.seen_by(0));
  const std::int64_t last_size = keys_of_split(call, most_seen);
  if (blockIdx.x * min(first_size, last_size) >= most_seen) return;
  reader.load_queries();
  const auto attend = [&](std::int64_t size) {
    const std::int64_t first = blockIdx.x * size;
    if (first < most_seen) reader.attend(first, min(first + size, most_seen), size);
  };
  if (first_size != last_size) attend(first_size);
  attend(last_size);
}

template <KvType kType, int kDim, int kTiles, int kKeys>
AttentionKernel made(std::int64_t shared_limit) {
  using At = Layout<kType, kDim, kTiles, kKeys>;
  const auto fitting = static_cast<int>((shared_limit - At::kStages) / At::kStageBytes);
  const int stages = fitting < kMostStages ? fitting : kMostStages;
  if (stages < 2) return {};
  return {attend_small_batch<kType, kDim, kTiles, kKeys>, kThreads, At::kRows, stages, 1,
          At::kStages + stages * At::kStageBytes};
}

// The smallest that takes all rows at once, or the largest that there is room for.
template <KvType kType, int kDim, int kKeys>
AttentionKernel of_rows(int rows, std::int64_t shared_limit) {
  if (rows > 32) {
    const AttentionKernel kernel = made<kType, kDim, 4, kKeys>(shared_limit);
    if (kernel.kernel != nullptr) return kernel;
  }
  return rows > 16 ? made<kType, kDim, 2, kKeys>(shared_limit) : made<kType, kDim, 1, kKeys>(shared_limit);
}

template <KvType kType>
AttentionKernel of_width(int width, int rows, std::int64_t shared_limit) {
  if (width <= 64) return of_rows<kType, 64, 32>(rows, shared_limit);
  if (width <= 128) return of_rows<kType, 128, 32>(rows, shared_limit);
  // Models with wide heads have few of keys: one block for each multiprocessor, which must hide its own waiting. The
  // size of tiles must not depend on the number of rows.
  const bool large = made<kType, 256, 4, 64>(shared_limit).kernel != nullptr;
  return large ? of_rows<kType, 256, 64>(rows, shared_limit) : of_rows<kType, 256, 32>(rows, shared_limit);
}

}  // namespace

AttentionKernel small_batch_kernel(KvType type, int width, int rows, std::int64_t shared_limit) {
  if (!on_matrix_units(type, width)) return {};
  return type == KvType::kBF16 ? of_width<KvType::kBF16>(width, rows, shared_limit)
                               : of_width<KvType::kQ8>(width, rows, shared_limit);
}

}  // namespace lectern::engine::cuda
