// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lectern::engine::unicode {

struct Decoded {
  char32_t code = 0;         // U+FFFD for an invalid sequence
  std::uint32_t length = 0;  // bytes to advance, at least 1
  bool valid = true;
};

// The character at text[at], at < text.size(). An invalid sequence covers its maximal subpart, so that replacing each
// by U+FFFD gives what the WHATWG decoder and Python's errors="replace" give.
Decoded decode_utf8(std::string_view text, std::size_t at);

void append_utf8(std::string& out, char32_t code);

bool is_valid_utf8(std::string_view text);
std::string replace_invalid_utf8(std::string_view text);

// For messages about untrusted text: in quotation marks, cut after 80 bytes, invalid UTF-8 and control characters
// replaced by U+FFFD.
std::string in_quotes(std::string_view text);

// How many bytes at the end of `text` are the start of a sequence that more bytes could complete: 0 to 3.
std::size_t incomplete_utf8_tail(std::string_view text);

}  // namespace lectern::engine::unicode
