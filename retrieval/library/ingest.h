// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <filesystem>
#include <span>
#include <stop_token>

#include "retrieval/library.h"
#include "search/vectors.h"
#include "store/store.h"

namespace lectern::retrieval {

struct IngestTools {
  Store& store;
  Vectors& vectors;
  Extractor& extractor;
  Embedder* embedder;  // may be null
  IngestSink& sink;
  std::stop_token stop;
};

// What Library::ingest promises; one call at a time.
Result<IngestReport> ingest(std::span<const std::filesystem::path> paths, const IngestTools& tools);

}  // namespace lectern::retrieval
