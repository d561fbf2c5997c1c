// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <stop_token>
#include <vector>

#include "chunker.h"

namespace lectern::retrieval {

// Cuts source code at its symbols: chunks of whole lines, at most `options.code_lines` of them, headed by the symbol
// that they define or stand in ("TideModel.predict"). Throws ChunkingStopped.
std::vector<Chunk> chunk_code(const ExtractedDocument& document, const ChunkOptions& options,
                              const std::stop_token& stop);

}  // namespace lectern::retrieval
