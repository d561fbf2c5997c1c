// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/search.h"

#include <algorithm>
#include <map>

#include "search/text_search.h"
#include "store/rows.h"

namespace lectern::retrieval {
namespace {

constexpr double kRankOffset = 60;
constexpr int kDepth = 100;  // of each ranking, at least
constexpr int kMostHits = 1000;

// Vectors are a help, not a condition: without an answer from the embedder, words alone decide.
Result<std::vector<ChunkId>> rank_by_vectors(const Store& store, Vectors& vectors, const std::string& query,
                                             const SearchOptions& options, Embedder& embedder, std::size_t depth,
                                             const std::stop_token& stop) {
  std::vector<ChunkId> ranked;
  RETRIEVAL_TRY(const std::shared_ptr<const VectorIndex> index, vectors.index(embedder.model_id()));
  if (!index || index->size() == 0) return ranked;
  const auto embedded = embedder.embed(std::span(&query, 1), stop);
  if (!embedded && embedded.error().code == ErrorCode::kCancelled) return embedded.error();
  if (!embedded || embedded->size() != 1) return ranked;
  std::vector<ChunkId> among;
  if (!options.documents.empty()) {
    RETRIEVAL_TRY(among, store.chunk_ids(options.documents));
  }
  for (const VectorHit& hit : index->search(embedded->front(), depth, options.documents.empty() ? nullptr : &among)) {
    ranked.push_back(hit.chunk);
  }
  return ranked;
}

SearchHit hit_of(ChunkId id, const StoredChunk& stored) {
  SearchHit hit;
  hit.chunk = id;
  hit.document = stored.document;
  hit.title = stored.title;
  hit.path = stored.path;
  hit.heading = stored.chunk.heading;
  hit.text = stored.chunk.text;
  if (stored.kind == DocumentKind::kPdf && !stored.chunk.runs.empty()) hit.page = stored.chunk.runs.front().page + 1;
  hit.first_line = stored.chunk.first_line;
  hit.last_line = stored.chunk.last_line;
  return hit;
}

// The best `limit` of the ranked chunks; those that were removed since they were ranked are left out.
std::vector<SearchHit> read_hits(const Database& database, const std::vector<FusedHit>& ranked, std::size_t limit) {
  std::vector<SearchHit> hits;
  for (auto next = ranked.begin(); next != ranked.end() && hits.size() < limit; ++next) {
    for (const auto& [id, stored] : read_chunks(database, std::span(&next->chunk, 1))) {
      SearchHit hit = hit_of(id, stored);
      hit.score = next->score;
      hit.word_rank = next->word_rank;
      hit.vector_rank = next->vector_rank;
      hits.push_back(std::move(hit));
    }
  }
  return hits;
}

}  // namespace

std::vector<FusedHit> fuse(const std::vector<ChunkId>& by_words, const std::vector<ChunkId>& by_vectors) {
  std::map<ChunkId, FusedHit> fused;
  const auto add = [&](const std::vector<ChunkId>& ranking, int FusedHit::*rank) {
    for (std::size_t i = 0; i < ranking.size(); ++i) {
      FusedHit& hit = fused[ranking[i]];
      hit.chunk = ranking[i];
      hit.*rank = static_cast<int>(i) + 1;
      hit.score += 1.0 / (kRankOffset + static_cast<double>(i + 1));
    }
  };
  add(by_words, &FusedHit::word_rank);
  add(by_vectors, &FusedHit::vector_rank);
  std::vector<FusedHit> hits;
  hits.reserve(fused.size());
  for (const auto& [chunk, hit] : fused) hits.push_back(hit);
  std::ranges::stable_sort(hits, [](const FusedHit& a, const FusedHit& b) { return a.score > b.score; });
  return hits;
}

Result<std::vector<SearchHit>> search_library(const Store& store, Vectors& vectors, const std::string& query,
                                              const SearchOptions& options, Embedder* embedder,
                                              const std::stop_token& stop) {
  const auto limit = static_cast<std::size_t>(std::clamp(options.limit, 0, kMostHits));
  const std::size_t depth = std::max<std::size_t>(limit * 2, kDepth);
  if (limit == 0 || query.find_first_not_of(" \t\r\n") == std::string::npos) return std::vector<SearchHit>();

  std::vector<ChunkId> by_vectors;
  if (embedder != nullptr) {
    RETRIEVAL_TRY(by_vectors, rank_by_vectors(store, vectors, query, options, *embedder, depth, stop));
  }
  if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "The search was cancelled."};
  // Ranking by words and reading see the same state, however much is written meanwhile.
  return store.read([&](const Database& database) {
    return read_hits(database, fuse(search_words(database, query, options.documents, depth), by_vectors), limit);
  });
}

}  // namespace lectern::retrieval
