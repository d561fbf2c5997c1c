// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "retrieval/types.h"
#include "store/database.h"

namespace lectern::retrieval {

// FTS5 terms for the query's words, most of them one word in quotes: nothing of the query is syntax. Stop words are
// left out unless there is nothing else; empty when there are no words.
std::vector<std::string> match_terms(std::string_view query);

// Chunks that hold any of the query's words by BM25, best first, equal ranks by id; only those of `documents` when it
// is not empty. In a large library the commonest words count only as far as time allows.
// Throws SqliteError.
std::vector<ChunkId> search_words(const Database& database, std::string_view query,
                                  std::span<const DocumentId> documents, std::size_t limit);

}  // namespace lectern::retrieval
