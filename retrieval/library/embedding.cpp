// SPDX-License-Identifier: GPL-3.0-or-later
#include "library/embedding.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <unordered_set>
#include <vector>

namespace lectern::retrieval {
namespace {

constexpr int kBatch = 32;  // small enough to stop within 200 ms on a CPU

// Empty when every vector can be stored and searched.
std::string fault_of(const std::vector<std::vector<float>>& vectors, std::size_t count, int dimension) {
  if (vectors.size() != count) return "it returned a different number of vectors than texts";
  for (const std::vector<float>& vector : vectors) {
    if (vector.size() != static_cast<std::size_t>(dimension)) return "it returned a vector of the wrong length";
    if (!std::ranges::all_of(vector, [](float x) { return std::isfinite(x); })) {
      return "it returned a vector that holds no numbers";
    }
  }
  return {};
}

struct Batch {
  std::vector<ChunkId> chunks;
  std::vector<std::string> texts;
};

Batch batch_of(std::vector<PendingChunk> pending) {
  Batch batch;
  for (PendingChunk& chunk : pending) {
    batch.chunks.push_back(chunk.id);
    batch.texts.push_back(std::move(chunk.text));
  }
  return batch;
}

// Only the vectors that were written: a document may have been removed meanwhile.
void add_to_index(Vectors& index, const EmbeddingModel& model, const Batch& batch,
                  const std::vector<std::vector<float>>& vectors, const std::vector<ChunkId>& written) {
  const std::unordered_set<ChunkId> kept(written.begin(), written.end());
  std::vector<float> flat;
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    if (kept.contains(batch.chunks[i])) flat.insert(flat.end(), vectors[i].begin(), vectors[i].end());
  }
  index.added(model, written, flat);
}

}  // namespace

Result<void> embed_missing(const IngestTools& tools, IngestProgress& progress, IngestReport& report) {
  using Clock = std::chrono::steady_clock;
  Embedder& embedder = *tools.embedder;
  RETRIEVAL_TRY(const EmbeddingModel model, tools.store.use_model(embedder.model_id(), embedder.dimension()));
  RETRIEVAL_TRY(progress.chunks_to_embed, tools.store.count_without_vector(model));
  const auto begin = Clock::now();
  const double seconds_before = progress.seconds;
  ChunkId after = 0;
  while (!tools.stop.stop_requested()) {
    RETRIEVAL_TRY(auto pending, tools.store.chunks_without_vector(model, after, kBatch));
    if (pending.empty()) {
      RETRIEVAL_CHECK(tools.store.drop_other_models(model));
      tools.vectors.save();
      return {};
    }
    const Batch batch = batch_of(std::move(pending));
    const auto vectors = embedder.embed(batch.texts, tools.stop);
    if (!vectors && vectors.error().code == ErrorCode::kCancelled) return {};
    report.embedding_error =
        vectors ? fault_of(*vectors, batch.texts.size(), model.dimension) : vectors.error().message;
    if (!report.embedding_error.empty()) return {};
    RETRIEVAL_TRY(const auto written, tools.store.put_vectors(model, batch.chunks, *vectors));
    add_to_index(tools.vectors, model, batch, *vectors, written);
    after = batch.chunks.back();
    report.embedded += static_cast<std::int64_t>(written.size());

    progress.chunks_embedded += static_cast<std::int64_t>(batch.chunks.size());
    const double spent = std::chrono::duration<double>(Clock::now() - begin).count();
    progress.seconds = seconds_before + spent;
    progress.seconds_left = spent * static_cast<double>(progress.chunks_to_embed - progress.chunks_embedded) /
                            static_cast<double>(progress.chunks_embedded);
    tools.sink.on_progress(progress);
  }
  return {};
}

}  // namespace lectern::retrieval
