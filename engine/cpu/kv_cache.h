// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "ops/backend.h"

namespace lectern::engine::cpu {

inline constexpr std::int64_t kGroupRows = kPanelLines;  // rows whose keys stand side by side

// The rows of a layer in blocks of kBlockRows, allocated as it grows: nothing moves. Forks share the blocks; who writes
// to a shared one copies it first, so rows that are shared can only be whole blocks and the last block's beginning.
// From kSlabBytes on the memory comes in slabs of several blocks, which the system may back by large pages: reading is
// faster.
//
// A block holds, head by head and for every kGroupRows rows, a matrix of keys [head_dim][rows] and a matrix of values
// [rows][head_dim] in panels (kernels.h), head_dim rounded up to whole panels with zeros. So the product of queries and
// keys needs no sums across a register, and both products read memory in order.
class CpuKvCache final : public KvCache {
 public:
  static constexpr std::int64_t kBlockRows = 4 * kGroupRows;
  static constexpr std::int64_t kSlabBytes = std::int64_t{2} << 20;

  CpuKvCache(const AttentionShape& shape, KvType type);

  std::int64_t length() const override { return length_; }
  void truncate(std::int64_t length) override;
  std::int64_t bytes() const override;  // shared blocks count in full with each who shares them
  std::int64_t bytes_of_row() const override { return 2 * heads_ * head_bytes(); }
  std::unique_ptr<KvCache> fork() const override;

  // Whether `rows` more could at all be addressed.
  bool can_hold(std::int64_t rows) const;
  // Afterwards the next `rows` rows can be written. Throws std::bad_alloc, and then nothing has changed.
  void make_room(std::int64_t rows);

  // Writing rows behind the last one, head by head; they count once extend() says so. Needs make_room(). The bytes are
  // those of save_rows(): row by row the keys of all heads and then their values, in the cache's precision; a head's
  // 8-bit codes are followed by their float scales.
  void write(std::int64_t head, const Tensor& k, const Tensor& v);
  void write(std::int64_t head, std::span<const std::byte> rows);
  void extend(std::int64_t rows) { length_ += rows; }
  void read(std::int64_t head, std::int64_t first, std::int64_t rows, std::byte* to) const;

  std::int64_t heads() const { return heads_; }
  std::int64_t padded_width() const { return padded_; }

  // The right-hand factors for the rows from `row` on, a multiple of kGroupRows: scores = queries keys, result +=
  // weights values. Complete but for the left-hand factor and the result.
  PanelProduct keys(std::int64_t head, std::int64_t row) const;
  PanelProduct values(std::int64_t head, std::int64_t row) const;

 private:
  // One of the blocks that share a piece of memory.
  struct Block {
    std::shared_ptr<std::byte> memory;
    std::byte* bytes = nullptr;
  };
  enum class Side : std::uint8_t { kKeys, kValues };

  std::int64_t head_bytes() const;
  std::int64_t panel_bytes(std::int64_t lines) const;
  std::int64_t matrix_bytes() const { return padded_ / kPanelColumns * panel_bytes(kGroupRows); }
  std::int64_t block_bytes() const { return heads_ * kBlockRows / kGroupRows * 2 * matrix_bytes(); }
  void add_block();
  std::shared_ptr<Block> copy_of(const Block& block) const;
  std::int64_t offset(std::int64_t head, std::int64_t row, Side side) const;
  const std::byte* matrix(std::int64_t head, std::int64_t row, Side side) const;
  std::byte* matrix(std::int64_t head, std::int64_t row, Side side);
  void encode(const float* numbers, std::byte* to) const;
  void place(std::int64_t head, std::int64_t row, Side side, const std::byte* from);
  void take(std::int64_t head, std::int64_t row, Side side, std::byte* to) const;

  template <class T, class Matrix, class Visit>
  void visit_numbers(std::int64_t row, Side side, Matrix* matrix, const Visit& visit) const;
  template <class Matrix, class Visit>
  void visit_scales(std::int64_t row, Side side, Matrix* matrix, const Visit& visit) const;
  template <class Matrix, class Visit>
  void visit(std::int64_t row, Side side, Matrix* matrix, const Visit& visit) const;

  std::int64_t heads_;
  std::int64_t width_;
  std::int64_t padded_;
  KvType type_;
  std::int64_t length_ = 0;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::vector<std::shared_ptr<Block>> spare_;  // of the last slab, the next one last; a fork has none
};

}  // namespace lectern::engine::cpu
