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

namespace faiss {
struct IndexFlatIP;
}

namespace lectern::retrieval {

struct VectorHit {
  ChunkId chunk = 0;
  float score = 0;
};

// Any number of threads may search while one adds or removes. FAISS is handed one query at a time, for which it
// starts no threads of its own.
class VectorIndex {
 public:
  explicit VectorIndex(int dimension);
  ~VectorIndex();

  int dimension() const { return dimension_; }
  std::size_t size() const;

  // `vectors` is [chunks.size(), dimension]. Chunks that are already there are left as they are.
  void add(std::span<const ChunkId> chunks, std::span<const float> vectors);
  void remove(std::span<const ChunkId> chunks);

  // Best first, equal scores by chunk id. `among`, when given, limits the answer to those chunks.
  std::vector<VectorHit> search(std::span<const float> query, std::size_t limit,
                                const std::vector<ChunkId>* among = nullptr) const;

  // The FAISS form of the vectors of `chunks` in that order; nothing when one is missing.
  std::optional<std::string> serialize(std::span<const ChunkId> chunks) const;

  // The way back. `bytes` must have been verified: FAISS answers damaged input with wrong results, crashes and endless
  // loops. Nothing when size or shape are not as said.
  static std::unique_ptr<VectorIndex> deserialize(std::string_view bytes, int dimension,
                                                  std::span<const ChunkId> chunks);

 private:
  void compact();

  const int dimension_;
  mutable std::shared_mutex mutex_;
  // All under mutex_. chunks_[i] owns row i of index_; a removed row keeps its place until compact() and has no bit
  // in alive_ and no entry in rows_.
  std::unique_ptr<faiss::IndexFlatIP> index_;
  std::vector<ChunkId> chunks_;
  std::vector<std::uint8_t> alive_;  // one bit per row
  std::unordered_map<ChunkId, std::int64_t> rows_;
};

}  // namespace lectern::retrieval
