// SPDX-License-Identifier: GPL-3.0-or-later
// The vector cache file: a FAISS index in a checksummed envelope (layout in retrieval/README.md). Whatever is wrong
// with it, the answer is the same: nothing is loaded, and the index is rebuilt from the store.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "retrieval/result.h"
#include "search/vector_index.h"
#include "store/store.h"

namespace lectern::retrieval {

// What a file must have been made from to be used.
struct VectorFileKey {
  StoreVersion version;
  EmbeddingModel model;
  std::span<const ChunkId> chunks;  // ascending; all that have a vector
};

Result<void> save_vectors(const std::filesystem::path& file, const VectorFileKey& key, const VectorIndex& index);

std::unique_ptr<VectorIndex> load_vectors(const std::filesystem::path& file, const VectorFileKey& key);

}  // namespace lectern::retrieval
