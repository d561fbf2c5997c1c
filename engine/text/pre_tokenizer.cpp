// SPDX-License-Identifier: Apache-2.0
#include "text/pre_tokenizer.h"

#include <cstdint>

#include "text/unicode.h"

namespace lectern::engine {

const std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

enum class Kind : std::uint8_t { kEnd, kLetter, kNumber, kNewline, kSpace, kOther };

struct Character {
  Kind kind = Kind::kEnd;
  std::size_t length = 0;
};

Kind kind_of(char32_t code) {
  if (code == U'\r' || code == U'\n') return Kind::kNewline;
  if (unicode::is_letter(code)) return Kind::kLetter;
  if (unicode::is_number(code)) return Kind::kNumber;
  return unicode::is_white_space(code) ? Kind::kSpace : Kind::kOther;
}

Character character_at(std::string_view text, std::size_t at) {
  if (at >= text.size()) return {};
  const unicode::Decoded decoded = unicode::decode_utf8(text, at);
  return {kind_of(decoded.code), decoded.length};
}

std::size_t end_of_run(std::string_view text, std::size_t at, Kind kind) {
  for (Character c = character_at(text, at); c.kind == kind; c = character_at(text, at)) at += c.length;
  return at;
}

// Length of 's 't 're 've 'm 'll 'd in any case at `at`, or 0. The reference folds the long s (U+017F) to s.
std::size_t contraction_length(std::string_view text, std::size_t at) {
  constexpr std::string_view kLongS = "\xC5\xBF";
  if (text[at] != '\'') return 0;
  const auto letter = [&](std::size_t i) { return at + i < text.size() ? text[at + i] | 0x20 : 0; };
  const int first = letter(1);
  const int second = letter(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  if (first == 'l' && second == 'l') return 3;
  return text.substr(at + 1, kLongS.size()) == kLongS ? 1 + kLongS.size() : 0;
}

// White space, newlines included: up to its last newline if it has one; else all of it at the end of the text; else all
// but its last character, which the following word may take.
std::size_t white_space_length(std::string_view text, std::size_t at) {
  std::size_t end = at;
  std::size_t last_start = at;
  std::size_t after_newline = at;
  for (Character c = character_at(text, end); c.kind == Kind::kSpace || c.kind == Kind::kNewline;
       c = character_at(text, end)) {
    last_start = end;
    end += c.length;
    if (c.kind == Kind::kNewline) after_newline = end;
  }
  if (after_newline > at) return after_newline - at;
  if (end == text.size() || last_start == at) return end - at;
  return last_start - at;
}

}  // namespace

std::size_t piece_length(std::string_view text, std::size_t at) {
  if (const std::size_t contraction = contraction_length(text, at); contraction > 0) return contraction;
  const Character first = character_at(text, at);
  const std::size_t second_at = at + first.length;
  if (first.kind == Kind::kLetter) return end_of_run(text, second_at, Kind::kLetter) - at;
  if (first.kind == Kind::kNumber) return first.length;
  if (first.kind == Kind::kNewline) return white_space_length(text, at);
  const Kind second = character_at(text, second_at).kind;
  if (second == Kind::kLetter) return end_of_run(text, second_at, Kind::kLetter) - at;
  if (first.kind == Kind::kOther || (text[at] == ' ' && second == Kind::kOther)) {
    const std::size_t end = end_of_run(text, second_at, Kind::kOther);
    return end_of_run(text, end, Kind::kNewline) - at;
  }
  return white_space_length(text, at);
}

}  // namespace lectern::engine
