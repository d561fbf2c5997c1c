// SPDX-License-Identifier: GPL-3.0-or-later
#include "cli_places.h"

#include <cstdint>

namespace lectern::app {
namespace {

std::string place(const std::string& title, const std::filesystem::path& path, std::uint32_t page,
                  std::uint32_t firstLine, std::uint32_t lastLine) {
  if (page > 0) return title + ", page " + std::to_string(page);
  if (firstLine == 0) return title;
  std::string lines = std::to_string(firstLine);
  if (lastLine > firstLine) lines += "-" + std::to_string(lastLine);
  return path.string() + ":" + lines;
}

}  // namespace

std::string placeOf(const retrieval::SearchHit& hit) {
  return place(hit.title, hit.path.filename(), hit.page, hit.first_line, hit.last_line);
}

std::string placeOf(const retrieval::Citation& citation) {
  const std::uint32_t page = citation.highlights.empty() ? 0 : citation.highlights.front().page;
  return place(citation.title, citation.path, page, citation.first_line, citation.last_line);
}

}  // namespace lectern::app
