// SPDX-License-Identifier: GPL-3.0-or-later
#include "code_chunks.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "markdown.h"
#include "passage.h"
#include "source_code.h"
#include "stopping.h"

namespace lectern::retrieval {
namespace {

constexpr std::size_t kMostBytes = 8192;      // of one chunk: a minified line is cut there
constexpr std::size_t kSmallChunkLines = 12;  // below it, the next symbol joins the chunk

struct CodeLine {
  std::size_t begin = 0;
  std::size_t end = 0;  // without '\n'
  std::size_t indent = 0;
  bool blank = false;
  bool attached = false;  // a comment, decorator or attribute: belongs to what follows
  std::string symbol;     // it defines; empty: none
};

struct OpenSymbol {
  std::size_t indent = 0;
  std::string name;
};

std::size_t indent_of(std::string_view line) {
  std::size_t columns = 0;
  for (const char c : line) {
    if (c != ' ' && c != '\t') break;
    columns += c == '\t' ? 4 - columns % 4 : 1;
  }
  return columns;
}

bool is_attached(std::string_view text) {
  for (const std::string_view mark : {"//", "#", "/*", "*", "@", "--", ";;", "\"\"\"", "[[", "template", "%"}) {
    if (text.starts_with(mark)) return !text.starts_with("#include") && !text.starts_with("#define");
  }
  return false;
}

std::vector<CodeLine> read_lines(std::string_view text, const std::string& language, const std::stop_token& stop) {
  std::vector<CodeLine> lines;
  for (const std::string_view line : split_lines(text)) {
    throw_if_stopped(stop);
    CodeLine item;
    item.begin = static_cast<std::size_t>(line.data() - text.data());
    item.end = item.begin + line.size();
    const std::size_t first = line.find_first_not_of(" \t\f\r\v");
    item.blank = first == std::string_view::npos;
    if (!item.blank) {
      item.indent = indent_of(line);
      item.attached = is_attached(line.substr(first));
      if (!item.attached) item.symbol = defined_symbol(line, language).value_or("");
    }
    lines.push_back(std::move(item));
  }
  return lines;
}

class CodeCutter {
 public:
  CodeCutter(const ExtractedPage& page, std::uint32_t page_index, std::vector<CodeLine> lines,
             const ChunkOptions& options, const std::stop_token& stop)
      : text_(page.text),
        page_(page_index),
        lines_(std::move(lines)),
        most_lines_(std::max<std::size_t>(options.code_lines, 1)),
        stop_(stop) {}

  void cut(std::vector<Chunk>& chunks) {
    std::size_t begin = 0;
    while (begin < lines_.size()) {
      throw_if_stopped(stop_);
      while (begin < lines_.size() && lines_[begin].blank) ++begin;
      if (begin == lines_.size()) break;
      const std::size_t end = end_of_chunk(begin);
      emit(begin, end, chunks);
      begin = end;
    }
  }

 private:
  // The start of the definition at line `i`: the comments and attributes directly above it, not before `floor`.
  std::size_t with_attached(std::size_t i, std::size_t floor) const {
    while (i > floor && lines_[i - 1].attached && lines_[i - 1].indent == lines_[i].indent) --i;
    return i;
  }

  bool outermost(std::size_t i, std::size_t begin) const {
    return !lines_[i].symbol.empty() && lines_[i].indent <= lines_[begin].indent;
  }

  std::size_t end_of_chunk(std::size_t begin) const {
    std::size_t bytes = 0;
    std::size_t limit = begin;
    while (limit < lines_.size() && limit - begin < most_lines_) {
      bytes += lines_[limit].end - lines_[limit].begin + 1;
      if (bytes > kMostBytes && limit > begin) break;
      ++limit;
    }
    for (std::size_t i = begin + kSmallChunkLines; i < limit; ++i) {
      if (!outermost(i, begin)) continue;
      const std::size_t start = with_attached(i, begin + 1);
      if (start >= begin + kSmallChunkLines / 2) return start;
    }
    return limit == lines_.size() ? limit : best_cut(begin, limit);
  }

