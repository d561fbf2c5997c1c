// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/attention_tiles.h"

// Right-hand factors of the matrix units straight from tiles of keys and values as they are in the cache. 8-bit codes
// become BF16 numbers without their scales, in the order in which a lane reads them most easily: the left-hand factors
// are stored in that order too.
namespace lectern::engine::cuda {

// Column of dimension `i` in the queries: a lane reads 8 codes of a key at a time.
template <KvType kType>
__device__ inline int query_column(int i) {
  if constexpr (kType != KvType::kQ8) return i;
  const int in_group = i % 32;
  const int lane = in_group / 8;
  const int in_step = in_group % 4;
  return i / 32 * 32 + in_group % 8 / 4 * 16 + 2 * lane + in_step % 2 + in_step / 2 * 8;
}

// Column of key `i` in the weights: the values' codes of keys t, t + 4, t + 8 and t + 12 are lane t's.
template <KvType kType>
__device__ inline int weight_column(int i) {
  if constexpr (kType != KvType::kQ8) return i;
  return i / 8 * 8 + i % 4 * 2 + i % 8 / 4;
}

// 32 dimensions of a group of eight keys, for two products of depth 16, from dimension `at` on.
template <KvType kType, int kDim, int kKeys>
__device__ inline void load_keys(const std::byte* keys, int group, int at, std::uint32_t (&to)[4]) {
  constexpr int kPitch = StoredTile<kType, kDim, kKeys>::kPitch;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (kType == KvType::kBF16) {
    load_matrices(to, keys + (group * 8 + lane % 8) * kPitch + 2 * at + lane / 8 * 16);
  } else {
    const auto codes = *reinterpret_cast<const uint2*>(keys + (group * 8 + lane / 4) * kPitch + at + lane % 4 * 8);
    to[0] = codes_to_bf16(__byte_perm(codes.x, 0, 0x4140U));
    to[1] = codes_to_bf16(__byte_perm(codes.x, 0, 0x4342U));
    to[2] = codes_to_bf16(__byte_perm(codes.y, 0, 0x4140U));
    to[3] = codes_to_bf16(__byte_perm(codes.y, 0, 0x4342U));
  }
}

// Of the keys in this lane's two columns of the products. `scales`: of a key.
template <int kDim, int kKeys>
__device__ inline void load_key_scales(const std::byte* keys, int group, int at, int scales, float (&to)[2]) {
  const auto* from =
      reinterpret_cast<const float*>(keys + StoredTile<KvType::kQ8, kDim, kKeys>::kScalesOffset) + at / kScaleNumbers;
  const int key = group * 8 + static_cast<int>(threadIdx.x) % 4 * 2;
  const bool there = at / kScaleNumbers < scales;
  to[0] = there ? from[key * scales] : 0.0F;
  to[1] = there ? from[(key + 1) * scales] : 0.0F;
}

// kTiles neighbouring codes of this lane's four keys, which are four rows apart.
template <int kPitch, int kTiles>
__device__ inline void decode_values(const std::byte* codes, std::uint32_t (&to)[kTiles][2]) {
  std::uint32_t of_key[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::byte* from = codes + 4 * i * kPitch;
    if constexpr (kTiles == 4) of_key[i] = *reinterpret_cast<const std::uint32_t*>(from);
    if constexpr (kTiles == 2) of_key[i] = *reinterpret_cast<const std::uint16_t*>(from);
    if constexpr (kTiles == 1) of_key[i] = *reinterpret_cast<const std::uint8_t*>(from);
  }
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const unsigned choice = 0x0400U + static_cast<unsigned>(j) * 0x0101U;  // byte j of each of two words
    to[j][0] = codes_to_bf16(__byte_perm(of_key[0], of_key[1], choice));
    to[j][1] = codes_to_bf16(__byte_perm(of_key[2], of_key[3], choice));
  }
}

// Of 32 keys the tiles of eight columns from `column` on: [step of 16 keys][tile]. The n-th column of tile i is column
// i * 8 + n, of codes column n * kTiles + i.
template <KvType kType, int kDim, int kKeys, int kTiles>
__device__ inline void load_values(const std::byte* values, int column, std::uint32_t (&to)[2][kTiles][2]) {
  constexpr int kPitch = StoredTile<kType, kDim, kKeys>::kPitch;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (kType == KvType::kQ8) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      decode_values<kPitch>(values + (step * 16 + lane % 4) * kPitch + column + lane / 4 * kTiles, to[step]);
    }
  } else if constexpr (kTiles == 1) {
    std::uint32_t part[4];
    load_matrices_transposed(part, values + lane * kPitch + 2 * column);
    to[0][0][0] = part[0];
    to[0][0][1] = part[1];
    to[1][0][0] = part[2];
    to[1][0][1] = part[3];
  } else {
#pragma unroll
    for (int i = 0; i < 2 * kTiles; i += 2) {
      const int step = i / kTiles;
      const int tile = i % kTiles;
      std::uint32_t part[4];
      load_matrices_transposed(part, matrix_address<kPitch>(values + step * 16 * kPitch + 2 * column + 16 * tile));
      to[step][tile][0] = part[0];
      to[step][tile][1] = part[1];
      to[step][tile + 1][0] = part[2];
      to[step][tile + 1][1] = part[3];
    }
  }
}

// Of the codes in the columns from `column` on, for 16 keys, as the weights of these are laid out: they are multiplied
// into the weights. Behind the last scale the codes are zeros.
template <int kDim, int kKeys>
__device__ inline void load_value_scales(const std::byte* values, int first_key, int column, int scales,
                                         std::uint32_t (&to)[2]) {
  const auto* from = reinterpret_cast<const float*>(values + StoredTile<KvType::kQ8, kDim, kKeys>::kScalesOffset) +
                     (first_key + static_cast<int>(threadIdx.x) % 4) * scales + min(column / kScaleNumbers, scales - 1);
  to[0] = pack_bf16(from[0], from[4 * scales]);
  to[1] = pack_bf16(from[8 * scales], from[12 * scales]);
}

}  // namespace lectern::engine::cuda
