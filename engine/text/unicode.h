// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/utf8.h"

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

// Canonical normalisation of valid UTF-8.
std::string nfc(std::string_view text);
std::string nfd(std::string_view text);

}  // namespace lectern::engine::unicode
