// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "prose.h"
#include "retrieval/types.h"

namespace lectern::retrieval {

// A line of a page with its place in points, origin at the page's top left.
struct PdfLine {
  std::uint32_t page = 0;
  std::uint32_t begin = 0;  // bytes of the page's text
  std::uint32_t end = 0;
  float left = 0;
  float top = 0;
  float right = 0;
  float bottom = 0;
  float height = 0;        // of its ordinary words
  bool tabular = false;    // wide gaps between words: cells of a table's row
  bool furniture = false;  // a repeated header or footer, or a page number
};

// Both throw ChunkingStopped.

// The lines of all pages in reading order, furniture marked.
std::vector<PdfLine> pdf_lines(const ExtractedDocument& document, const std::stop_token& stop);

// Headings, paragraphs and tables of a PDF; furniture is left out.
std::vector<ProseBlock> pdf_blocks(const ExtractedDocument& document, const std::stop_token& stop);

// Whether a line reads like a numbered heading ("3.2 Fog signal", "Appendix B"); returns its depth, else 0.
int numbered_heading_depth(std::string_view line);

// Whether a line starts a list item with a bullet, number or letter.
bool starts_with_bullet(std::string_view line);

// Whether a line has letters, and capital ones only.
bool is_all_capitals(std::string_view line);

}  // namespace lectern::retrieval
