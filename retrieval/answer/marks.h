// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lectern::retrieval {

// One number of one "[n]" in an answer, with the sentence it vouches for.
struct Mark {
  int number = 0;
  std::string claim;  // without marks
};

// The marks of an answer in text order: "[2]", "[1, 3]", "[1][2]" and "[2-4]", but none inside `code`. A mark's claim
// is the sentence before it, or, where a mark begins a line or the answer, the sentence after it. Marks at several
// places of one sentence share it out among them.
std::vector<Mark> find_marks(std::string_view answer);

}  // namespace lectern::retrieval
