// SPDX-License-Identifier: GPL-3.0-or-later
#include <algorithm>
#include <cctype>
#include <string_view>
#include <vector>

#include "cli_commands.h"
#include "cli_json.h"
#include "cli_loading.h"
#include "cli_places.h"
#include "composition.h"

namespace lectern::app {
namespace {

using retrieval::SearchHit;

constexpr std::size_t kExcerptBytes = 300;

// At or after `from`.
std::size_t findIgnoringCase(std::string_view text, std::string_view word, std::size_t from) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  };
  const auto found =
      std::search(text.begin() + static_cast<std::ptrdiff_t>(from), text.end(), word.begin(), word.end(), same);
  return found == text.end() ? std::string_view::npos : static_cast<std::size_t>(found - text.begin());
}

// Where the words of `query` stand in `text`.
std::vector<std::size_t> wordPositions(std::string_view text, std::string_view query) {
  constexpr std::size_t kShortestWord = 4;  // shorter ones are "of" and "the"
  std::vector<std::size_t> positions;
  while (!query.empty()) {
    const std::size_t end = std::min(query.find_first_of(" ?!.,;:\"'()"), query.size());
    const std::string_view word = query.substr(0, end);
    std::size_t from = word.size() < kShortestWord ? std::string_view::npos : findIgnoringCase(text, word, 0);
    for (; from != std::string_view::npos; from = findIgnoringCase(text, word, from + 1)) positions.push_back(from);
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  std::sort(positions.begin(), positions.end());
  return positions;
}

// The first of those words within an excerpt's length that holds most of them; 0 when there are none.
std::size_t densestPosition(const std::vector<std::size_t>& positions) {
  std::size_t best = 0;
  std::ptrdiff_t most = 0;
  for (auto first = positions.begin(); first != positions.end(); ++first) {
    const auto end = std::upper_bound(first, positions.end(), *first + kExcerptBytes / 2);
    if (end - first <= most) continue;
    most = end - first;
    best = *first;
  }
  return best;
}

bool continuesCharacter(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

// One line of `text` around the words asked for.
std::string excerpt(const std::string& text, const std::string& query) {
  std::string line = printableLine(text);
  if (line.size() <= kExcerptBytes) return line;
  const std::size_t position = densestPosition(wordPositions(line, query));
  std::size_t begin = position > kExcerptBytes / 3 ? position - kExcerptBytes / 3 : 0;
  begin = std::min(begin, line.size() - kExcerptBytes);
  if (begin > 0) begin = std::min(line.find(' ', begin) + 1, position);
  std::size_t end = std::min(begin + kExcerptBytes, line.size());
  while (begin < line.size() && continuesCharacter(line[begin])) ++begin;
  while (end < line.size() && continuesCharacter(line[end])) ++end;
  return (begin > 0 ? "…" : "") + line.substr(begin, end - begin) + (end < line.size() ? "…" : "");
}

// "words 1, meaning 3": the ranks that were fused.
std::string reason(const SearchHit& hit) {
  std::string text;
  if (hit.word_rank > 0) text = "words " + std::to_string(hit.word_rank);
  if (hit.vector_rank > 0) text += (text.empty() ? "" : ", ") + ("meaning " + std::to_string(hit.vector_rank));
  return text;
}

std::string hitText(std::size_t rank, const SearchHit& hit, const std::string& query) {
  return std::to_string(rank) + ". " + printableLine(placeOf(hit)) + "  (" + reason(hit) + ")\n   " +
         printableLine(hit.path.string()) + "\n   " + excerpt(hit.text, query) + "\n";
}

void print(const CommandContext& context, const std::vector<SearchHit>& hits, const std::string& note) {
  if (context.options.json) {
    Json json = {{"query", context.options.text}, {"hits", Json::array()}};
    for (const SearchHit& hit : hits) {
      Json item = {{"rank", json["hits"].size() + 1}};
      item.update(toJson(hit));
      json["hits"].push_back(std::move(item));
    }
    if (!note.empty()) json["notes"] = {note};
    context.terminal.write(dump(json));
    return;
  }
  for (std::size_t i = 0; i < hits.size(); ++i) {
    if (!context.terminal.write((i == 0 ? "" : "\n") + hitText(i + 1, hits[i], context.options.text))) return;
  }
}

}  // namespace

ExitCode runSearch(const CommandContext& context) {
  auto library = openLibrary(context.locations, context.options.library, MissingLibrary::kRefuse);
  if (!library.ok()) return fail(context, library.error());
  OpenedEmbedder embedder;
  if (!context.options.noEmbeddings) embedder = loadEmbedder(context);
  if (!embedder.note.empty()) context.terminal.note(embedder.note);

  retrieval::SearchOptions options;
  options.limit = context.options.limit;
  options.documents = context.options.documents;
  auto hits = (*library)->search(context.options.text, options, embedder.embedder.get(), context.interrupt.token());
  if (!hits.ok()) return fail(context, hits.error());
  print(context, *hits, embedder.note);
  if (!hits->empty()) return kExitOk;
  context.terminal.note("Nothing in the library matches.");
  return kExitNothingFound;
}

}  // namespace lectern::app
