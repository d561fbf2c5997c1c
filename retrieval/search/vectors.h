// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "search/vector_index.h"
#include "store/store.h"

namespace lectern::retrieval {

// Keeps the vector index of one embedding model in step with the store. Reads the index on first use: from the cache
// file when that matches, else from SQLite.
class Vectors {
 public:
  explicit Vectors(const Store& store) : store_(store) {}

  // The index of `model`; nothing when the library holds no vectors of that name. Error: kCorrupt, kStorage.
  Result<std::shared_ptr<const VectorIndex>> index(const std::string& model);

  // Called after the store has committed the same change.
  void added(const EmbeddingModel& model, std::span<const ChunkId> chunks, std::span<const float> vectors);
  void removed(std::span<const ChunkId> chunks);

  // Writes the cache file when the library is large enough for it to pay. Failing to is no error: it is a cache.
  void save();

 private:
  Result<std::shared_ptr<VectorIndex>> build(const EmbeddingModel& model) const;

  const Store& store_;
  std::mutex mutex_;
  std::optional<EmbeddingModel> model_;  // under mutex_: which model index_ holds
  std::shared_ptr<VectorIndex> index_;   // under mutex_
};

}  // namespace lectern::retrieval
