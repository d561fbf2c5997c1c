// SPDX-License-Identifier: GPL-3.0-or-later
#include "pdf_layout.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <map>
#include <utility>

#include "stopping.h"
#include "utf8.h"

namespace lectern::retrieval {
namespace {

// All in multiples of the line's height, found on pages set with 1.0 to 1.6 line spacing.
constexpr float kSameHeight = 0.12F;
constexpr float kHeadingHeight = 1.13F;
constexpr float kParagraphPitch = 1.22F;  // of the usual distance between lines
constexpr float kCellGap = 1.8F;
// Headers and footers stand in these shares of the page.
constexpr float kTopZone = 0.11F;
constexpr float kBottomZone = 0.89F;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::size_t word_count(std::string_view line) { return count_words(line); }

float median(std::vector<float> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

PdfLine make_line(const ExtractedPage& page, std::uint32_t page_index, std::size_t begin, std::size_t end,
                  std::size_t& next_word) {
  PdfLine line;
  line.page = page_index;
  line.begin = static_cast<std::uint32_t>(begin);
  line.end = static_cast<std::uint32_t>(end);
  std::vector<float> heights;
  float last_right = 0;
  float widest_gap = 0;
  for (; next_word < page.words.size() && page.words[next_word].begin < end; ++next_word) {
    const Word& word = page.words[next_word];
    const float left = word.rect.left * page.width_points, right = word.rect.right * page.width_points;
    const float top = word.rect.top * page.height_points, bottom = word.rect.bottom * page.height_points;
    const bool first = heights.empty();
    if (!first) widest_gap = std::max(widest_gap, left - last_right);
    line.left = first ? left : std::min(line.left, left);
    line.right = first ? right : std::max(line.right, right);
    line.top = first ? top : std::min(line.top, top);
    line.bottom = first ? bottom : std::max(line.bottom, bottom);
    heights.insert(heights.end(), std::min<std::size_t>(word.end - word.begin, 32), bottom - top);
    last_right = right;
  }
  line.height = median(std::move(heights));
  line.tabular = line.height > 0 && widest_gap > kCellGap * line.height;
  return line;
}

std::string_view text_of(const ExtractedDocument& document, const PdfLine& line) {
  return std::string_view(document.pages[line.page].text).substr(line.begin, line.end - line.begin);
}

// The same for "Report 2025 - 7" and "Report 2025 - 8".
std::string furniture_key(std::string_view text) {
  std::string key;
  for (const char c : text) {
    const char shown = is_digit(c) ? '#' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (shown == '#' && key.ends_with('#')) continue;
    key.push_back(shown);
  }
  return key;
}

bool is_page_number(std::string_view text) {
  std::string key = furniture_key(text);
  static constexpr std::array kForms = {"#",           "page #", "- # -", "– # –",   "— # —", "# / #", "#/#",
                                        "page # of #", "# of #", "p. #",  "seite #", "| #",   "# |"};
  if (std::find(kForms.begin(), kForms.end(), key) != kForms.end()) return true;
  return text.size() <= 7 && !text.empty() && text.find_first_not_of("ivxlc") == std::string_view::npos;
}

// How far the number that ends (else starts) a line is ahead of the page's index; a running title carries a page number
// that keeps this distance. -1000 when there is none.
int page_number_offset(std::string_view text, std::uint32_t page) {
  const auto number_of = [](std::string_view digits) {
    return digits.size() > 4 ? -1 : std::stoi(std::string(digits));
  };
  const std::size_t tail = text.find_last_not_of("0123456789") + 1;  // npos + 1 is 0
  const std::size_t head = std::min(text.find_first_not_of("0123456789"), text.size());
  int number = -1;
  if (tail < text.size()) number = number_of(text.substr(tail));
  if (number < 0 && head > 0) number = number_of(text.substr(0, head));
  return number < 0 ? -1000 : number - static_cast<int>(page);
}

void mark_furniture(const ExtractedDocument& document, std::vector<PdfLine>& lines, const std::stop_token& stop) {
  const auto in_zone = [&](const PdfLine& line) {
    const float height = document.pages[line.page].height_points;
    return height > 0 && (line.bottom < kTopZone * height || line.top > kBottomZone * height);
  };
  std::map<std::string, std::pair<std::size_t, std::uint32_t>> pages_with;  // count, last page + 1
  std::map<int, std::size_t> lines_with_offset;
  for (const PdfLine& line : lines) {
    throw_if_stopped(stop);
    if (!in_zone(line)) continue;
    auto& [count, last] = pages_with[furniture_key(text_of(document, line))];
    if (last != line.page + 1) ++count;
    last = line.page + 1;
    ++lines_with_offset[page_number_offset(text_of(document, line), line.page)];
  }
  lines_with_offset.erase(-1000);
  const auto usual = std::max_element(lines_with_offset.begin(), lines_with_offset.end(),
                                      [](const auto& a, const auto& b) { return a.second < b.second; });
  const bool numbered =
      usual != lines_with_offset.end() && usual->second >= std::max<std::size_t>(3, document.pages.size() / 2);
  for (PdfLine& line : lines) {
    throw_if_stopped(stop);
    if (!in_zone(line)) continue;
    const std::string_view text = text_of(document, line);
    line.furniture = is_page_number(text) || pages_with[furniture_key(text)].first >= 3 ||
                     (numbered && page_number_offset(text, line.page) == usual->first);
  }
}

// What most characters of the document are set in, and the usual distance between its lines.
struct TypeMetrics {
  float body_height = 0;
  float pitch = 1.2F;  // in line heights
};

TypeMetrics measure(const std::vector<PdfLine>& lines) {
  std::map<int, std::size_t> characters_at;  // by height in quarter points
  std::vector<float> pitches;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const PdfLine& line = lines[i];
    if (line.furniture || line.height <= 0) continue;
    characters_at[static_cast<int>(std::lround(line.height * 4))] += line.end - line.begin;
    if (i == 0 || lines[i - 1].page != line.page || lines[i - 1].height <= 0) continue;
    const float pitch = (line.top - lines[i - 1].top) / line.height;
    if (pitch > 0.7F && pitch < 2.5F) pitches.push_back(pitch);
  }
  TypeMetrics metrics;
  const auto most = std::max_element(characters_at.begin(), characters_at.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != characters_at.end()) metrics.body_height = static_cast<float>(most->first) / 4;
  if (!pitches.empty()) metrics.pitch = median(std::move(pitches));
  return metrics;
}

bool ends_sentence(std::string_view text) {
  while (text.ends_with('"') || text.ends_with(')') || text.ends_with('\'')) text.remove_suffix(1);
  if (text.ends_with("\xE2\x80\x9D")) text.remove_suffix(3);
  return text.ends_with('.') || text.ends_with('!') || text.ends_with('?') || text.ends_with(':') ||
         text.ends_with("\xE3\x80\x82");
}

class BlockBuilder {
 public:
  BlockBuilder(const ExtractedDocument& document, const std::stop_token& stop) : document_(document), stop_(stop) {
    for (const PdfLine& line : pdf_lines(document, stop)) {
      if (!line.furniture) lines_.push_back(line);
    }
    metrics_ = measure(lines_);
    for (const PdfLine& line : lines_) vocabulary_.add(text_of(document, line), stop);
  }

