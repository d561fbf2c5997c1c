// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <stop_token>
#include <vector>

#include "retrieval/types.h"

namespace lectern::retrieval {

// Part of a document's identity: raised whenever the same document would be cut differently.
inline constexpr int kChunkerVersion = 2;

struct ChunkOptions {
  // Prose. A paragraph group is closed at the first sentence end past `target_words`; a rest shorter than `min_words`
  // is joined to the chunk before it when both stand under the same heading and fit in `max_words`.
  std::uint32_t min_words = 60;
  std::uint32_t target_words = 140;
  std::uint32_t max_words = 180;  // exceeded only by a fenced code block; a longer sentence is cut
  std::uint32_t code_lines = 60;
};

// Cuts a document into passages in reading order. Every byte of a chunk's text is either covered by exactly one of
// its runs or is a joining space or line end; runs are ordered and never empty. Total: any document is valid input.
// Once `stop` asks for it, the result is empty and comes within some milliseconds.
std::vector<Chunk> chunk_document(const ExtractedDocument& document, const ChunkOptions& options = {},
                                  const std::stop_token& stop = {});

}  // namespace lectern::retrieval
