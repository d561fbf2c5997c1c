// SPDX-License-Identifier: GPL-3.0-or-later
// Any file content, of any kind, is cut into chunks that can be traced back byte by byte.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "documents/chunker.h"
#include "documents/ignore_rules.h"
#include "documents/sentences.h"
#include "retrieval/extract.h"

namespace {

using namespace lectern::retrieval;

void require(bool condition) {
  if (!condition) std::abort();
}

bool is_white(std::string_view text) { return text.find_first_not_of(" \n") == std::string_view::npos; }

void check_chunk(const ExtractedDocument& document, const Chunk& chunk) {
  require(!chunk.runs.empty());
  std::size_t done = 0;
  for (const TextRun& run : chunk.runs) {
    require(run.length > 0 && done <= run.chunk_offset);
    require(is_white(std::string_view(chunk.text).substr(done, run.chunk_offset - done)));
    const std::string& page = document.pages.at(run.page).text;
    require(page.compare(run.page_offset, run.length, chunk.text, run.chunk_offset, run.length) == 0);
    done = std::size_t{run.chunk_offset} + run.length;
  }
  require(is_white(std::string_view(chunk.text).substr(done)));
  require(document.kind == DocumentKind::kPdf || (1 <= chunk.first_line && chunk.first_line <= chunk.last_line));
}

// Without a PDF: the pages' words get places from their position in the text, so that layout analysis has work.
void give_places(ExtractedPage& page, std::uint8_t seed) {
  page.width_points = 600;
  page.height_points = 800;
  float top = 0.02F;
  for (std::uint32_t begin = 0; begin < page.text.size() && page.words.size() < 2000;) {
    const std::size_t found = page.text.find_first_of(" \n", begin);
    const auto end = static_cast<std::uint32_t>(std::min(found, page.text.size()));
    const float left = static_cast<float>(page.words.size() * 13 % 80) / 100.0F;
    const float height = (end + seed) % 7 == 0 ? 0.03F : 0.015F;
    if (end > begin) page.words.push_back({begin, end, {left, top, left + 0.1F, top + height}});
    if (end < page.text.size() && page.text[end] == '\n') top = top > 0.9F ? 0.02F : top + 0.02F;
    begin = end + 1;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  static const std::vector<std::string> kNames = {"a.txt", "a.md", "a.cpp", "a.py", "a.js", "a.tex"};
  const std::uint8_t choice = data[0];
  const std::string bytes(data + 1, data + size);
  auto document = extract_bytes(kNames[choice % kNames.size()], bytes, ExtractLimits{}, {});
  if (!document.ok()) return 0;
  if (choice >= 128) {
    document->kind = DocumentKind::kPdf;
    document->pages.push_back(document->pages.front());
    for (ExtractedPage& page : document->pages) give_places(page, choice);
  }
  for (const Chunk& chunk : chunk_document(*document)) check_chunk(*document, chunk);
  std::size_t done = 0;
  for (const auto& [begin, end] : split_sentences(document->pages.front().text)) {
    require(done <= begin && begin < end && end <= document->pages.front().text.size());
    done = end;
  }
  IgnoreRules rules;
  rules.add("", std::string_view(bytes).substr(0, bytes.size() / 2));
  static_cast<void>(rules.ignored(std::string_view(bytes).substr(bytes.size() / 2), (choice & 1) != 0));
  return 0;
}
