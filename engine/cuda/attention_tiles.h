// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/attention.h"
#include "cuda/mma.h"
#include "cuda/numbers.h"

// Tiles of keys or values in shared memory, for the matrix units.
namespace lectern::engine::cuda {

// A tile as it is in the cache: rows of kDim numbers, kPitch bytes apart so that the 8 rows of a matrix meet no bank
// twice, and behind them the scales, close together. Heads of fewer than kDim numbers end in zeros.
template <KvType kType, int kDim, int kKeys>
struct StoredTile {
  static constexpr int kRowBytes = kType == KvType::kBF16 ? 2 * kDim : kDim;
  static constexpr int kPitch = kRowBytes + (kType == KvType::kBF16 ? 16 : 32);
  static constexpr int kScalesOffset = kKeys * kPitch;
  static constexpr int kBytes = kScalesOffset + (kType == KvType::kQ8 ? kKeys * kDim / kScaleNumbers * 4 : 0);
};

// A tile of BF16 numbers, as matrix units read it.
template <int kDim>
inline constexpr int kMatrixPitch = 2 * kDim + 16;

// Finds the blocks of rows that are read in order, each a tile ahead of its use.
class BlockCursor {
 public:
  __device__ BlockCursor(const KvView& cache, std::int64_t first, std::int64_t last)
      : blocks_(cache.blocks), number_(first / kKvBlockRows), last_((last - 1) / kKvBlockRows) {
    block_ = blocks_[number_];
    next_ = number_ < last_ ? blocks_[number_ + 1] : nullptr;
  }
  __device__ const std::byte* block_of(std::int64_t row) {
    if (row / kKvBlockRows != number_) {
      ++number_;
      block_ = next_;
      next_ = number_ < last_ ? blocks_[number_ + 1] : nullptr;
    }
    return block_;
  }

 private:
  std::byte* const* blocks_;
  std::int64_t number_;
  std::int64_t last_;
  const std::byte* block_;
  const std::byte* next_;
};

// Starts copying the rows [row, row + count) of a block, kKeys at most; the rest becomes zeros, but for scales.
template <KvType kType, int kDim, int kKeys, int kThreads>
__device__ inline void load_tile(const KvView& cache, int head, Side side, const std::byte* block, int row, int count,
                                 std::byte* to) {
  using Tile = StoredTile<kType, kDim, kKeys>;
  constexpr int kChunks = Tile::kRowBytes / 16;  // of a row
  const int row_bytes = kType == KvType::kBF16 ? 2 * cache.width : cache.width;
  constexpr int kKeysAtOnce = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && (kKeys % kKeysAtOnce == 0 || kKeysAtOnce > kKeys));
  const int key = static_cast<int>(threadIdx.x) / kChunks;
  const int at = static_cast<int>(threadIdx.x) % kChunks * 16;
  if (at >= row_bytes) count = 0;
  const std::byte* from = block + cache.plane(head, side) + (row + key) * cache.stride + at;
  std::byte* into = to + key * Tile::kPitch + at;
#pragma unroll
  for (int i = 0; i < kKeys; i += kKeysAtOnce) {
    if (kKeysAtOnce > kKeys && key >= kKeys) break;
    copy_async(into + i * Tile::kPitch, from, key + i < count);
    from += kKeysAtOnce * cache.stride;
  }
  if constexpr (kType == KvType::kQ8) {
    const std::byte* scales = block + cache.scale_plane(head, side) + row * cache.scales * 4;
    const int scale = static_cast<int>(threadIdx.x) * 16;
    if (scale < kKeys * cache.scales * 4) copy_async(to + Tile::kScalesOffset + scale, scales + scale);
  }
}

// Four 8-bit codes as floats, exactly.
__device__ inline void decode_codes(std::uint32_t codes, float (&to)[4]) {
  const std::uint32_t shifted = codes ^ 0x80808080U;  // code + 128, into the last bits of 2^23
  to[0] = __uint_as_float(__byte_perm(shifted, 0x4B000000U, 0x7440U)) - 8388736.0F;
  to[1] = __uint_as_float(__byte_perm(shifted, 0x4B000000U, 0x7441U)) - 8388736.0F;
  to[2] = __uint_as_float(__byte_perm(shifted, 0x4B000000U, 0x7442U)) - 8388736.0F;
  to[3] = __uint_as_float(__byte_perm(shifted, 0x4B000000U, 0x7443U)) - 8388736.0F;
}

// Two 8-bit codes, in the bits 0 to 7 and 16 to 23, as BF16 numbers: the lower seven bits behind 128, from which 128 is
// taken away, or 256 where the eighth is set. Exact.
__device__ inline std::uint32_t codes_to_bf16(std::uint32_t codes) {
  constexpr std::uint32_t kOne = 0x3f803f80U;
  return fma_bf16_pairs((codes & 0x007f007fU) | 0x43004300U, kOne, (codes & 0x00800080U) | 0xc300c300U);
}

// Where some row does not see some key, numbers of that key's value which are infinite or none would still reach it:
// they times zero are none. They become zeros here, and `broken` says so.
template <int kDim, int kKeys, int kThreads>
__device__ inline void clean_values(std::byte* values, int* broken) {
  constexpr int kWords = kDim / 2;  // of a row
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kWords; i += kThreads) {
    const int key = i / kWords;
    auto* pair = reinterpret_cast<std::uint32_t*>(values + key * kMatrixPitch<kDim>) + i % kWords;
    const std::uint32_t bits = *pair;
    const bool low = (bits & 0x7f80U) == 0x7f80U;
    const bool high = (bits & 0x7f800000U) == 0x7f800000U;
    if (!low && !high) continue;
    *pair = bits & ((low ? 0U : 0xffffU) | (high ? 0U : 0xffff0000U));
    broken[key] = 1;
  }
}

// The address that a lane gives for four 8 x 8 matrices: those of a [16, 16] left-hand factor at `at`, in the order of
// its fragment.
template <int kPitch>
__device__ inline const std::byte* matrix_address(const std::byte* at) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return at + lane % 16 * kPitch + lane / 16 * 16;
}

}  // namespace lectern::engine::cuda
