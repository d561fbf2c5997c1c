// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace lectern::retrieval {

enum class MarkdownBlockKind { kHeading, kParagraph, kListItem, kVerbatim };

// Lines [first_line, end_line) of a Markdown text, counted from 0.
struct MarkdownBlock {
  MarkdownBlockKind kind = MarkdownBlockKind::kParagraph;
  std::size_t first_line = 0;
  std::size_t end_line = 0;
  std::string heading;  // of kHeading: its text without marks
};

// Splits a text, given as lines without their ends, into blocks. Fenced and indented code, tables and front matter are
// kVerbatim; blank lines and rules belong to no block. Total: any text is some Markdown. Throws ChunkingStopped.
std::vector<MarkdownBlock> markdown_blocks(const std::vector<std::string_view>& lines,
                                           const std::stop_token& stop = {});

// The front matter's title, else the first heading; empty when there is neither.
std::string markdown_title(std::string_view text);

// Without the final '\n' of each line; a text that ends in '\n' has no empty line after it.
std::vector<std::string_view> split_lines(std::string_view text);

}  // namespace lectern::retrieval
