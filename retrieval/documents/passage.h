// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "retrieval/types.h"

namespace lectern::retrieval {

// Text that remembers which bytes of which page it was copied from.
class Passage {
 public:
  // Copies page_text[begin, end); neighbouring copies become one run.
  void copy(std::uint32_t page, std::string_view page_text, std::size_t begin, std::size_t end);

  // Adds white space that stands nowhere in the document.
  void join(char space);

  // Removes the last `bytes` bytes again.
  void drop_back(std::size_t bytes);

  void append(const Passage& other);
  Passage slice(std::size_t begin, std::size_t end) const;

  const std::string& text() const { return text_; }
  const std::vector<TextRun>& runs() const { return runs_; }
  bool empty() const { return text_.empty(); }

 private:
  std::string text_;
  std::vector<TextRun> runs_;
};

}  // namespace lectern::retrieval
