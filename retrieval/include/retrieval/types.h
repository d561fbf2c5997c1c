// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace lectern::retrieval {

using DocumentId = std::int64_t;
using ChunkId = std::int64_t;

enum class DocumentKind { kPdf, kText, kMarkdown, kCode };

// A rectangle in fractions of the page, origin top left: 0 <= left < right <= 1.
struct Rect {
  float left = 0;
  float top = 0;
  float right = 0;
  float bottom = 0;
};

// One word of a page: bytes [begin, end) of ExtractedPage::text and where it stands.
struct Word {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  Rect rect;
};

// A page of a PDF; text, Markdown and code are one page without words, lines separated by '\n'.
struct ExtractedPage {
  std::string text;  // valid UTF-8, reading order
  float width_points = 0;
  float height_points = 0;
  std::vector<Word> words;
};

// What an extractor makes of one file.
struct ExtractedDocument {
  DocumentKind kind = DocumentKind::kText;
  std::string title;     // from metadata or the first heading; may be empty
  std::string language;  // of source code: "cpp", "python", ...; else empty
  std::vector<ExtractedPage> pages;
  std::vector<std::string> warnings;  // for people: "page 3 holds no text (scanned?)"
};

// `length` bytes of chunk text at `chunk_offset` are a verbatim copy of page text at `page_offset`.
// Bytes of the chunk outside all runs (joining spaces) were made by the chunker.
struct TextRun {
  std::uint32_t chunk_offset = 0;
  std::uint32_t page = 0;  // index, from 0
  std::uint32_t page_offset = 0;
  std::uint32_t length = 0;
};

struct Chunk {
  std::string text;     // prose: spaces normalised, hyphenated line ends joined; code: lines as they are
  std::string heading;  // nearest heading or symbol above; may be empty
  std::vector<TextRun> runs;
  std::uint32_t first_line = 0;  // from 1, inside the first run's page; 0 for PDF
  std::uint32_t last_line = 0;
};

enum class DocumentState { kReady, kPartial, kFailed };

struct DocumentInfo {
  DocumentId id = 0;
  std::filesystem::path path;  // absolute
  std::string title;           // never empty: falls back to the file name
  DocumentKind kind = DocumentKind::kText;
  DocumentState state = DocumentState::kReady;
  std::string note;  // why partial or failed, or warnings
  std::int64_t pages = 0;
  std::int64_t chunks = 0;
  std::int64_t bytes = 0;
};

struct SearchOptions {
  int limit = 10;
  std::vector<DocumentId> documents;  // empty: all
};

struct SearchHit {
  ChunkId chunk = 0;
  DocumentId document = 0;
  std::string title;
  std::filesystem::path path;
  std::string heading;
  std::string text;              // the chunk's text
  std::uint32_t page = 0;        // from 1; 0 when the document has no pages
  std::uint32_t first_line = 0;  // from 1; 0 for PDF
  std::uint32_t last_line = 0;
  double score = 0;   // reciprocal rank fusion
  int word_rank = 0;  // rank among BM25 hits, from 1; 0: not found by words
  int vector_rank = 0;
};

// Rectangles on one page, one per line of text covered.
struct PageHighlight {
  std::uint32_t page = 0;  // from 1
  std::vector<Rect> rects;
};

// Where a quoted sentence stands. PDF: highlights; text and code: lines.
struct Citation {
  int mark = 0;  // n of "[n]" in the answer
  DocumentId document = 0;
  ChunkId chunk = 0;
  std::string title;
  std::filesystem::path path;
  DocumentKind kind = DocumentKind::kText;
  std::string claim;      // the answer's sentence that carries the mark
  std::string quote;      // the document's own words that support it; empty when none were found
  bool verified = false;  // claim (or the quotation inside it) stands word for word in the document
  std::vector<PageHighlight> highlights;
  std::uint32_t first_line = 0;
  std::uint32_t last_line = 0;
};

}  // namespace lectern::retrieval
