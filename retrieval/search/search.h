// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "retrieval/library.h"
#include "search/vectors.h"
#include "store/store.h"

namespace lectern::retrieval {

struct FusedHit {
  ChunkId chunk = 0;
  double score = 0;
  int word_rank = 0;  // from 1; 0: not found this way
  int vector_rank = 0;
};

// Reciprocal rank fusion (Cormack, Clarke, Buettcher, SIGIR 2009): sum of 1 / (60 + rank). Best first; equal scores
// by chunk id.
std::vector<FusedHit> fuse(const std::vector<ChunkId>& by_words, const std::vector<ChunkId>& by_vectors);

// What Library::search promises.
Result<std::vector<SearchHit>> search_library(const Store& store, Vectors& vectors, const std::string& query,
                                              const SearchOptions& options, Embedder* embedder,
                                              const std::stop_token& stop);

}  // namespace lectern::retrieval
