// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

// What the tokenizers know of Unicode, equal to the reference tokenizer: categories of Unicode 16.0, normalisation of
// Unicode 9.0 (see make_unicode_tables.py). Shared by the byte-level BPE and the WordPiece tokenizer.
namespace lectern::engine::unicode {

enum class Category : std::uint8_t {
  // clang-format off
  kCn, kCc, kCf, kCo, kCs, kLl, kLm, kLo, kLt, kLu, kMc, kMe, kMn, kNd, kNl, kNo,
  kPc, kPd, kPe, kPf, kPi, kPo, kPs, kSc, kSk, kSm, kSo, kZl, kZp, kZs,
  // clang-format on
};

Category category(char32_t code);  // kCn above U+10FFFF

bool is_letter(char32_t code);       // \p{L}
bool is_number(char32_t code);       // \p{N}
bool is_white_space(char32_t code);  // White_Space, the \s of the reference
bool is_punctuation(char32_t code);  // \p{P}; the ASCII symbols $+<=>^`|~ are not in it

// One-to-one lower case; the only character with a longer one is U+0130, whose lower case is "i" + U+0307.
char32_t lower_case(char32_t code);
std::string lower_case(std::string_view text);  // full mapping, valid UTF-8 in, valid UTF-8 out

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

// How many bytes at the end of `text` are the start of a sequence that more bytes could complete: 0 to 3.
std::size_t incomplete_utf8_tail(std::string_view text);

// Canonical normalisation of valid UTF-8.
std::string nfc(std::string_view text);
std::string nfd(std::string_view text);

}  // namespace lectern::engine::unicode
