// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "chunker.h"
#include "passage.h"

namespace lectern::retrieval {

enum class ProseBlockKind {
  kHeading,
  kParagraph,
  kVerbatim,  // lines that keep their ends: code, tables
};

// A piece of prose with its wrapped lines already joined.
struct ProseBlock {
  ProseBlockKind kind = ProseBlockKind::kParagraph;
  Passage passage;
  std::string heading;  // of kHeading
  double level = 0;     // of kHeading: a larger number is deeper
};

// The words of a document, to tell a word broken at a line end from a compound that has a hyphen anyway.
class Vocabulary {
 public:
  // Throws ChunkingStopped.
  void add(std::string_view text, const std::stop_token& stop);
  bool prefers_hyphen(std::string_view before, std::string_view after) const;

 private:
  std::unordered_map<std::string, std::uint32_t> counts_;
};

// Appends page text [begin, end), one line of a paragraph, to `paragraph`: after a space, or after removing the hyphen
// that breaks a word. Runs of white space become one space, soft hyphens vanish.
void append_line(Passage& paragraph, std::uint32_t page, std::string_view page_text, std::size_t begin, std::size_t end,
                 const Vocabulary& vocabulary);

// Packs sentences into chunks section by section. Throws ChunkingStopped.
std::vector<Chunk> pack_prose(const std::vector<ProseBlock>& blocks, const ChunkOptions& options,
                              const std::stop_token& stop);

// Words between white space; two ideographs or kana count as one word.
std::size_t count_words(std::string_view text);

}  // namespace lectern::retrieval
