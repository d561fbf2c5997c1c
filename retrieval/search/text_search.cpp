// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/text_search.h"

#include <algorithm>
#include <array>
#include <unordered_set>

#include "search/terms.h"

namespace lectern::retrieval {
namespace {

constexpr std::size_t kMostTerms = 64;  // of one query; a pasted page is cut here
// FTS5 ranks about a million occurrences (term and chunk) in a second.
constexpr std::int64_t kMostPostings = 20'000;

constexpr std::array<std::string_view, 68> kStopWords = {
    "a",    "about", "all",  "an",    "and",   "any",  "are",   "as",    "at",   "be",   "been",  "but",  "by",   "can",
    "did",  "do",    "does", "for",   "from",  "had",  "has",   "have",  "how",  "i",    "if",    "in",   "into", "is",
    "it",   "its",   "me",   "my",    "no",    "not",  "of",    "on",    "or",   "our",  "s",     "so",   "such", "t",
    "than", "that",  "the",  "their", "them",  "then", "there", "these", "they", "this", "those", "to",   "was",  "we",
    "were", "what",  "when", "where", "which", "who",  "whom",  "why",   "will", "with", "you",   "your",
};
static_assert(std::ranges::is_sorted(kStopWords));

std::string lower_case(std::string_view word) {
  std::string lower(word);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

bool is_stop_word(const std::string& lower) { return std::ranges::binary_search(kStopWords, lower); }

// Collects distinct quoted terms in order.
class Terms {
 public:
  void add(std::string_view term, std::string_view column = "") {
    if (terms_.size() == kMostTerms) return;
    std::string quoted(column);
    quoted += '"';
    quoted += term;  // words hold no quotes
    quoted += '"';
    if (seen_.insert(lower_case(quoted)).second) terms_.push_back(std::move(quoted));
  }
  std::vector<std::string> take() { return std::move(terms_); }

 private:
  std::vector<std::string> terms_;
  std::unordered_set<std::string> seen_;
};

void add_word(Terms& terms, std::string_view word) {
  terms.add(word);
  std::string phrase;
  for (const std::string_view part : identifier_parts(word)) {
    terms.add(part);
    if (!phrase.empty()) phrase += ' ';
    phrase += part;
  }
  if (!phrase.empty()) terms.add(phrase);
  for (const std::string_view pair : character_pairs(word)) terms.add(pair, "terms : ");
}

// The rarest terms, as many as can be ranked in time, joined by OR.
std::string affordable_expression(const Database& database, const std::vector<std::string>& terms) {
  Statement count =
      database.prepare("SELECT count(*) FROM (SELECT 1 FROM chunks_fts WHERE chunks_fts MATCH ?1 LIMIT ?2)");
  std::vector<std::pair<std::int64_t, const std::string*>> by_frequency;
  for (const std::string& term : terms) {
    count.bind(1, std::string_view(term)).bind(2, kMostPostings + 1).step();
    by_frequency.emplace_back(count.integer(0), &term);
    count.run();
  }
  std::ranges::stable_sort(by_frequency, {}, &std::pair<std::int64_t, const std::string*>::first);
  std::string expression;
  std::int64_t postings = 0;
  for (const auto& [frequency, term] : by_frequency) {
    postings += frequency;
    if (!expression.empty() && postings > kMostPostings) break;
    if (frequency == 0) continue;
    if (!expression.empty()) expression += " OR ";
    expression += *term;
  }
  return expression;
}

}  // namespace

std::vector<std::string> match_terms(std::string_view query) {
  const std::vector<std::string_view> words = words_of(query);
  const bool only_stop_words =
      std::ranges::all_of(words, [](std::string_view word) { return is_stop_word(lower_case(word)); });
  Terms terms;
  for (const std::string_view word : words) {
    if (only_stop_words || !is_stop_word(lower_case(word))) add_word(terms, word);
  }
  return terms.take();
}

std::vector<ChunkId> search_words(const Database& database, std::string_view query,
                                  std::span<const DocumentId> documents, std::size_t limit) {
  std::vector<ChunkId> chunks;
  const std::string expression = affordable_expression(database, match_terms(query));
  if (expression.empty()) return chunks;
  std::string list = "[";
  for (const DocumentId document : documents) {
    if (list.size() > 1) list += ',';
    list += std::to_string(document);
  }
  list += ']';
  std::string sql = "SELECT rowid FROM chunks_fts WHERE chunks_fts MATCH ?1";
  if (!documents.empty()) {
    sql += " AND rowid IN (SELECT id FROM chunks WHERE document_id IN (SELECT value FROM json_each(?3)))";
  }
  // A heading says what a passage is about; the parts of identifiers are a guess.
  sql += " ORDER BY bm25(chunks_fts, 1.0, 1.5, 0.5), rowid LIMIT ?2";
  Statement rows = database.prepare(sql);
  rows.bind(1, std::string_view(expression)).bind(2, static_cast<std::int64_t>(limit));
  if (!documents.empty()) rows.bind(3, std::string_view(list));
  while (rows.step()) chunks.push_back(rows.integer(0));
  return chunks;
}

}  // namespace lectern::retrieval
