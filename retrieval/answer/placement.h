// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "answer/matching.h"
#include "retrieval/library.h"
#include "retrieval/types.h"

namespace lectern::retrieval {

// One rectangle per line of text: neighbours on the same line are joined.
std::vector<Rect> line_rects(std::span<const Word> words);

// Pages read once, however many citations point at them.
class PageReader {
 public:
  explicit PageReader(const Library& library) : library_(library) {}
  Result<const ExtractedPage*> page(DocumentId document, std::uint32_t index);

 private:
  const Library& library_;
  std::map<std::pair<DocumentId, std::uint32_t>, ExtractedPage> pages_;
};

// Fills highlights (PDF) or lines (others) of `citation` for bytes `range` of the chunk's text.
Result<void> place(const Chunk& chunk, ByteRange range, PageReader& pages, Citation& citation);

}  // namespace lectern::retrieval
