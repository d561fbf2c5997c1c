// SPDX-License-Identifier: GPL-3.0-or-later
// Nearest vectors by inner product, exact. Derived from the store; never the only copy of anything.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "retrieval/types.h"
#include "search/flat_vectors.h"

namespace lectern::retrieval {

struct VectorHit {
  ChunkId chunk = 0;
  float score = 0;
};

// Any number of threads may search while one adds or removes.
class VectorIndex {
 public:
  explicit VectorIndex(int dimension) : dimension_(dimension), vectors_(dimension) {}

  int dimension() const { return dimension_; }
  std::size_t size() const;

  // `vectors` is [chunks.size(), dimension]. Chunks that are already there are left as they are.
  void add(std::span<const ChunkId> chunks, std::span<const float> vectors);
  void remove(std::span<const ChunkId> chunks);

  // Best first, equal scores by chunk id. `among`, when given, limits the answer to those chunks.
  std::vector<VectorHit> search(std::span<const float> query, std::size_t limit,
                                const std::vector<ChunkId>* among = nullptr) const;

  // The bytes of the vectors of `chunks` in that order; nothing when one is missing.
  std::optional<std::string> serialize(std::span<const ChunkId> chunks) const;

  // The way back, for bytes that have been verified. Nothing when size or shape are not as said.
  static std::unique_ptr<VectorIndex> deserialize(std::string_view bytes, int dimension,
                                                  std::span<const ChunkId> chunks);

 private:
  void compact();

  const int dimension_;
  mutable std::shared_mutex mutex_;
  // All under mutex_. chunks_[i] owns row i of vectors_; a removed row keeps its place until compact() and has no bit
  // in alive_ and no entry in rows_.
  FlatVectors vectors_;
  std::vector<ChunkId> chunks_;
  std::vector<std::uint8_t> alive_;  // one bit per row
  std::unordered_map<ChunkId, std::int64_t> rows_;
};

}  // namespace lectern::retrieval
