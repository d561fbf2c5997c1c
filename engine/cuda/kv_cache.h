// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/platform.h"
#include "engine/types.h"
#include "ops/backend.h"

namespace lectern::engine::cuda {

inline constexpr int kKvBlockRows = 256;
inline constexpr int kMostKvBlocks = 8192;  // of one cache: 2 M rows
inline constexpr int kScaleNumbers = 32;    // 8-bit codes with a common scale

enum class Side : std::uint8_t { kKeys, kValues };

// What kernels know of a cache. A block holds for every head a plane of keys [rows][stride] and a plane of values, and
// behind all of them, for 8-bit codes, such planes of scales [rows][scales].
struct KvView {
  std::byte* const* blocks;  // on the device
  int heads;
  int width;   // numbers of a head
  int stride;  // bytes from row to row, a multiple of 16
  int scales;  // of a row; 0 unless the numbers are 8-bit codes

  __device__ std::byte* block(std::int64_t row) const { return blocks[row / kKvBlockRows]; }
  // Within a block, for the rows of one head.
  __device__ std::int64_t plane(int head, Side side) const {
    return static_cast<std::int64_t>(2 * head + static_cast<int>(side)) * kKvBlockRows * stride;
  }
  __device__ std::int64_t scale_plane(int head, Side side) const {
    return static_cast<std::int64_t>(2 * heads) * kKvBlockRows * stride +
           static_cast<std::int64_t>(2 * head + static_cast<int>(side)) * kKvBlockRows * scales * 4;
  }
  __device__ std::byte* row(std::int64_t row, int head, Side side) const {
    return block(row) + plane(head, side) + row % kKvBlockRows * stride;
  }
  __device__ float* row_scales(std::int64_t row, int head, Side side) const {
    return reinterpret_cast<float*>(block(row) + scale_plane(head, side)) + row % kKvBlockRows * scales;
  }
};

// A piece of device memory, given back by the last who holds it.
class KvPiece {
 public:
  // Null: there is no room.
  static std::shared_ptr<KvPiece> take(HeapMemory& memory, std::int64_t bytes);
  KvPiece(HeapMemory& memory, std::byte* data) : memory_(memory), data_(data) {}
  ~KvPiece() { memory_.give_back(data_); }
  KvPiece(const KvPiece&) = delete;
  KvPiece& operator=(const KvPiece&) = delete;

  std::byte* data() const { return data_; }

 private:
  HeapMemory& memory_;
  std::byte* data_;
};

// The rows of a layer in blocks, taken as it grows: nothing moves. Forks share blocks; who appends to a shared one
// copies it first. Where the blocks are, kernels read from a table, which stays where it is while the cache grows.
class CudaKvCache final : public KvCache {
 public:
  CudaKvCache(const AttentionShape& shape, KvType type, HeapMemory& memory);

  std::int64_t length() const override { return length_; }
  void truncate(std::int64_t length) override;
  std::int64_t bytes() const override;  // shared blocks count in full with each who shares them
  std::int64_t bytes_of_row() const override { return 2 * heads_ * head_bytes(); }
  std::unique_ptr<KvCache> fork() const override;

  // Afterwards the next `rows` rows can be written. cudaErrorMemoryAllocation: there is no room, nothing has changed.
  cudaError_t make_room(std::int64_t rows, cudaStream_t stream);
  // A fork has no table before it is used: make_room() makes it, or this.
  cudaError_t make_table(cudaStream_t stream) const;
  void extend(std::int64_t rows) { length_ += rows; }

  KvType type() const { return type_; }
  std::int64_t number_bytes() const;                                                 // of one number
  std::int64_t head_bytes() const { return width_ * number_bytes() + 4 * scales_; }  // in the form of save_rows()
  std::int64_t block_bytes() const { return 2 * heads_ * kKvBlockRows * (stride() + 4 * scales_); }
  KvView view() const;  // after make_room() or make_table()

 private:
  using Pieces = std::vector<std::shared_ptr<KvPiece>>;

  CudaKvCache(const CudaKvCache&) = default;
  std::int64_t stride() const { return (width_ * number_bytes() + 15) / 16 * 16; }
  bool add_blocks(std::int64_t rows, Pieces& blocks) const;
  cudaError_t write_table(std::size_t first, cudaStream_t stream) const;

  std::int64_t heads_;
  std::int64_t width_;
  KvType type_;
  std::int64_t scales_;
  HeapMemory* memory_;
  std::int64_t length_ = 0;
  Pieces blocks_;
  mutable std::shared_ptr<KvPiece> table_;  // not shared
};

}  // namespace lectern::engine::cuda
