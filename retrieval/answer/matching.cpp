// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer/matching.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <unordered_set>

#include "documents/utf8.h"
#include "search/terms.h"

namespace lectern::retrieval {
namespace {

constexpr std::array<std::string_view, 7> kLigatures = {"ff", "fi", "fl", "ffi", "ffl", "st", "st"};  // from U+FB00
constexpr std::size_t kFewestBytes = 4;    // of a needle without a digit
constexpr double kLeastSimilarity = 0.25;  // cosine of word sets
constexpr double kNearlyEqual = 0.8;
constexpr std::size_t kShortestContentWord = 3;

bool is_word_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x80 || c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool closes(char c) { return std::string_view(".,;:!?)").find(c) != std::string_view::npos; }

// nullptr: keep the character as it is.
const char* folded_symbol(char32_t code) {
  if (code <= ' ' || code == 0xA0 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
      code == 0x202F || code == 0x3000) {
    return " ";
  }
  if (code == 0xAD || (code >= 0x200B && code <= 0x200D) || code == 0xFEFF || code == '*' || code == '`') return "";
  if ((code >= 0x2010 && code <= 0x2015) || code == 0x2212) return "-";
  if ((code >= 0x2018 && code <= 0x201B) || code == 0x2032) return "'";
  if ((code >= 0x201C && code <= 0x201F) || code == 0x2033 || code == 0xAB || code == 0xBB) return "\"";
  if (code == 0x2026) return "...";
  if (code == '[') return "(";
  if (code == ']') return ")";
  if (code >= 0xFB00 && code <= 0xFB06) return kLigatures[code - 0xFB00].data();
  return nullptr;
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::unordered_set<std::string> content_words(std::string_view text) {
  std::unordered_set<std::string> words;
  for (const std::string_view word : words_of(text)) {
    if (word.size() >= kShortestContentWord || std::ranges::any_of(word, is_digit)) words.insert(lower_case(word));
  }
  return words;
}

std::set<std::string> word_triples(std::string_view text) {
  std::set<std::string> triples;
  const std::string lower = lower_case(text);
  const std::vector<std::string_view> words = words_of(lower);
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string triple;
    for (std::size_t k = i; k < std::min(i + 3, words.size()); ++k) {
      triple += words[k];
      triple += ' ';
    }
    triples.insert(std::move(triple));
    if (i + 3 >= words.size()) break;
  }
  return triples;
}

}  // namespace

FoldedText::FoldedText(std::string_view text, bool keep_case) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = std::max<std::size_t>(utf8_length_at(text, i), 1);
    const bool valid = utf8_length_at(text, i) != 0;
    const char* symbol = valid ? folded_symbol(utf8_at(text, i)) : nullptr;
    std::string folded = symbol != nullptr ? symbol : std::string(text.substr(i, length));
    if (!keep_case) folded = lower_case(folded);
    const bool after_space = text_.empty() || text_.back() == ' ' || text_.back() == '(';
    if (folded == " " && after_space) folded.clear();
    if (folded.size() == 1 && closes(folded[0]) && text_.size() > 1 && text_.back() == ' ') {
      text_.pop_back();
      sources_.pop_back();
    }
    text_ += folded;
    sources_.insert(sources_.end(), folded.size(), {i, i + length});
    i += length;
  }
}

ByteRange FoldedText::source(std::size_t begin, std::size_t end) const {
  return {sources_[begin].first, sources_[end - 1].second};
}

std::string_view trimmed(std::string_view folded) {
  const auto strip = [](char c) { return !is_word_byte(c); };
  while (!folded.empty() && strip(folded.front())) folded.remove_prefix(1);
  while (!folded.empty() && strip(folded.back())) folded.remove_suffix(1);
  return folded;
}

std::optional<ByteRange> find_words(std::string_view needle, const FoldedText& haystack) {
  needle = trimmed(needle);
  if (needle.empty() || (needle.size() < kFewestBytes && !std::ranges::any_of(needle, is_digit))) return std::nullopt;
  const std::string& text = haystack.text();
  for (std::size_t at = text.find(needle); at != std::string::npos; at = text.find(needle, at + 1)) {
    std::size_t end = at + needle.size();
    if (at > 0 && is_word_byte(text[at - 1])) continue;
    if (end < text.size() && is_word_byte(text[end])) continue;
    if (end < text.size() && std::string_view(".!?").find(text[end]) != std::string_view::npos) ++end;
    return haystack.source(at, end);
  }
  return std::nullopt;
}

std::vector<std::string> quoted_spans(const FoldedText& text) {
  std::vector<std::string> spans;
  const std::string& folded = text.text();
  std::size_t open = folded.find('"');
  while (open != std::string::npos) {
    const std::size_t close = folded.find('"', open + 1);
    if (close == std::string::npos) break;
    spans.push_back(folded.substr(open + 1, close - open - 1));
    open = folded.find('"', close + 1);
  }
  return spans;
}

std::optional<ByteRange> most_similar(std::string_view claim, std::string_view text,
                                      const std::vector<ByteRange>& candidates) {
  const auto wanted = content_words(claim);
  std::optional<ByteRange> best;
  double best_similarity = 0;
  for (const ByteRange& candidate : candidates) {
    const auto words = content_words(text.substr(candidate.first, candidate.second - candidate.first));
    const auto shared = std::ranges::count_if(words, [&](const std::string& word) { return wanted.contains(word); });
    if (words.empty() || wanted.empty()) continue;
    const double similarity =
        static_cast<double>(shared) / std::sqrt(static_cast<double>(words.size()) * static_cast<double>(wanted.size()));
    if (similarity <= best_similarity) continue;
    best_similarity = similarity;
    best = candidate;
  }
  return best_similarity >= kLeastSimilarity ? best : std::nullopt;
}

bool nearly_equal(std::string_view a, std::string_view b) {
  const std::set<std::string> first = word_triples(a);
  const std::set<std::string> second = word_triples(b);
  const auto shared = std::ranges::count_if(first, [&](const std::string& triple) { return second.contains(triple); });
  const std::size_t shorter = std::min(first.size(), second.size());
  return static_cast<double>(shared) >= kNearlyEqual * static_cast<double>(shorter);
}

}  // namespace lectern::retrieval
