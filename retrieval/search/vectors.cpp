// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/vectors.h"

#include "search/vector_file.h"

namespace lectern::retrieval {
namespace {

// Rebuilding from SQLite takes about 0.3 s per 100,000 vectors of 384 floats, reading the file a third of that.
constexpr std::size_t kWorthAFile = 50'000;
constexpr const char* kFileName = "vectors.faiss";

}  // namespace

Result<std::shared_ptr<VectorIndex>> Vectors::build(const EmbeddingModel& model) const {
  RETRIEVAL_TRY(const std::vector<ChunkId> chunks, store_.vector_ids(model));
  if (chunks.size() >= kWorthAFile) {
    RETRIEVAL_TRY(const StoreVersion version, store_.version());
    if (auto loaded = load_vectors(store_.directory() / kFileName, {version, model, chunks})) {
      return std::shared_ptr<VectorIndex>(std::move(loaded));
    }
  }
  auto index = std::make_shared<VectorIndex>(model.dimension);
  RETRIEVAL_TRY([[maybe_unused]] const StoreVersion version,
                store_.each_vector(model, [&](ChunkId chunk, std::span<const float> vector) {
                  index->add(std::span(&chunk, 1), vector);
                }));
  return index;
}

Result<std::shared_ptr<const VectorIndex>> Vectors::index(const std::string& model) {
  const std::lock_guard lock(mutex_);
  if (!index_ || model_->name != model) {
    RETRIEVAL_TRY(const std::optional<EmbeddingModel> known, store_.model(model));
    if (!known) return std::shared_ptr<const VectorIndex>();
    RETRIEVAL_TRY(index_, build(*known));
    model_ = known;
  }
  return std::shared_ptr<const VectorIndex>(index_);
}

void Vectors::added(const EmbeddingModel& model, std::span<const ChunkId> chunks, std::span<const float> vectors) {
  const std::lock_guard lock(mutex_);
  if (index_ && model_->name == model.name) index_->add(chunks, vectors);
}

void Vectors::removed(std::span<const ChunkId> chunks) {
  const std::lock_guard lock(mutex_);
  if (index_) index_->remove(chunks);
}

void Vectors::save() {
  const std::lock_guard lock(mutex_);
  if (!index_ || index_->size() < kWorthAFile) return;
  const auto version = store_.version();
  const auto chunks = store_.vector_ids(*model_);
  if (!version || !chunks) return;
  (void)save_vectors(store_.directory() / kFileName, {*version, *model_, *chunks}, *index_);
}

}  // namespace lectern::retrieval
