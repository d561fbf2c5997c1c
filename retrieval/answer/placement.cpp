// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer/placement.h"

#include <algorithm>
#include <string_view>

namespace lectern::retrieval {
namespace {

// `word` stands to the right of what `line` covers, on the same height.
bool continues(const Rect& line, const Rect& word) {
  const float middle = (word.top + word.bottom) / 2;
  return middle > line.top && middle < line.bottom && word.left >= line.left;
}

std::uint32_t line_at(std::string_view text, std::size_t offset) {
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(offset, text.size()));
  return 1 + static_cast<std::uint32_t>(std::count(text.begin(), end, '\n'));
}

// Words of one page that a citation covers.
struct CoveredWords {
  std::uint32_t page = 0;  // index
  std::vector<Word> words;
};

void cover(const ExtractedPage& page, std::uint32_t index, std::size_t begin, std::size_t end,
           std::vector<CoveredWords>& covered) {
  if (covered.empty() || covered.back().page != index) covered.push_back({index, {}});
  std::vector<Word>& words = covered.back().words;
  auto word = std::ranges::upper_bound(page.words, begin, {}, &Word::end);
  for (; word != page.words.end() && word->begin < end; ++word) {
    // Two runs may share a word.
    if (words.empty() || words.back().begin != word->begin) words.push_back(*word);
  }
}

void widen_lines(const ExtractedPage& page, std::size_t begin, std::size_t end, Citation& citation) {
  const std::uint32_t first = line_at(page.text, begin);
  const std::uint32_t last = line_at(page.text, end - 1);
  citation.first_line = citation.first_line == 0 ? first : std::min(citation.first_line, first);
  citation.last_line = std::max(citation.last_line, last);
}

}  // namespace

std::vector<Rect> line_rects(std::span<const Word> words) {
  std::vector<Rect> lines;
  for (const Word& word : words) {
    if (lines.empty() || !continues(lines.back(), word.rect)) {
      lines.push_back(word.rect);
      continue;
    }
    Rect& line = lines.back();
    line.top = std::min(line.top, word.rect.top);
    line.right = std::max(line.right, word.rect.right);
    line.bottom = std::max(line.bottom, word.rect.bottom);
  }
  return lines;
}

Result<const ExtractedPage*> PageReader::page(DocumentId document, std::uint32_t index) {
  const std::pair key(document, index);
  auto found = pages_.find(key);
  if (found == pages_.end()) {
    RETRIEVAL_TRY(ExtractedPage page, library_.page(document, index));
    found = pages_.emplace(key, std::move(page)).first;
  }
  return static_cast<const ExtractedPage*>(&found->second);
}

Result<void> place(const Chunk& chunk, ByteRange range, PageReader& pages, Citation& citation) {
  std::vector<CoveredWords> covered;
  for (const TextRun& run : chunk.runs) {
    const std::size_t begin = std::max<std::size_t>(range.first, run.chunk_offset);
    const std::size_t end = std::min<std::size_t>(range.second, std::size_t{run.chunk_offset} + run.length);
    if (begin >= end) continue;
    RETRIEVAL_TRY(const ExtractedPage* page, pages.page(citation.document, run.page));
    const std::size_t on_page = run.page_offset + (begin - run.chunk_offset);
    if (citation.kind == DocumentKind::kPdf) {
      cover(*page, run.page, on_page, on_page + (end - begin), covered);
    } else {
      widen_lines(*page, on_page, on_page + (end - begin), citation);
    }
  }
  for (const CoveredWords& page : covered) citation.highlights.push_back({page.page + 1, line_rects(page.words)});
  return {};
}

}  // namespace lectern::retrieval
