// SPDX-License-Identifier: GPL-3.0-or-later
#include "utf8.h"

namespace lectern::retrieval {

bool is_valid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length_at(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

std::size_t utf8_length_at(std::string_view text, std::size_t position) {
  const auto byte_at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte_at(position);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || length > text.size() - position) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte_at(position + i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte_at(position + 1);
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool surrogate = first == 0xED && second >= 0xA0;
  const bool too_large = first == 0xF4 && second >= 0x90;
  return overlong || surrogate || too_large ? 0 : length;
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

char32_t utf8_at(std::string_view text, std::size_t position) {
  const auto byte_at = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t first = byte_at(position);
  if (first < 0x80) return first;
  if (first < 0xE0) return ((first & 0x1F) << 6) | (byte_at(position + 1) & 0x3F);
  if (first < 0xF0) {
    return ((first & 0x0F) << 12) | ((byte_at(position + 1) & 0x3F) << 6) | (byte_at(position + 2) & 0x3F);
  }
  return ((first & 0x07) << 18) | ((byte_at(position + 1) & 0x3F) << 12) | ((byte_at(position + 2) & 0x3F) << 6) |
         (byte_at(position + 3) & 0x3F);
}

}  // namespace lectern::retrieval
