// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

namespace lectern::engine {

// The split pattern of the Qwen2 family, the only one this engine runs:
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
extern const std::string_view kQwen2Pattern;

// Length in bytes of the piece that starts at text[at]; `text` is valid UTF-8 and at < text.size(). Pieces cover the
// text without gaps. Constant work per character except for runs of white space, which are walked once more.
std::size_t piece_length(std::string_view text, std::size_t at);

}  // namespace lectern::engine
