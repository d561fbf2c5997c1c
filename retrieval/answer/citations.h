// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "answer/matching.h"
#include "retrieval/types.h"

namespace lectern::retrieval {

// What in a passage supports a claim.
struct Support {
  std::vector<ByteRange> ranges;  // of the passage's text; empty: nothing was found
  bool verified = false;          // found word for word
};

// The claim itself, else every quotation inside it, word for word; else the most similar sentence (code: line).
Support find_support(std::string_view claim, std::string_view passage, DocumentKind kind);

}  // namespace lectern::retrieval
