// SPDX-License-Identifier: GPL-3.0-or-later
#include "document_loader.h"

#include <QCoreApplication>
#include <algorithm>
#include <map>
#include <system_error>

#include "display_text.h"

namespace lectern::ui {

namespace {

// A text view lays out a line as a whole; a minified file would stop it.
constexpr qsizetype kLongestShownLine = 4000;
constexpr std::uint64_t kMostHighlightWords = 20'000;

QString withoutEndlessLines(const QString& text) {
  QStringList lines = text.split(u'\n');
  bool cut = false;
  for (QString& line : lines) {
    if (line.size() <= kLongestShownLine) continue;
    line = line.left(kLongestShownLine) + QStringLiteral(" … ") +
           QCoreApplication::translate("ReaderView", "(line shortened for display)");
    cut = true;
  }
  return cut ? lines.join(u'\n') : text;
}

bool onSameLine(const retrieval::Rect& a, const retrieval::Rect& b) {
  const float overlap = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  const float height = std::min(a.bottom - a.top, b.bottom - b.top);
  return overlap > 0.5F * height && b.left >= a.left;
}

void append(std::vector<retrieval::Rect>& rects, const retrieval::Rect& word) {
  if (rects.empty() || !onSameLine(rects.back(), word)) {
    rects.push_back(word);
    return;
  }
  retrieval::Rect& line = rects.back();
  line.top = std::min(line.top, word.top);
  line.right = std::max(line.right, word.right);
  line.bottom = std::max(line.bottom, word.bottom);
}

retrieval::Result<ReaderDocument> load(const retrieval::Library& library, ReaderTarget target) {
  ReaderDocument document;
  RETRIEVAL_TRY(document.info, library.document(target.document));
  std::error_code error;
  const auto size = std::filesystem::file_size(document.info.path, error);
  document.fileMissing = static_cast<bool>(error);
  document.fileChanged = !error && static_cast<std::int64_t>(size) != document.info.bytes;

  if (document.info.kind != retrieval::DocumentKind::kPdf) {
    RETRIEVAL_TRY(const retrieval::ExtractedPage page, library.page(target.document, 0));
    document.text = withoutEndlessLines(displayText(page.text));
  } else if (target.chunk != 0 && target.highlights.empty()) {
    RETRIEVAL_TRY(const retrieval::Chunk chunk, library.chunk(target.chunk));
    target.highlights = passageHighlights(library, chunk, target.document);
  }
  document.target = std::move(target);
  return document;
}

}  // namespace

ReaderTarget targetOf(const retrieval::Citation& citation) {
  ReaderTarget target;
  target.document = citation.document;
  target.highlights = citation.highlights;
  target.page = citation.highlights.empty() ? 0 : citation.highlights.front().page;
  target.firstLine = citation.first_line;
  target.lastLine = citation.last_line;
  target.chunk = citation.chunk;
  return target;
}

ReaderTarget targetOf(const retrieval::SearchHit& hit) {
  ReaderTarget target;
  target.document = hit.document;
  target.page = hit.page;
  target.firstLine = hit.first_line;
  target.lastLine = hit.last_line;
  target.chunk = hit.chunk;
  return target;
}

std::vector<retrieval::PageHighlight> passageHighlights(const retrieval::Library& library,
                                                        const retrieval::Chunk& chunk, retrieval::DocumentId document) {
  std::map<std::uint32_t, std::vector<retrieval::TextRun>> runsOfPage;
  for (const retrieval::TextRun& run : chunk.runs) runsOfPage[run.page].push_back(run);

  std::vector<retrieval::PageHighlight> highlights;
  std::uint64_t words = 0;
  for (const auto& [pageIndex, runs] : runsOfPage) {
    const auto page = library.page(document, pageIndex);
    if (!page.ok()) continue;
    retrieval::PageHighlight highlight{pageIndex + 1, {}};
    for (const retrieval::Word& word : page->words) {
      const bool inside = std::any_of(runs.begin(), runs.end(), [&](const retrieval::TextRun& run) {
        return word.begin < std::uint64_t{run.page_offset} + run.length && word.end > run.page_offset;
      });
      if (inside && ++words <= kMostHighlightWords) append(highlight.rects, word.rect);
    }
    if (!highlight.rects.empty()) highlights.push_back(std::move(highlight));
  }
  return highlights;
}

DocumentLoader::DocumentLoader(std::shared_ptr<retrieval::Library> library, QObject* parent)
    : QObject(parent), m_library(std::move(library)), m_thread(QStringLiteral("reader")) {}

void DocumentLoader::open(const ReaderTarget& target) {
  m_page.abandon();
  m_open = m_thread.submit([library = m_library, target](const JobContext&) { return load(*library, target); },
                           [this](const retrieval::Result<ReaderDocument>& document) {
                             if (document.ok()) {
                               emit opened(*document);
                             } else {
                               emit failed(displayText(document.error().message));
                             }
                           });
}

void DocumentLoader::readPage(retrieval::DocumentId document, int page) {
  m_page = m_thread.submit([library = m_library, document, page](
                               const JobContext&) { return library->page(document, static_cast<std::uint32_t>(page)); },
                           [this, document, page](const retrieval::Result<retrieval::ExtractedPage>& content) {
                             if (content.ok()) {
                               emit pageRead(document, page, *content);
                             } else {
                               emit failed(displayText(content.error().message));
                             }
                           });
}

}  // namespace lectern::ui