  std::vector<ProseBlock> build() {
    for (std::size_t i = 0; i < lines_.size();) i = add_block(i);
    return std::move(blocks_);
  }

 private:
  std::string_view text(std::size_t i) const { return text_of(document_, lines_[i]); }

  bool same_size(std::size_t a, std::size_t b) const {
    return std::abs(lines_[a].height - lines_[b].height) <= kSameHeight * lines_[a].height;
  }

  // Distance from the line before, in usual distances; large across columns and pages.
  float relative_pitch(std::size_t i) const {
    const PdfLine& a = lines_[i - 1];
    const PdfLine& b = lines_[i];
    if (a.page != b.page || b.top < a.top || b.height <= 0) return 100;
    return (b.top - a.top) / b.height / metrics_.pitch;
  }

  bool apart_from_next(std::size_t i) const {
    return i + 1 >= lines_.size() || !same_size(i, i + 1) || relative_pitch(i + 1) > kParagraphPitch;
  }
  bool apart_from_last(std::size_t i) const {
    return i == 0 || !same_size(i - 1, i) || relative_pitch(i) > kParagraphPitch;
  }

  bool is_heading(std::size_t i) const {
    const PdfLine& line = lines_[i];
    const std::size_t words = word_count(text(i));
    if (line.height <= 0 || words == 0 || words > 20) return false;
    const bool closed = text(i).ends_with('.') || text(i).ends_with(';') || text(i).ends_with(',');
    const bool large = line.height >= kHeadingHeight * metrics_.body_height;
    if (large) return !closed || words <= 4;
    if (closed || line.tabular || !apart_from_last(i) || !apart_from_next(i)) return false;
    if (words <= 12 && is_all_capitals(text(i))) return true;
    return words <= 12 && is_numbered(i) && !is_numbered(i - 1) && !is_numbered(i + 1);
  }

