// SPDX-License-Identifier: GPL-3.0-or-later
#include "chunker.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "code_chunks.h"
#include "markdown.h"
#include "pdf_layout.h"
#include "prose.h"
#include "stopping.h"

namespace lectern::retrieval {
namespace {

struct LineRange {
  std::size_t begin = 0;
  std::size_t end = 0;  // without '\n'
};

std::vector<LineRange> line_ranges(std::string_view text, const std::vector<std::string_view>& lines) {
  std::vector<LineRange> ranges;
  ranges.reserve(lines.size());
  for (const std::string_view line : lines) {
    const auto begin = static_cast<std::size_t>(line.data() - text.data());
    ranges.push_back({begin, begin + line.size()});
  }
  return ranges;
}

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\f\v");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\f\v") - first + 1);
}

// Bytes of quote marks "> " in front of a Markdown line.
std::size_t quote_marks(std::string_view line) {
  std::size_t i = 0;
  std::size_t behind = 0;
  while (i < line.size() && (line[i] == ' ' || line[i] == '>')) {
    if (line[i] == '>') behind = i + 1;
    ++i;
  }
  return behind;
}

class MarkdownPage {
 public:
  MarkdownPage(const ExtractedPage& page, std::uint32_t index, const std::stop_token& stop)
      : text_(page.text), index_(index), lines_(split_lines(text_)), ranges_(line_ranges(text_, lines_)), stop_(stop) {
    vocabulary_.add(text_, stop);
  }

  void add_blocks(std::vector<ProseBlock>& blocks) const {
    for (const MarkdownBlock& source : markdown_blocks(lines_, stop_)) {
      ProseBlock block;
      if (source.kind == MarkdownBlockKind::kVerbatim) {
        block.kind = ProseBlockKind::kVerbatim;
        block.passage.copy(index_, text_, ranges_[source.first_line].begin, ranges_[source.end_line - 1].end);
      } else {
        for (std::size_t i = source.first_line; i < source.end_line; ++i) {
          throw_if_stopped(stop_);
          append_line(block.passage, index_, text_, ranges_[i].begin + quote_marks(lines_[i]), ranges_[i].end,
                      vocabulary_);
        }
      }
      if (source.kind == MarkdownBlockKind::kHeading) {
        block.kind = ProseBlockKind::kHeading;
        block.heading = source.heading;
        const std::size_t marks = lines_[source.first_line].find_first_not_of(" #");
        const std::size_t level = lines_[source.first_line].substr(0, marks).find_last_of('#');
        block.level = level == std::string_view::npos ? 1 : static_cast<double>(level) + 1;
      }
      if (!block.passage.empty()) blocks.push_back(std::move(block));
    }
  }

 private:
  std::string_view text_;
  std::uint32_t index_;
  std::vector<std::string_view> lines_;
  std::vector<LineRange> ranges_;
  const std::stop_token& stop_;
  Vocabulary vocabulary_;
};

// Plain text: paragraphs between blank lines, headings by number, capitals or underline.
class TextPage {
 public:
  TextPage(const ExtractedPage& page, std::uint32_t index, const std::stop_token& stop)
      : text_(page.text), index_(index), lines_(split_lines(text_)), ranges_(line_ranges(text_, lines_)), stop_(stop) {
    vocabulary_.add(text_, stop);
  }

  void add_blocks(std::vector<ProseBlock>& blocks) const {
    for (std::size_t i = 0; i < lines_.size();) {
      throw_if_stopped(stop_);
      if (blank(i) || is_underline(i)) {
        ++i;
      } else {
        const bool heading = is_heading(i);
        std::size_t end = i + 1;
        while (!heading && end < lines_.size() && !blank(end) && !is_underline(end) &&
               !starts_with_bullet(trim(lines_[end])) && !is_heading(end)) {
          ++end;
        }
        add(blocks, i, end, heading);
        i = end;
      }
    }
  }

 private:
  bool blank(std::size_t i) const { return i >= lines_.size() || trim(lines_[i]).empty(); }

  bool is_underline(std::size_t i) const {
    const std::string_view line = trim(lines_[i]);
    return line.size() >= 3 && std::string_view("=-~*_#").find(line[0]) != std::string_view::npos &&
           line.find_first_not_of(line[0]) == std::string_view::npos;
  }

