// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/terms.h"

#include <cstdint>
#include <unordered_set>

namespace lectern::retrieval {
namespace {

bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

struct Character {
  char32_t code = 0;
  std::size_t length = 1;
};

// Damaged UTF-8 reads as one-byte characters of code 0xFFFD.
Character character_at(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[position + i]); };
  const std::uint8_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC2 ? 2 : 1;
  if (length == 1 || position + length > text.size()) return {0xFFFD, 1};
  char32_t code = first & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {0xFFFD, 1};
    code = (code << 6) | (byte(i) & 0x3FU);
  }
  return {code, length};
}

bool is_word(char32_t code) {
  if (code < 0x80) {
    const char c = static_cast<char>(code);
    return is_upper(c) || is_lower(c) || is_digit(c) || c == '_';
  }
  const bool latin_sign = code < 0xC0 && code != 0xAA && code != 0xB5 && code != 0xBA;
  const bool general_punctuation = code >= 0x2000 && code <= 0x206F;
  const bool cjk_punctuation = (code >= 0x3000 && code <= 0x3004) || (code >= 0x3008 && code <= 0x3020);
  const bool full_width_punctuation = code >= 0xFF01 && code <= 0xFF0F;
  return !latin_sign && !general_punctuation && !cjk_punctuation && !full_width_punctuation && code != 0xFFFD;
}

bool is_unspaced(char32_t code) {
  return (code >= 0x3040 && code <= 0x30FF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0xF900 && code <= 0xFAFF) ||
         (code >= 0x20000 && code <= 0x3FFFF) || (code >= 0x0E00 && code <= 0x0E7F);
}

// Whether an identifier part begins at `i` > 0.
bool part_begins(std::string_view word, std::size_t i) {
  const char before = word[i - 1];
  const char here = word[i];
  if (is_digit(here) != is_digit(before)) return true;
  if (!is_upper(here)) return false;
  return is_lower(before) || (is_upper(before) && i + 1 < word.size() && is_lower(word[i + 1]));
}

}  // namespace

std::vector<std::string_view> identifier_parts(std::string_view word) {
  std::vector<std::string_view> parts;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= word.size(); ++i) {
    const bool separator = i < word.size() && word[i] == '_';
    const bool boundary = i == word.size() || separator || (i > begin && part_begins(word, i));
    if (!boundary) continue;
    if (i > begin) parts.push_back(word.substr(begin, i - begin));
    begin = separator ? i + 1 : i;
  }
  if (parts.size() < 2) parts.clear();
  return parts;
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    const Character character = character_at(text, i);
    if (!is_word(character.code)) {
      if (i > begin) words.push_back(text.substr(begin, i - begin));
      begin = i + character.length;
    }
    i += character.length;
  }
  if (text.size() > begin) words.push_back(text.substr(begin));
  return words;
}

std::vector<std::string_view> character_pairs(std::string_view word) {
  std::vector<std::string_view> pairs;
  std::size_t before = 0;
  bool joined = false;  // the character at `before` is one of an unspaced script
  for (std::size_t i = 0; i < word.size();) {
    const Character character = character_at(word, i);
    const bool unspaced = is_unspaced(character.code);
    if (unspaced && joined) pairs.push_back(word.substr(before, i + character.length - before));
    joined = unspaced;
    before = i;
    i += character.length;
  }
  return pairs;
}

std::string index_terms(std::string_view text) {
  std::string terms;
  std::unordered_set<std::string_view> seen;
  const auto add = [&](std::string_view term) {
    terms += term;
    terms += ' ';
  };
  for (const std::string_view word : words_of(text)) {
    // Snake case alone is taken apart by the tokenizer.
    bool camel = false;
    for (std::size_t i = 1; i < word.size() && !camel; ++i) {
      camel = word[i] != '_' && word[i - 1] != '_' && part_begins(word, i);
    }
    if (camel && seen.insert(word).second) {
      for (const std::string_view part : identifier_parts(word)) add(part);
    }
    for (const std::string_view pair : character_pairs(word)) add(pair);
  }
  return terms;
}

}  // namespace lectern::retrieval