  // Neighbours that are numbered too make a list or a table of contents.
  bool is_numbered(std::size_t i) const { return i < lines_.size() && numbered_heading_depth(text(i)) > 0; }

  std::size_t add_block(std::size_t i) {
    if (is_heading(i)) return add_heading(i);
    if (lines_[i].tabular && i + 1 < lines_.size() && lines_[i + 1].tabular) return add_table(i);
    return add_paragraph(i);
  }

  std::size_t add_heading(std::size_t i) {
    ProseBlock block;
    block.kind = ProseBlockKind::kHeading;
    block.level = 100 - std::round(static_cast<double>(lines_[i].height)) + 0.01 * numbered_heading_depth(text(i));
    std::size_t end = i;
    do {
      append(block, end);
      ++end;
    } while (end < lines_.size() && same_size(i, end) && relative_pitch(end) <= 1.5F * kParagraphPitch &&
             is_heading(end) && numbered_heading_depth(text(end)) == 0 && block.passage.text().size() < 200);
    block.heading = block.passage.text();
    blocks_.push_back(std::move(block));
    return end;
  }

  std::size_t add_table(std::size_t i) {
    ProseBlock block;
    block.kind = ProseBlockKind::kVerbatim;
    std::size_t end = i;
    for (; end < lines_.size() && lines_[end].tabular && lines_[end].page == lines_[i].page; ++end) {
      throw_if_stopped(stop_);
      if (end > i) block.passage.join('\n');
      Passage row;
      append_line(row, lines_[end].page, document_.pages[lines_[end].page].text, lines_[end].begin, lines_[end].end,
                  vocabulary_);
      block.passage.append(row);
    }
    blocks_.push_back(std::move(block));
    return end;
  }

  std::size_t add_paragraph(std::size_t i) {
    ProseBlock block;
    append(block, i);
    std::size_t end = i + 1;
    while (end < lines_.size() && continues(i, end)) append(block, end++);
    if (!block.passage.empty()) blocks_.push_back(std::move(block));
    return end;
  }

  // Whether line `i` goes on with the paragraph that began at line `first`.
  bool continues(std::size_t first, std::size_t i) const {
    const PdfLine& before = lines_[i - 1];
    const PdfLine& line = lines_[i];
    const bool closed = ends_sentence(text(i - 1));
    if (!same_size(i - 1, i) || is_heading(i) || starts_with_bullet(text(i))) return false;
    if (line.tabular && i + 1 < lines_.size() && lines_[i + 1].tabular) return false;
    const bool jump = before.page != line.page || line.top < before.top;
    if (jump) return !closed && !before.tabular;
    if (relative_pitch(i) > kParagraphPitch) return false;
    const float em = line.height;
    const bool indented = line.left > before.left + em && line.left > lines_[first].left - em;
    const bool was_short = before.right < line.right - 4 * em;
    return !closed || (!indented && !was_short);
  }

