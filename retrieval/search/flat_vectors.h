// SPDX-License-Identifier: GPL-3.0-or-later
// Rows of numbers and the ones nearest to a query, by inner product, exact. Two files define this class: FAISS does the
// work where the distribution has it, plain loops where not (Ubuntu 24.04). Not safe for threads by itself.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lectern::retrieval {

struct NearRow {
  std::size_t row = 0;
  float score = 0;
};

class FlatVectors {
 public:
  explicit FlatVectors(int dimension);
  FlatVectors(FlatVectors&&) noexcept;
  FlatVectors& operator=(FlatVectors&&) noexcept;
  ~FlatVectors();

  std::size_t rows() const;
  std::span<const float> row(std::size_t index) const;
  void add(std::span<const float> row);

  // At most `count`, in no order, of the rows whose bit is set in `among`; of all when it is empty.
  std::vector<NearRow> nearest(std::span<const float> query, std::size_t count,
                               std::span<const std::uint8_t> among) const;

  std::string serialize() const;
  // The way back. `bytes` must have been verified: FAISS answers damaged input with wrong results, crashes and endless
  // loops. Nothing when size or shape are not as said, or another build wrote them.
  static std::unique_ptr<FlatVectors> deserialize(std::string_view bytes, int dimension, std::size_t rows);

 private:
  struct Storage;
  std::unique_ptr<Storage> storage_;
};

}  // namespace lectern::retrieval