  // A symbol is longer than a chunk: cut before an inner definition, else behind a blank line, late rather than early.
  std::size_t best_cut(std::size_t begin, std::size_t limit) const {
    const std::size_t earliest = begin + std::max<std::size_t>((limit - begin) / 3, 1);
    std::size_t best = limit;
    std::size_t best_indent = std::string::npos;
    int best_rank = 3;
    for (std::size_t i = limit; i >= earliest && i > begin; --i) {
      if (i >= lines_.size() || lines_[i].blank) continue;
      const bool after_blank = lines_[i - 1].blank;
      const bool defines = !lines_[with_definition(i)].symbol.empty();
      const int rank = defines && (after_blank || lines_[i].attached || !lines_[i - 1].attached) ? 0
                       : after_blank                                                             ? 1
                                                                                                 : 2;
      if (rank < best_rank || (rank == best_rank && rank < 2 && lines_[i].indent < best_indent)) {
        best = i;
        best_rank = rank;
        best_indent = lines_[i].indent;
      }
    }
    return best_rank < 2 ? best : limit;
  }

  // The definition that attached lines starting at `i` lead to, else `i`.
  std::size_t with_definition(std::size_t i) const {
    std::size_t at = i;
    while (at + 1 < lines_.size() && at < i + most_lines_ && lines_[at].attached) ++at;
    return lines_[at].symbol.empty() ? i : at;
  }

  // Follows the nesting of definitions by their indentation.
  void track(std::size_t i) {
    if (lines_[i].blank || lines_[i].symbol.empty()) return;
    while (!open_.empty() && open_.back().indent >= lines_[i].indent) open_.pop_back();
    open_.push_back({lines_[i].indent, lines_[i].symbol});
  }

  std::string open_name() const {
    std::string name;
    for (const OpenSymbol& symbol : open_) name += (name.empty() ? "" : ".") + symbol.name;
    return name.size() > 200 ? open_.back().name : name;
  }

  // Closes definitions that a line of smaller or equal indentation ends; a closing brace still belongs to them.
  void leave(std::size_t i) {
    const char first = text_[lines_[i].begin + std::min(lines_[i].indent, lines_[i].end - lines_[i].begin - 1)];
    if (first == '}' || first == '{' || first == ')') return;
    while (!open_.empty() && open_.back().indent >= lines_[i].indent) open_.pop_back();
  }

  void emit(std::size_t begin, std::size_t end, std::vector<Chunk>& chunks) {
    std::size_t last = end;
    while (last > begin + 1 && lines_[last - 1].blank) --last;
    std::string heading;
    for (std::size_t i = begin; i < end; ++i) {
      if (lines_[i].blank) continue;
      if (lines_[i].symbol.empty() && !lines_[i].attached && i == begin) leave(i);
      if (i == begin && lines_[i].symbol.empty() && !lines_[i].attached) heading = open_name();
      track(i);
      if (heading.empty() && !lines_[i].symbol.empty()) heading = open_name();
    }
    if (heading.empty()) heading = open_name();
    emit_pieces(begin, last, heading, chunks);
  }

  // One chunk, or several when a single line is longer than a chunk may be.
  void emit_pieces(std::size_t begin, std::size_t last, const std::string& heading, std::vector<Chunk>& chunks) {
    const std::size_t end = lines_[last - 1].end;
    for (std::size_t from = lines_[begin].begin; from < end;) {
      throw_if_stopped(stop_);
      std::size_t to = std::min(end, from + kMostBytes + most_lines_);
      while (to < end && to > from + 1 && (static_cast<unsigned char>(text_[to]) & 0xC0) == 0x80) --to;
      Passage passage;
      passage.copy(page_, text_, from, to);
      Chunk chunk;
      chunk.text = passage.text();
      chunk.runs = passage.runs();
      chunk.heading = heading;
      chunks.push_back(std::move(chunk));
      from = to;
    }
  }

  std::string_view text_;
  std::uint32_t page_;
  std::vector<CodeLine> lines_;
  std::size_t most_lines_;
  const std::stop_token& stop_;
  std::vector<OpenSymbol> open_;
};

}  // namespace

std::vector<Chunk> chunk_code(const ExtractedDocument& document, const ChunkOptions& options,
                              const std::stop_token& stop) {
  std::vector<Chunk> chunks;
  for (std::size_t index = 0; index < document.pages.size(); ++index) {
    const ExtractedPage& page = document.pages[index];
    CodeCutter cutter(page, static_cast<std::uint32_t>(index), read_lines(page.text, document.language, stop), options,
                      stop);
    cutter.cut(chunks);
  }
  return chunks;
}

}  // namespace lectern::retrieval