  void append(ProseBlock& block, std::size_t i) {
    throw_if_stopped(stop_);
    append_line(block.passage, lines_[i].page, document_.pages[lines_[i].page].text, lines_[i].begin, lines_[i].end,
                vocabulary_);
  }

  const ExtractedDocument& document_;
  const std::stop_token& stop_;
  std::vector<PdfLine> lines_;
  TypeMetrics metrics_;
  Vocabulary vocabulary_;
  std::vector<ProseBlock> blocks_;
};

}  // namespace

std::vector<PdfLine> pdf_lines(const ExtractedDocument& document, const std::stop_token& stop) {
  std::vector<PdfLine> lines;
  for (std::size_t index = 0; index < document.pages.size(); ++index) {
    const ExtractedPage& page = document.pages[index];
    std::size_t next_word = 0;
    for (std::size_t begin = 0; begin < page.text.size();) {
      throw_if_stopped(stop);
      const std::size_t end = std::min(page.text.find('\n', begin), page.text.size());
      if (end > begin) lines.push_back(make_line(page, static_cast<std::uint32_t>(index), begin, end, next_word));
      begin = end + 1;
    }
  }
  mark_furniture(document, lines, stop);
  return lines;
}

std::vector<ProseBlock> pdf_blocks(const ExtractedDocument& document, const std::stop_token& stop) {
  return BlockBuilder(document, stop).build();
}

int numbered_heading_depth(std::string_view line) {
  for (const std::string_view word : {"Chapter ", "Appendix ", "Annex ", "Section ", "Part "}) {
    if (line.starts_with(word) && line.size() > word.size() &&
        (is_digit(line[word.size()]) || std::isupper(static_cast<unsigned char>(line[word.size()])) != 0)) {
      return 1;
    }
  }
  int depth = 0;
  std::size_t i = 0;
  while (i < line.size() && is_digit(line[i])) {
    const std::size_t digits = i;
    while (i < line.size() && is_digit(line[i])) ++i;
    if (i - digits > 2) return 0;
    ++depth;
    if (i < line.size() && line[i] == '.') ++i;
  }
  if (depth == 0 || i + 1 >= line.size() || line[i] != ' ') return 0;
  const auto next = static_cast<unsigned char>(line[i + 1]);
  return std::isupper(next) != 0 || next >= 0x80 ? depth : 0;
}

bool starts_with_bullet(std::string_view line) {
  static constexpr std::array<std::string_view, 10> kBullets = {"• ", "‣ ", "▪ ", "● ", "◦ ",
                                                                "– ", "— ", "- ", "* ", "· "};
  for (const std::string_view bullet : kBullets) {
    if (line.starts_with(bullet)) return true;
  }
  std::size_t i = line.starts_with('(') ? 1 : 0;
  const std::size_t begin = i;
  while (i < line.size() && is_digit(line[i])) ++i;
  if (i == begin && i < line.size() && std::islower(static_cast<unsigned char>(line[i])) != 0) ++i;
  if (i == begin || i - begin > 2 || i + 1 >= line.size()) return false;
  const bool letter = !is_digit(line[begin]);
  const bool marked = line[i] == ')' || (line[i] == '.' && !letter);
  return marked && line[i + 1] == ' ';
}

bool is_all_capitals(std::string_view line) {
  std::size_t letters = 0;
  for (const char c : line) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::islower(byte) != 0 || byte >= 0x80 || c == '=' || c == '{' || c == '}' || c == ';' || c == '_')
      return false;
    if (std::isupper(byte) != 0) ++letters;
  }
  return letters >= 4 && line.size() <= 100;
}

}  // namespace lectern::retrieval
