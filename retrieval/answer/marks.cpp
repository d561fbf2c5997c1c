// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer/marks.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "documents/sentences.h"

namespace lectern::retrieval {
namespace {

constexpr int kLargestNumber = 9999;
constexpr int kLongestRange = 20;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Letters of any script; everything else is decoration.
bool is_letter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || static_cast<unsigned char>(c) >= 0x80;
}

bool has_letters(std::string_view text) { return std::ranges::any_of(text, is_letter); }

class NumberList {
 public:
  explicit NumberList(std::string_view text) : text_(text) {}

  // Parses "[1, 3-5]" at `begin`; false when something else stands there.
  bool parse(std::size_t begin) {
    at_ = begin + 1;
    while (true) {
      const std::optional<int> first = number();
      if (!first) return false;
      std::optional<int> last = first;
      if (skip("-") || skip("–")) last = number();
      if (!last || *last < *first || *last - *first > kLongestRange) return false;
      for (int n = *first; n <= *last; ++n) numbers.push_back(n);
      if (skip("]")) return true;
      if (!skip(",") && !skip(";")) return false;
    }
  }
  std::size_t end() const { return at_; }

  std::vector<int> numbers;

 private:
  bool skip(std::string_view token) {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }

  std::optional<int> number() {
    skip("");
    int value = 0;
    const std::size_t begin = at_;
    while (at_ < text_.size() && is_digit(text_[at_]) && value <= kLargestNumber)
      value = value * 10 + (text_[at_++] - '0');
    if (at_ == begin || value > kLargestNumber) return std::nullopt;
    return value;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

// The end of the code span or block that begins at `begin`; begin + 1 when it is never closed.
std::size_t code_end(std::string_view text, std::size_t begin) {
  std::size_t ticks = begin;
  while (ticks < text.size() && text[ticks] == '`') ++ticks;
  const std::string_view fence = text.substr(begin, ticks - begin);
  const std::size_t close = text.find(fence, ticks);
  return close == std::string_view::npos ? begin + 1 : close + fence.size();
}

struct Place {
  std::size_t position = 0;  // in the text without marks
  std::vector<int> numbers;
};

// Takes the marks out of an answer.
struct PlainAnswer {
  std::string text;
  std::vector<Place> places;
};

void drop_spaces_before_mark(std::string& text, char next) {
  if (next != '\0' && std::string_view(" .,;:!?\n").find(next) == std::string_view::npos) return;
  while (text.ends_with(' ')) text.pop_back();
}

PlainAnswer plain_answer(std::string_view answer) {
  PlainAnswer plain;
  for (std::size_t i = 0; i < answer.size();) {
    if (answer[i] == '`') {
      const std::size_t end = code_end(answer, i);
      plain.text += answer.substr(i, end - i);
      i = end;
      continue;
    }
    NumberList list(answer);
    if (answer[i] != '[' || !list.parse(i)) {
      plain.text += answer[i++];
      continue;
    }
    i = list.end();
    drop_spaces_before_mark(plain.text, i < answer.size() ? answer[i] : '\0');
    if (!plain.places.empty() && plain.places.back().position == plain.text.size()) {
      std::vector<int>& numbers = plain.places.back().numbers;
      numbers.insert(numbers.end(), list.numbers.begin(), list.numbers.end());
    } else {
      plain.places.push_back({plain.text.size(), std::move(list.numbers)});
    }
  }
  return plain;
}

bool begins_line(std::string_view text, std::size_t position) {
  const std::size_t line = text.rfind('\n', position == 0 ? 0 : position - 1);
  const std::size_t begin = position == 0 ? 0 : line == std::string_view::npos ? 0 : line + 1;
  const std::size_t end = std::min(text.find('\n', position), text.size());
  return !has_letters(text.substr(begin, position - begin)) && has_letters(text.substr(position, end - position));
}

std::string_view without_edges(std::string_view text) {
  const auto edge = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == ',' || c == ';'; };
  while (!text.empty() && edge(text.front())) text.remove_prefix(1);
  while (!text.empty() && edge(text.back())) text.remove_suffix(1);
  return text;
}

class Claims {
 public:
  explicit Claims(const PlainAnswer& plain) : plain_(plain), sentences_(split_sentences(plain.text)) {
    for (const Place& place : plain.places) owners_.push_back(owner(place.position));
  }

  std::string of(std::size_t place) const {
    const auto owner = owners_[place];
    if (!owner) return {};
    const std::string_view text = plain_.text;
    const auto [begin, end] = sentences_[*owner];
    const std::string_view sentence = text.substr(begin, end - begin);
    if (std::ranges::count(owners_, owner) == 1) return std::string(without_edges(sentence));
    std::size_t from = begin;
    if (place > 0 && owners_[place - 1] == owner) from = std::clamp(plain_.places[place - 1].position, begin, end);
    const std::size_t to = std::clamp(plain_.places[place].position, from, end);
    const std::string_view part = without_edges(text.substr(from, to - from));
    return std::string(has_letters(part) ? part : sentence);
  }

 private:
  std::optional<std::size_t> owner(std::size_t position) const {
    std::optional<std::size_t> before;
    for (std::size_t i = 0; i < sentences_.size(); ++i) {
      const bool lettered = has_letters(
          std::string_view(plain_.text).substr(sentences_[i].first, sentences_[i].second - sentences_[i].first));
      if (!lettered) continue;
      if (sentences_[i].second > position && begins_line(plain_.text, position)) return i;
      if (sentences_[i].first < position) before = i;
      if (sentences_[i].first >= position) return before ? before : i;
    }
    return before;
  }

  const PlainAnswer& plain_;
  const std::vector<std::pair<std::size_t, std::size_t>> sentences_;
  std::vector<std::optional<std::size_t>> owners_;  // sentence of each place
};

}  // namespace

std::vector<Mark> find_marks(std::string_view answer) {
  const PlainAnswer plain = plain_answer(answer);
  const Claims claims(plain);
  std::vector<Mark> marks;
  for (std::size_t place = 0; place < plain.places.size(); ++place) {
    const std::string claim = claims.of(place);
    for (const int number : plain.places[place].numbers) marks.push_back({number, claim});
  }
  return marks;
}

}  // namespace lectern::retrieval
