// SPDX-License-Identifier: GPL-3.0-or-later
#include "markdown.h"

#include <algorithm>
#include <cctype>

#include "stopping.h"

namespace lectern::retrieval {
namespace {

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\f\v");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\f\v") - first + 1);
}

// Columns of white space before the first character; a tab ends at the next multiple of four.
std::size_t indent_of(std::string_view line) {
  std::size_t columns = 0;
  for (const char c : line) {
    if (c == ' ') {
      ++columns;
    } else if (c == '\t') {
      columns += 4 - columns % 4;
    } else {
      break;
    }
  }
  return columns;
}

bool is_blank(std::string_view line) { return trim(line).empty(); }

// Length of a run of ` or ~ that opens a fence, else 0.
std::size_t fence_length(std::string_view line) {
  const std::string_view text = trim(line);
  if (indent_of(line) > 3 || text.empty() || (text[0] != '`' && text[0] != '~')) return 0;
  const std::size_t end = text.find_first_not_of(text[0]);
  const std::size_t length = end == std::string_view::npos ? text.size() : end;
  const bool inline_code = text[0] == '`' && end != std::string_view::npos && text.find('`', end) != text.npos;
  return length >= 3 && !inline_code ? length : 0;
}

bool closes_fence(std::string_view line, char mark, std::size_t length) {
  const std::string_view text = trim(line);
  return text.size() >= length && text.find_first_not_of(mark) == std::string_view::npos;
}

std::size_t atx_level(std::string_view line) {
  const std::string_view text = trim(line);
  const std::size_t level = std::min(text.find_first_not_of('#'), text.size());
  const bool spaced = level == text.size() || text[level] == ' ' || text[level] == '\t';
  return indent_of(line) <= 3 && level >= 1 && level <= 6 && spaced ? level : 0;
}

std::string atx_text(std::string_view line) {
  std::string_view text = trim(line);
  text = trim(text.substr(atx_level(line)));
  const std::size_t end = text.find_last_not_of('#');
  if (end == std::string_view::npos) return {};
  const bool closing_marks = end + 1 < text.size() && (text[end] == ' ' || text[end] == '\t');
  return std::string(closing_marks ? trim(text.substr(0, end)) : text);
}

// A line made of one mark repeated, spaces allowed between: "---", "* * *", "====".
bool is_made_of(std::string_view line, char mark, std::size_t at_least) {
  const auto count = static_cast<std::size_t>(std::count(line.begin(), line.end(), mark));
  const bool only = std::all_of(line.begin(), line.end(), [&](char c) { return c == mark || c == ' ' || c == '\t'; });
  return only && count >= at_least;
}

bool is_rule(std::string_view line) {
  return is_made_of(line, '-', 3) || is_made_of(line, '*', 3) || is_made_of(line, '_', 3);
}

bool underlines_heading(std::string_view line) {
  const std::string_view text = trim(line);
  return indent_of(line) <= 3 && text.size() >= 2 &&
         (text.find_first_not_of('=') == std::string_view::npos ||
          text.find_first_not_of('-') == std::string_view::npos);
}

bool starts_list_item(std::string_view line) {
  const std::string_view text = trim(line);
  if (text.size() < 2 || is_rule(line)) return false;
  const auto space_at = [&](std::size_t i) { return i < text.size() && (text[i] == ' ' || text[i] == '\t'); };
  if (text[0] == '-' || text[0] == '*' || text[0] == '+') return space_at(1);
  const std::size_t digits = text.find_first_not_of("0123456789");
  return digits != std::string_view::npos && digits >= 1 && digits <= 9 &&
         (text[digits] == '.' || text[digits] == ')') && space_at(digits + 1);
}

bool is_table_row(std::string_view line) {
  const std::string_view text = trim(line);
  return text.size() > 2 && text.front() == '|' && text.find('|', 1) != std::string_view::npos;
}

class BlockReader {
 public:
  BlockReader(const std::vector<std::string_view>& lines, const std::stop_token& stop) : lines_(lines), stop_(stop) {}

  std::vector<MarkdownBlock> read() {
    read_front_matter();
    while (line_ < lines_.size()) {
      throw_if_stopped(stop_);
      read_block();
    }
    return std::move(blocks_);
  }

 private:
  void emit(MarkdownBlockKind kind, std::size_t end, std::string heading = {}) {
    blocks_.push_back({kind, line_, end, std::move(heading)});
    line_ = end;
  }