  bool is_heading(std::size_t i) const {
    const std::string_view line = trim(lines_[i]);
    if (line.empty() || line.size() > 100 || line.ends_with('.') || line.ends_with(',') || is_underline(i))
      return false;
    if (i > 0 && !blank(i - 1) && !is_underline(i - 1)) return false;
    if (i + 1 < lines_.size() && is_underline(i + 1)) return true;
    return blank(i + 1) && (numbered_heading_depth(line) > 0 || is_all_capitals(line));
  }

  void add(std::vector<ProseBlock>& blocks, std::size_t begin, std::size_t end, bool heading) const {
    ProseBlock block;
    for (std::size_t i = begin; i < end; ++i) {
      throw_if_stopped(stop_);
      append_line(block.passage, index_, text_, ranges_[i].begin, ranges_[i].end, vocabulary_);
    }
    if (heading) {
      block.kind = ProseBlockKind::kHeading;
      block.heading = block.passage.text();
      block.level = numbered_heading_depth(block.heading);
    }
    if (!block.passage.empty()) blocks.push_back(std::move(block));
  }

  std::string_view text_;
  std::uint32_t index_;
  std::vector<std::string_view> lines_;
  std::vector<LineRange> ranges_;
  const std::stop_token& stop_;
  Vocabulary vocabulary_;
};

template <class Page>
std::vector<ProseBlock> page_blocks(const ExtractedDocument& document, const std::stop_token& stop) {
  std::vector<ProseBlock> blocks;
  for (std::size_t index = 0; index < document.pages.size(); ++index) {
    Page(document.pages[index], static_cast<std::uint32_t>(index), stop).add_blocks(blocks);
  }
  return blocks;
}

std::vector<Chunk> cut(const ExtractedDocument& document, const ChunkOptions& options, const std::stop_token& stop) {
  switch (document.kind) {
    case DocumentKind::kPdf:
      return pack_prose(pdf_blocks(document, stop), options, stop);
    case DocumentKind::kMarkdown:
      return pack_prose(page_blocks<MarkdownPage>(document, stop), options, stop);
    case DocumentKind::kCode:
      return chunk_code(document, options, stop);
    case DocumentKind::kText:
      break;
  }
  return pack_prose(page_blocks<TextPage>(document, stop), options, stop);
}

// Line numbers from 1 of the first and last byte that a chunk copies from its first page.
void number_lines(const ExtractedDocument& document, std::vector<Chunk>& chunks) {
  std::vector<std::vector<std::size_t>> line_ends(document.pages.size());
  for (std::size_t page = 0; page < document.pages.size(); ++page) {
    const std::string& text = document.pages[page].text;
    for (std::size_t i = text.find('\n'); i != std::string::npos; i = text.find('\n', i + 1))
      line_ends[page].push_back(i);
  }
  const auto line_of = [&](std::uint32_t page, std::size_t offset) {
    const std::vector<std::size_t>& ends = line_ends[page];
    return static_cast<std::uint32_t>(std::lower_bound(ends.begin(), ends.end(), offset) - ends.begin()) + 1;
  };
  for (Chunk& chunk : chunks) {
    const TextRun& first = chunk.runs.front();
    const TextRun& last = chunk.runs.back();
    chunk.first_line = line_of(first.page, first.page_offset);
    chunk.last_line = line_of(last.page, std::size_t{last.page_offset} + last.length - 1);
  }
}

}  // namespace

std::vector<Chunk> chunk_document(const ExtractedDocument& document, const ChunkOptions& options,
                                  const std::stop_token& stop) {
  ChunkOptions sane = options;
  sane.max_words = std::max<std::uint32_t>(sane.max_words, 1);
  sane.target_words = std::clamp<std::uint32_t>(sane.target_words, 1, sane.max_words);
  sane.code_lines = std::max<std::uint32_t>(sane.code_lines, 1);
  try {
    std::vector<Chunk> chunks = cut(document, sane, stop);
    if (document.kind != DocumentKind::kPdf) number_lines(document, chunks);
    return chunks;
  } catch (const ChunkingStopped&) {
    return {};
  }
}

}  // namespace lectern::retrieval
