// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "retrieval/types.h"

namespace lectern::retrieval {

// A word as the PDF library reports it: points, origin at the top left of the shown page.
struct PdfWord {
  std::string text;
  double left = 0;
  double top = 0;
  double right = 0;
  double bottom = 0;
  int rotation = 0;  // quarter turns clockwise
  bool space_after = true;
};

struct PageFrame {
  double width = 0;
  double height = 0;
};

// UTF-8 without control characters and soft surrogates; ligatures as letters, no-break spaces as spaces, trimmed.
std::string clean_word(std::u16string_view text);

// Joins words into lines and lines into page text; words outside the frame are cut to it or keep an empty place.
ExtractedPage assemble_page(const std::vector<PdfWord>& words, const PageFrame& frame);

// The text of the tallest line in the upper half of a page, when it stands out; otherwise empty.
std::string largest_line(const ExtractedPage& page);

}  // namespace lectern::retrieval
