// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer/citations.h"

#include <algorithm>
#include <string>
#include <utility>

#include "answer/marks.h"
#include "answer/placement.h"
#include "documents/sentences.h"
#include "retrieval/answer.h"

namespace lectern::retrieval {
namespace {

std::vector<ByteRange> lines_of(std::string_view text) {
  std::vector<ByteRange> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) lines.emplace_back(begin, end);
    begin = end + 1;
  }
  return lines;
}

// The parts of a quotation between omissions, each to be found after the one before.
std::optional<std::vector<ByteRange>> find_quotation(std::string_view quotation, const FoldedText& passage) {
  std::vector<ByteRange> found;
  std::size_t after = 0;
  while (!quotation.empty()) {
    const std::size_t omission = std::min(quotation.find("..."), quotation.size());
    const std::string_view part = quotation.substr(0, omission);
    quotation.remove_prefix(std::min(omission + 3, quotation.size()));
    if (trimmed(part).empty()) continue;
    const auto range = find_words(part, passage);
    if (!range || range->first < after) return std::nullopt;
    after = range->second;
    found.push_back(*range);
  }
  if (found.empty()) return std::nullopt;
  return found;
}

// Every quotation has to be there: one that was made up spoils the others.
std::vector<ByteRange> find_quotations(const FoldedText& claim, const FoldedText& passage) {
  std::vector<ByteRange> all;
  for (const std::string& quotation : quoted_spans(claim)) {
    const auto found = find_quotation(quotation, passage);
    if (!found) return {};
    all.insert(all.end(), found->begin(), found->end());
  }
  return all;
}

std::string quote_of(std::string_view text, const std::vector<ByteRange>& ranges) {
  std::string quote;
  for (const auto& [begin, end] : ranges) {
    if (!quote.empty()) quote += " … ";
    quote += text.substr(begin, end - begin);
  }
  return quote;
}

// Where to open the document when nothing in the passage supports the claim.
void point_at_passage(const SearchHit& passage, Citation& citation) {
  if (citation.kind == DocumentKind::kPdf) {
    citation.highlights = {{passage.page, {}}};
  } else {
    citation.first_line = passage.first_line;
    citation.last_line = passage.last_line;
  }
}

class Resolver {
 public:
  explicit Resolver(const Library& library) : library_(library), pages_(library) {}

  Result<Citation> resolve(const Mark& mark, const SearchHit& passage) {
    Citation citation;
    citation.mark = mark.number;
    citation.document = passage.document;
    citation.chunk = passage.chunk;
    citation.title = passage.title;
    citation.path = passage.path;
    citation.claim = mark.claim;
    citation.kind = passage.page > 0 ? DocumentKind::kPdf : DocumentKind::kText;
    const auto document = library_.document(passage.document);
    const auto chunk = library_.chunk(passage.chunk);
    if (!document || !chunk) {
      const Error& error = document ? chunk.error() : document.error();
      if (error.code != ErrorCode::kNotFound) return error;
      point_at_passage(passage, citation);  // removed since: nothing left to verify against
      return citation;
    }
    citation.kind = document->kind;
    const Support support = find_support(mark.claim, chunk->text, citation.kind);
    citation.verified = support.verified;
    citation.quote = quote_of(chunk->text, support.ranges);
    for (const ByteRange& range : support.ranges) RETRIEVAL_CHECK(place(*chunk, range, pages_, citation));
    if (support.ranges.empty()) point_at_passage(passage, citation);
    return citation;
  }

 private:
  const Library& library_;
  PageReader pages_;
};

}  // namespace

Support find_support(std::string_view claim, std::string_view passage, DocumentKind kind) {
  const bool code = kind == DocumentKind::kCode;
  const FoldedText folded(passage, code);
  const FoldedText wanted(claim, code);
  if (const auto whole = find_words(wanted.text(), folded)) return {{*whole}, true};
  // A heading or a list's introduction on the lines above is no part of the sentence.
  const std::size_t last_line = claim.rfind('\n');
  if (last_line != std::string_view::npos) {
    const FoldedText line(claim.substr(last_line + 1), code);
    if (const auto found = find_words(line.text(), folded)) return {{*found}, true};
  }
  if (auto quotations = find_quotations(wanted, folded); !quotations.empty()) return {std::move(quotations), true};
  const auto similar = most_similar(claim, passage, code ? lines_of(passage) : split_sentences(passage));
  if (!similar) return {};
  return {{*similar}, false};
}

Result<std::vector<Citation>> resolve_citations(const Library& library, const std::vector<SearchHit>& passages,
                                                const std::string& text, std::vector<int>& unknown_marks) {
  try {
    unknown_marks.clear();
    std::vector<Citation> citations;
    Resolver resolver(library);
    for (const Mark& mark : find_marks(text)) {
      if (mark.number < 1 || static_cast<std::size_t>(mark.number) > passages.size()) {
        unknown_marks.push_back(mark.number);
        continue;
      }
      RETRIEVAL_TRY(Citation citation, resolver.resolve(mark, passages[static_cast<std::size_t>(mark.number) - 1]));
      citations.push_back(std::move(citation));
    }
    return citations;
  } catch (const std::exception& error) {
    return Error{ErrorCode::kStorage, std::string("The citations cannot be resolved: ") + error.what() + "."};
  }
}

}  // namespace lectern::retrieval
