// SPDX-License-Identifier: Apache-2.0
// Attention of many tokens on the matrix units, tile by tile of keys and values (Dao 2023, "FlashAttention-2"). While
// one of these two is being multiplied the other is on its way. Two warps share 32 packed rows: each scores half of a
// tile's keys, then adds up half of the values' columns, so that what is read from shared memory serves 32 rows.
#include "cuda/attention.h"
#include "cuda/attention_tiles.h"

namespace lectern::engine::cuda {
namespace {

// Shared memory: queries, keys, values and weights as BF16 matrices; 8-bit codes arrive in a place of their own.
template <KvType kType, int kDim, int kWarps, int kKeys>
struct Layout {
  using Stored = StoredTile<kType, kDim, kKeys>;
  static constexpr int kRows = 16 * kWarps;
  static constexpr int kPitch = kMatrixPitch<kDim>;
  static constexpr int kMatrixBytes = kKeys * kPitch;
  static constexpr int kKeysAt = kRows * kPitch;
  static constexpr int kValuesAt = kKeysAt + kMatrixBytes;
  static constexpr int kCodesAt = kValuesAt + kMatrixBytes;
  static constexpr int kWeightsAt = kCodesAt + (kType == KvType::kQ8 ? Stored::kBytes : 0);
  static constexpr int kWeightPitch = 2 * kKeys + 16;
  static constexpr int kRowsAt = kWeightsAt + kRows * kWeightPitch;  // a number of each row from both warps
  static constexpr int kBrokenAt = kRowsAt + 2 * kRows * 4;
  static constexpr int kBytes = kBrokenAt + kKeys * 4;
};

template <KvType kType, int kDim, int kWarps, int kKeys>
class FlashTile {
  using At = Layout<kType, kDim, kWarps, kKeys>;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kPitch = At::kPitch;
  static constexpr int kKeyTiles = kKeys / 16;    // of 8 keys, of this warp
  static constexpr int kColumnTiles = kDim / 16;  // of 8 columns, of this warp
  using Scores = float[2][kKeyTiles][4];          // of two tiles of 16 rows

 public:
  __device__ FlashTile(const AttentionCall& call, std::byte* shared, int first_row)
      : call_(call),
        shared_(shared),
        thread_(static_cast<int>(threadIdx.x)),
        lane_(thread_ % kWarp),
        warp_row_(thread_ / kWarp / 2 * 32),
        half_(thread_ / kWarp % 2),
        kv_head_(static_cast<int>(blockIdx.y)),
        first_row_(first_row),
        rows_(min(At::kRows, call.rows * call.group - first_row)) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      total_[i] = 0;
      largest_[i] = kNoScore;
    }
#pragma unroll
    for (auto& tile : sums_) {
#pragma unroll
      for (auto& columns : tile) {
#pragma unroll
        for (float& sum : columns) sum = 0;
      }
    }
  }

  __device__ std::int64_t seen_by(int row) const { return PackedRow(call_, kv_head_, first_row_ + row).seen(call_); }

  __device__ void load_queries() {
    for (int i = thread_; i < At::kRows * kDim / 2; i += kThreads) {
      const int row = i / (kDim / 2);
      const int at = i % (kDim / 2) * 2;
      float numbers[2] = {};
      if (row < rows_ && at < call_.cache.width) {
        const float* from = call_.q + PackedRow(call_, kv_head_, first_row_ + row).offset(call_) + at;
        numbers[0] = from[0];
        numbers[1] = from[1];
      }
      *reinterpret_cast<std::uint32_t*>(shared_ + row * kPitch + 2 * at) = pack_bf16(numbers[0], numbers[1]);
    }
  }

