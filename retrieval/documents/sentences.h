// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <stop_token>
#include <string_view>
#include <utility>
#include <vector>

namespace lectern::retrieval {

// Byte ranges [begin, end) of the sentences of UTF-8 `text`, in order, disjoint, without white space at their ends,
// covering everything that is not white space. A '\n' always ends a sentence, as does a bullet before its item: text
// with wrapped lines must be joined first, as chunk text is. A mark such as "[2]" that follows a full stop belongs to
// the sentence before it. Throws ChunkingStopped.
std::vector<std::pair<std::size_t, std::size_t>> split_sentences(std::string_view text,
                                                                 const std::stop_token& stop = {});

}  // namespace lectern::retrieval
