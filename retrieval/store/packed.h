// SPDX-License-Identifier: GPL-3.0-or-later
// The binary columns of the library file; their layout is in retrieval/README.md. Decoding trusts nothing: it returns
// nothing unless every count, offset and order holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "retrieval/types.h"
#include "store/database.h"

namespace lectern::retrieval {

using Packed = std::vector<std::uint8_t>;

// Words must be ordered and disjoint, as extractors make them; rectangles are kept to 1/65535 of the page.
Packed pack_words(const std::vector<Word>& words);
std::optional<std::vector<Word>> unpack_words(Bytes bytes, std::size_t text_size);

Packed pack_runs(const std::vector<TextRun>& runs);
std::optional<std::vector<TextRun>> unpack_runs(Bytes bytes, std::size_t text_size);

}  // namespace lectern::retrieval