  void read_front_matter() {
    if (lines_.empty() || trim(lines_[0]) != "---") return;
    for (std::size_t i = 1; i < lines_.size() && i < 200; ++i) {
      if (trim(lines_[i]) == "---") return emit(MarkdownBlockKind::kVerbatim, i + 1);
      if (is_blank(lines_[i])) return;
    }
  }

  void read_block() {
    const std::string_view line = lines_[line_];
    if (is_blank(line) || is_rule(line)) {
      ++line_;
    } else if (fence_length(line) > 0) {
      read_fence();
    } else if (atx_level(line) > 0) {
      emit(MarkdownBlockKind::kHeading, line_ + 1, atx_text(line));
    } else if (is_table_row(line)) {
      emit(MarkdownBlockKind::kVerbatim, end_while([](std::string_view next) { return is_table_row(next); }));
    } else if (indent_of(line) >= 4 && !inside_list()) {
      read_indented_code();
    } else {
      read_text();
    }
  }

  template <class Keep>
  std::size_t end_while(Keep keep) const {
    std::size_t end = line_ + 1;
    while (end < lines_.size() && keep(lines_[end])) {
      throw_if_stopped(stop_);
      ++end;
    }
    return end;
  }

  bool inside_list() const { return !blocks_.empty() && blocks_.back().kind == MarkdownBlockKind::kListItem; }

  void read_fence() {
    const char mark = trim(lines_[line_])[0];
    const std::size_t length = fence_length(lines_[line_]);
    const std::size_t end = end_while([&](std::string_view next) { return !closes_fence(next, mark, length); });
    emit(MarkdownBlockKind::kVerbatim, std::min(end + 1, lines_.size()));
  }

  void read_indented_code() {
    std::size_t end = end_while([](std::string_view next) { return is_blank(next) || indent_of(next) >= 4; });
    while (is_blank(lines_[end - 1])) --end;
    emit(MarkdownBlockKind::kVerbatim, end);
  }

  void read_text() {
    const bool item = starts_list_item(lines_[line_]);
    const std::size_t end = end_while([](std::string_view next) {
      return !is_blank(next) && fence_length(next) == 0 && atx_level(next) == 0 && !starts_list_item(next) &&
             !underlines_heading(next) && !is_rule(next) && !is_table_row(next);
    });
    if (!item && end < lines_.size() && underlines_heading(lines_[end])) {
      std::string heading;
      for (std::size_t i = line_; i < end; ++i) heading += (i > line_ ? " " : "") + std::string(trim(lines_[i]));
      emit(MarkdownBlockKind::kHeading, end + 1, std::move(heading));
    } else {
      emit(item ? MarkdownBlockKind::kListItem : MarkdownBlockKind::kParagraph, end);
    }
  }

  const std::vector<std::string_view>& lines_;
  const std::stop_token& stop_;
  std::vector<MarkdownBlock> blocks_;
  std::size_t line_ = 0;
};

std::string front_matter_title(const std::vector<std::string_view>& lines, const MarkdownBlock& block) {
  if (block.kind != MarkdownBlockKind::kVerbatim || block.first_line != 0 || trim(lines[0]) != "---") return {};
  for (std::size_t i = 1; i < block.end_line; ++i) {
    if (!lines[i].starts_with("title:")) continue;
    std::string_view title = trim(lines[i].substr(6));
    const bool quoted = title.size() >= 2 && title.front() == title.back() && (title[0] == '"' || title[0] == '\'');
    return std::string(quoted ? title.substr(1, title.size() - 2) : title);
  }
  return {};
}

}  // namespace

std::vector<MarkdownBlock> markdown_blocks(const std::vector<std::string_view>& lines, const std::stop_token& stop) {
  return BlockReader(lines, stop).read();
}

std::string markdown_title(std::string_view text) {
  const std::vector<std::string_view> lines = split_lines(text);
  const std::vector<MarkdownBlock> blocks = markdown_blocks(lines);
  if (blocks.empty()) return {};
  if (std::string title = front_matter_title(lines, blocks.front()); !title.empty()) return title;
  const auto heading = std::find_if(blocks.begin(), blocks.end(),
                                    [](const MarkdownBlock& b) { return b.kind == MarkdownBlockKind::kHeading; });
  return heading == blocks.end() || heading->heading.size() > 300 ? std::string() : heading->heading;
}

std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return lines;
}

}  // namespace lectern::retrieval
