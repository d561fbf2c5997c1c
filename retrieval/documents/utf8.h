// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lectern::retrieval {

bool is_valid_utf8(std::string_view text);

// Number of bytes of the UTF-8 sequence at `position`, 0 when it is not valid there.
std::size_t utf8_length_at(std::string_view text, std::size_t position);

void append_utf8(std::string& text, char32_t code_point);

// The code point at `position` of valid UTF-8.
char32_t utf8_at(std::string_view text, std::size_t position);

}  // namespace lectern::retrieval
