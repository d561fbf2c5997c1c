// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "retrieval/types.h"
#include "store/store.h"

namespace lectern::retrieval {

// An FTS5 expression that matches chunks with any of the query's words. Everything from the query stands inside
// quotes, so no text is syntax. Stop words are left out unless there is nothing else; empty when there are no words.
std::string match_expression(std::string_view query);

// Chunks by BM25, best first, equal ranks by id; only those of `documents` when it is not empty.
Result<std::vector<ChunkId>> search_words(const Store& store, std::string_view query,
                                          std::span<const DocumentId> documents, std::size_t limit);

}  // namespace lectern::retrieval
