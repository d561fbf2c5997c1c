// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace lectern::app {

struct WordBox {
  std::string text;
  double left = 0;  // fractions of the page, origin top left
  double top = 0;
  double right = 0;
  double bottom = 0;
};

// Where pdftotext says the words of a page stand; empty when there is no pdftotext. page: from 1.
std::vector<WordBox> pdfWordBoxes(const std::filesystem::path& file, int page);

}  // namespace lectern::app
