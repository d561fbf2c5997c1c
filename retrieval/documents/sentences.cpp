// SPDX-License-Identifier: GPL-3.0-or-later
#include "sentences.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "stopping.h"
#include "utf8.h"

namespace lectern::retrieval {
namespace {

// Abbreviations by what may follow them; looked up in lower case between spaces, without the last full stop.
constexpr std::string_view kBeforeNames =
    " mr mrs ms messrs dr prof rev fr sr st ste mt ft gen col maj capt cpt lt sgt cmdr adm hon pres gov sen rep supt "
    "insp mme mlle vs viz cf approx ca resp incl excl esp ";
constexpr std::string_view kBeforeNumbers =
    " fig figs eq eqs no nos nr vol vols p pp ch chap sec sect art par para ref refs tab app pt cl ed eds jan feb mar "
    "apr jun jul aug sep sept oct nov dec ";
constexpr std::string_view kNeverLast = " e.g i.e eg ie ";
// May end a sentence: only a word that usually starts one decides.
constexpr std::string_view kMaybeLast =
    " etc al inc ltd co corp bros dept univ assn a.m p.m am pm jr ph.d m.d b.c a.d ";
constexpr std::string_view kStarters =
    " The This That These Those There It Its He She We They You If When While Where For But And Or So In On At As To A "
    "An "
    "After Before However Then No Not Each Every All Some Most Many One Two His Her Our Their By From With ";

bool listed(std::string_view list, std::string_view word) {
  return !word.empty() && word.find(' ') == std::string_view::npos &&
         list.find(" " + std::string(word) + " ") != std::string_view::npos;
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\f' || c == '\v' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

bool is_closing(char32_t code) {
  return code == '"' || code == '\'' || code == ')' || code == ']' || code == '}' || code == 0x2019 || code == 0x201D ||
         code == 0xBB || code == 0x203A || code == 0x300D || code == 0x300F || code == 0xFF09;
}

bool is_bullet(char32_t code) {
  return code == 0x2022 || code == 0x2023 || code == 0x25AA || code == 0x25CF || code == 0x25E6 || code == 0x2043 ||
         code == 0xB7;
}

bool is_full_width_end(char32_t code) { return code == 0x3002 || code == 0xFF01 || code == 0xFF1F || code == 0xFF61; }

// Small letters beyond ASCII, for the scripts that have them: Latin-1, Greek, Cyrillic.
bool is_lower_beyond_ascii(char32_t code) {
  return (code >= 0xDF && code <= 0xFF && code != 0xF7) || (code >= 0x3B1 && code <= 0x3C9) ||
         (code >= 0x430 && code <= 0x45F);
}

class Splitter {
 public:
  Splitter(std::string_view text, const std::stop_token& stop) : text_(text), stop_(stop) {}

  std::vector<std::pair<std::size_t, std::size_t>> split() {
    std::size_t position = 0;
    while (position < text_.size()) {
      throw_if_stopped(stop_);
      position = step(position);
    }
    close(text_.size(), text_.size());
    return std::move(sentences_);
  }

 private:
  // Handles the character at `position` and returns where to go on.
  std::size_t step(std::size_t position) {
    const char c = text_[position];
    if (c == '\n') return close(position, position + 1);
    if (c == '.' || c == '!' || c == '?') return at_terminator(position);
    const char32_t code = code_at(position);
    const std::size_t next = position + length_at(position);
    if (code == 0x2026) return at_terminator(position);
    if (is_full_width_end(code)) {
      const std::size_t end = skip_closing(next);
      return close(end, end);
    }
    if (is_bullet(code) && position > start_ && is_space(text_[position - 1]) && next < text_.size() &&
        is_space(text_[next])) {
      close(position, position);
    }
    return next;
  }

  // Ends the current sentence before `end`; the next starts at `next`.
  std::size_t close(std::size_t end, std::size_t next) {
    std::size_t first = start_;
    while (first < end && (is_space(text_[first]) || text_[first] == '\n')) ++first;
    while (end > first && (is_space(text_[end - 1]) || text_[end - 1] == '\n')) --end;
    if (first < end) sentences_.emplace_back(first, end);
    start_ = next;
    return next;
  }

  std::size_t at_terminator(std::size_t position) {
    const bool plain_stop = text_[position] == '.';
    std::size_t end = position;
    while (end < text_.size() &&
           (text_[end] == '.' || text_[end] == '!' || text_[end] == '?' || code_at(end) == 0x2026)) {
      end += length_at(end);
    }
    const bool single_stop = plain_stop && end == position + 1;
    const std::size_t after = skip_closing(end);
    if (after < text_.size() && !is_space(text_[after]) && text_[after] != '\n') return after;
    std::size_t next = skip_spaces(after);
    if (next < text_.size() && text_[next] != '\n') {
      const std::size_t behind_marks = skip_marks(next);
      const bool marked = behind_marks != next;
      if (!marked && !may_start(next)) return after;
      if (!marked && single_stop && after == end && is_abbreviation(position, next)) return after;
      if (marked) return close(behind_marks, behind_marks);
    }
    return close(after, after);
  }

  std::size_t skip_closing(std::size_t position) const {
    while (position < text_.size() && is_closing(code_at(position))) position += length_at(position);
    return position;
  }

  std::size_t skip_spaces(std::size_t position) const {
    while (position < text_.size() && is_space(text_[position])) ++position;
    return position;
  }

  // Behind a run of marks "[1]", "[2, 3]" at `position`, with the spaces between them; `position` when there is none.
  std::size_t skip_marks(std::size_t position) const {
    std::size_t end = position;
    for (std::size_t at = position; at < text_.size() && text_[at] == '['; at = skip_spaces(end)) {
      std::size_t i = at + 1;
      bool digits = false;
      while (i < text_.size() && (is_digit(text_[i]) || text_[i] == ',' || text_[i] == ' ')) {
        digits = digits || is_digit(text_[i]);
        ++i;
      }
      if (!digits || i >= text_.size() || text_[i] != ']') break;
      end = i + 1;
    }
    return end;
  }

  bool may_start(std::size_t position) const {
    const char c = text_[position];
    if (static_cast<unsigned char>(c) >= 0x80) return !is_lower_beyond_ascii(code_at(position));
    return is_upper(c) || is_digit(c) || c == '"' || c == '\'' || c == '(' || c == '[' || c == '-' || c == '*' ||
           c == '#' || c == '$' || c == '_' || c == '`' || c == '<' || c == '/';
  }

  std::string_view word_at(std::size_t position) const {
    std::size_t end = position;
    while (end < text_.size() && std::isalnum(static_cast<unsigned char>(text_[end])) != 0) ++end;
    return text_.substr(position, end - position);
  }

  // Whether the full stop at `stop`, followed by a possible sentence start at `next`, only ends an abbreviation.
  bool is_abbreviation(std::size_t stop, std::size_t next) const {
    std::size_t begin = stop;
    while (begin > start_ && !is_space(text_[begin - 1]) && text_[begin - 1] != '(' && text_[begin - 1] != '"') --begin;
    const std::string_view token = text_.substr(begin, stop - begin);
    if (token.empty()) return false;
    const std::string key = lower(token);
    const bool starter = listed(kStarters, word_at(next));
    if (std::all_of(token.begin(), token.end(), is_digit)) return skip_spaces(start_) == begin;  // "1. Open the door"
    if (listed(kNeverLast, key)) return true;
    if (listed(kBeforeNames, key)) return !starter;
    if (listed(kBeforeNumbers, key))
      return is_digit(text_[next]) || (key != "no" && !starter && word_at(next).size() == 1);
    if (listed(kMaybeLast, key)) return !starter && !is_upper(text_[next]);
    const bool initial = token.size() == 1 && is_upper(token[0]);
    const bool dotted = token.size() >= 3 && token[1] == '.' && std::isalpha(static_cast<unsigned char>(token[0])) != 0;
    if (initial && begin > start_ && token[0] == 'I') return false;
    return (initial || dotted) && !starter;
  }

  char32_t code_at(std::size_t position) const {
    return utf8_length_at(text_, position) == 0 ? 0xFFFD : utf8_at(text_, position);
  }
  std::size_t length_at(std::size_t position) const {
    return std::max<std::size_t>(utf8_length_at(text_, position), 1);
  }

  std::string_view text_;
  const std::stop_token& stop_;
  std::vector<std::pair<std::size_t, std::size_t>> sentences_;
  std::size_t start_ = 0;
};

}  // namespace

std::vector<std::pair<std::size_t, std::size_t>> split_sentences(std::string_view text, const std::stop_token& stop) {
  return Splitter(text, stop).split();
}

}  // namespace lectern::retrieval