  // Keys [first, last).
  __device__ void attend(std::int64_t first, std::int64_t last) {
    const int count = static_cast<int>(last - first);
    const int all_see = static_cast<int>(max(std::int64_t{0}, min(last, seen_by(0)) - first));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t sees = row_of(i) < rows_ ? seen_by(row_of(i)) - first : 0;
      seen_[i] = static_cast<int>(max(std::int64_t{0}, min(std::int64_t{count}, sees)));
    }
    BlockCursor cursor(call_.cache, first, last);
    load(cursor.block_of(first), first, count, Side::kKeys);
    for (int key = 0; key < count; key += kKeys) {
      const bool masked = key + kKeys > all_see;
      wait_for_copies<0>();
      __syncthreads();  // the keys are there; values and weights have been used
      if constexpr (kType == KvType::kQ8) decode(At::kKeysAt);
      load(cursor.block_of(first + key), first + key, count - key, Side::kValues);
      Scores scores = {};
      score(scores);
      if (!masked) give_largest(scores);
      wait_for_copies<0>();
      __syncthreads();  // the values are there; the keys have been used
      if constexpr (kType == KvType::kQ8) decode(At::kValuesAt);
      if (key + kKeys < count) {
        const std::int64_t next = first + key + kKeys;
        load(cursor.block_of(next), next, count - key - kKeys, Side::kKeys);
      }
      if (masked) {
        mask(key, scores);
        give_largest(scores);
        __syncthreads();
      }
      weigh(scores);
      __syncthreads();
      add_values();
    }
  }

  __device__ void give() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float total = total_[i];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      if (lane_ % 4 == 0) of_row(half_, i) = total;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (seen_[i] == 0) continue;
      const float total = of_row(0, i) + of_row(1, i);
      const PackedRow row(call_, kv_head_, first_row_ + row_of(i));
      const std::int64_t part = row.number(call_) * call_.splits + blockIdx.x;
      const bool whole = call_.sums == nullptr;
      float* to = whole ? call_.y + row.offset(call_) : call_.sums + part * call_.cache.width;
      if (!whole && half_ == 0 && lane_ % 4 == 0) call_.stats[part] = {largest_[i], total};
      const float factor = whole ? 1.0F / total : 1.0F;
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile) {
        const int column = half_ * kDim / 2 + tile * 8 + lane_ % 4 * 2;
        if (column >= call_.cache.width) break;
        to[column] = sums_[i / 2][tile][i % 2 * 2] * factor;
        to[column + 1] = sums_[i / 2][tile][i % 2 * 2 + 1] * factor;
      }
    }
  }

 private:
  __device__ int* broken() const { return reinterpret_cast<int*>(shared_ + At::kBrokenAt); }
  // The i-th of this lane's four rows.
  __device__ int row_of(int i) const { return warp_row_ + i * 8 + lane_ / 4; }
  __device__ float& of_row(int half, int i) const {
    return reinterpret_cast<float*>(shared_ + At::kRowsAt)[half * At::kRows + row_of(i)];
  }

  __device__ void load(const std::byte* block, std::int64_t row, int count, Side side) const {
    const int place = kType == KvType::kQ8 ? At::kCodesAt : side == Side::kKeys ? At::kKeysAt : At::kValuesAt;
    load_tile<kType, kDim, kKeys, kThreads>(call_.cache, kv_head_, side, block, static_cast<int>(row % kKvBlockRows),
                                            min(kKeys, count), shared_ + place);
    commit_copies();
  }

  // Codes become the BF16 numbers nearest to code * scale. Their place is free afterwards.
  __device__ void decode(int place) const {
    constexpr int kQuads = kDim / 4;  // of a row
    const std::byte* codes = shared_ + At::kCodesAt;
    const auto* scales = reinterpret_cast<const float*>(codes + At::Stored::kScalesOffset);
    const int count = call_.cache.scales;
#pragma unroll 2
    for (int i = thread_; i < kKeys * kQuads; i += kThreads) {
      const int key = i / kQuads;
      const int at = i % kQuads * 4;
      const float scale = at / kScaleNumbers < count ? scales[key * count + at / kScaleNumbers] : 0.0F;
      float numbers[4];
      decode_codes(*reinterpret_cast<const std::uint32_t*>(codes + key * At::Stored::kPitch + at), numbers);
      *reinterpret_cast<uint2*>(shared_ + place + key * kPitch + 2 * at) = {
          pack_bf16(numbers[0] * scale, numbers[1] * scale), pack_bf16(numbers[2] * scale, numbers[3] * scale)};
    }
    __syncthreads();
  }

  __device__ void score(Scores& scores) const {
    const std::byte* queries = matrix_address<kPitch>(shared_ + warp_row_ * kPitch);
    // Keys 0 to 7 and 8 to 15 of a pair of tiles, for both halves of the depth.
    const int key = half_ * kKeys / 2 + lane_ / 16 * 8 + lane_ % 8;
    const std::byte* keys = shared_ + At::kKeysAt + key * kPitch + lane_ / 8 % 2 * 16;
#pragma unroll 2
    for (int step = 0; step < kDim / 16; ++step) {
      std::uint32_t a[2][4];
      load_matrices(a[0], queries + step * 32);
      load_matrices(a[1], queries + 16 * kPitch + step * 32);
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; tile += 2) {
        std::uint32_t b[4];
        load_matrices(b, keys + tile * 8 * kPitch + step * 32);
#pragma unroll
        for (int rows = 0; rows < 2; ++rows) {
          mma_bf16(scores[rows][tile], a[rows], {b[0], b[1]});
          mma_bf16(scores[rows][tile + 1], a[rows], {b[2], b[3]});
        }
      }
    }
  }

  // For tiles of which some row does not see some key.
  __device__ void mask(int first_key, Scores& scores) const {
    if (thread_ < kKeys) broken()[thread_] = 0;
    __syncthreads();
    clean_values<kDim, kKeys, kThreads>(shared_ + At::kValuesAt, broken());
    __syncthreads();
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int key = half_ * kKeys / 2 + tile * 8 + lane_ % 4 * 2 + i % 2;
        float& score = scores[i / 4][tile][i % 4];
        if (broken()[key] != 0) score = __uint_as_float(0x7fc00000U);
        if (first_key + key >= seen_[i / 2]) score = -HUGE_VALF;
      }
    }
  }

  // Tells the other warp of these rows.
  __device__ void give_largest(const Scores& scores) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float largest = -HUGE_VALF;
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
        const auto& own = scores[i / 2][tile];
        largest = fmaxf(largest, fmaxf(own[i % 2 * 2], own[i % 2 * 2 + 1]));
      }
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
      if (lane_ % 4 == 0) of_row(half_, i) = largest;
    }
  }

  // Scores become weights relative to the row's largest so far; sums shrink accordingly.
  __device__ void weigh(const Scores& scores) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float now = fmaxf(largest_[i], fmaxf(of_row(0, i), of_row(1, i)) * call_.scale);
      const float shrink = exp2f(largest_[i] - now);
      largest_[i] = now;
      std::byte* to = shared_ + At::kWeightsAt + row_of(i) * At::kWeightPitch + half_ * kKeys + lane_ % 4 * 4;
      float total = 0;
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
        const auto& own = scores[i / 2][tile];
        const float first = exp2f(fmaf(own[i % 2 * 2], call_.scale, -now));
        const float second = exp2f(fmaf(own[i % 2 * 2 + 1], call_.scale, -now));
        total += first + second;
        *reinterpret_cast<std::uint32_t*>(to + tile * 16) = pack_bf16(first, second);
      }
      total_[i] = fmaf(total_[i], shrink, total);
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile) {
        sums_[i / 2][tile][i % 2 * 2] *= shrink;
        sums_[i / 2][tile][i % 2 * 2 + 1] *= shrink;
      }
    }
  }

  __device__ void add_values() {
    const std::byte* weights =
        matrix_address<At::kWeightPitch>(shared_ + At::kWeightsAt + warp_row_ * At::kWeightPitch);
    const std::byte* values = matrix_address<kPitch>(shared_ + At::kValuesAt + half_ * kDim);
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      std::uint32_t a[2][4];
      load_matrices(a[0], weights + step * 32);
      load_matrices(a[1], weights + 16 * At::kWeightPitch + step * 32);
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; tile += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(b, values + step * 16 * kPitch + tile * 16);
#pragma unroll
        for (int rows = 0; rows < 2; ++rows) {
          mma_bf16(sums_[rows][tile], a[rows], {b[0], b[1]});
          mma_bf16(sums_[rows][tile + 1], a[rows], {b[2], b[3]});
        }
      }
    }
  }

  const AttentionCall& call_;
  std::byte* shared_;
  int thread_;
  int lane_;
  int warp_row_;  // first of the warp's rows
  int half_;      // of the keys and of the columns
  int kv_head_;
  int first_row_;
  int rows_;
  int seen_[4];  // keys of the range, by this lane's rows
  float largest_[4];
  float total_[4];  // of the weights that this lane computed
  float sums_[2][kColumnTiles][4];
};

// Grid: splits, KV heads, tiles of packed rows.
template <KvType kType, int kDim, int kWarps, int kKeys>
__global__ void __launch_bounds__(kWarps* kWarp, 1) attend_flash(const __grid_constant__ AttentionCall call) {
  constexpr int kRows = 16 * kWarps;
  // Later rows see more keys: they come first.
  const int tile = call.tiles - 1 - static_cast<int>(blockIdx.z);
  FlashTile<kType, kDim, kWarps, kKeys> worker(call, dynamic_shared<std::byte>(), tile * kRows);
  const int last_row = min(kRows, call.rows * call.group - tile * kRows) - 1;
  const std::int64_t first = blockIdx.x * call.split_keys;
  const std::int64_t last = min(first + call.split_keys, worker.seen_by(last_row));
  if (first >= last) return;
  worker.load_queries();
  worker.attend(first, last);
  worker.give();
}

template <KvType kType, int kDim, int kWarps, int kKeys>
AttentionKernel made() {
  return {attend_flash<kType, kDim, kWarps, kKeys>,  kWarps * kWarp, 16 * kWarps, 0, 1,
          Layout<kType, kDim, kWarps, kKeys>::kBytes};
}

template <KvType kType, int kDim>
AttentionKernel of_room(std::int64_t shared_limit) {
  const AttentionKernel large = made<kType, kDim, 8, 64>();
  return large.shared_bytes <= shared_limit ? large : made<kType, kDim, 4, 32>();
}

template <KvType kType>
AttentionKernel of_width(int width, std::int64_t shared_limit) {
  if (width <= 64) return of_room<kType, 64>(shared_limit);
  if (width <= 128) return of_room<kType, 128>(shared_limit);
  return of_room<kType, 256>(shared_limit);
}

}  // namespace

AttentionKernel flash_kernel(KvType type, int width, std::int64_t shared_limit) {
  if (!on_matrix_units(type, width)) return {};
  return type == KvType::kBF16 ? of_width<KvType::kBF16>(width, shared_limit)
                               : of_width<KvType::kQ8>(width, shared_limit);
}

}  // namespace lectern::engine::cuda
