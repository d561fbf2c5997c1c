// SPDX-License-Identifier: GPL-3.0-or-later
#include "pdf_words.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "utf8.h"

namespace lectern::retrieval {
namespace {

constexpr std::array<std::string_view, 7> kLigatures = {"ff", "fi", "fl", "ffi", "ffl", "st", "st"};

void append_clean(std::string& out, char32_t code) {
  const bool control = code < 0x20 || (code >= 0x7F && code < 0xA0);
  const bool no_character = code == 0xFEFF || (code & 0xFFFE) == 0xFFFE;
  if (code == '\t' || code == '\n' || code == '\r' || code == 0xA0 || code == 0x202F) {
    out.push_back(' ');
  } else if (code >= 0xFB00 && code <= 0xFB06) {
    out.append(kLigatures[code - 0xFB00]);
  } else if (!control && !no_character) {
    append_utf8(out, code);
  }
}

// Two words share a line when they are turned alike and at least half of the lower one's extent overlaps; within a
// line, words run on in writing direction (a jump back starts a new line, such as the next column).
bool same_line(const PdfWord& a, const PdfWord& b) {
  if (a.rotation != b.rotation) return false;
  const bool upright = a.rotation % 2 == 0;
  const double a_low = upright ? a.top : a.left, a_high = upright ? a.bottom : a.right;
  const double b_low = upright ? b.top : b.left, b_high = upright ? b.bottom : b.right;
  const double overlap = std::min(a_high, b_high) - std::max(a_low, b_low);
  if (overlap < 0.5 * std::min(a_high - a_low, b_high - b_low)) return false;
  const double size = std::max(a_high - a_low, b_high - b_low);
  switch (a.rotation) {
    case 0:
      return b.left > a.left - size;
    case 1:
      return b.top > a.top - size;
    case 2:
      return b.right < a.right + size;
    default:
      return b.bottom < a.bottom + size;
  }
}

using Line = std::vector<const PdfWord*>;

std::vector<Line> group_lines(const std::vector<PdfWord>& words) {
  std::vector<Line> lines;
  for (const PdfWord& word : words) {
    if (lines.empty() || !same_line(*lines.back().back(), word)) lines.emplace_back();
    lines.back().push_back(&word);
  }
  return lines;
}

// A bullet sign, or a label such as "3." or "b)".
bool is_bullet(std::string_view text) {
  static constexpr std::array<std::string_view, 8> kSigns = {"•", "‣", "▪", "●", "◦", "–", "-", "·"};
  if (std::find(kSigns.begin(), kSigns.end(), text) != kSigns.end()) return true;
  if (text.size() < 2 || text.size() > 3 || (text.back() != '.' && text.back() != ')')) return false;
  text.remove_suffix(1);
  const bool digits = text.find_first_not_of("0123456789") == std::string_view::npos;
  return digits || (text.size() == 1 && text[0] >= 'a' && text[0] <= 'z');
}

bool labels(const PdfWord& bullet, const PdfWord& first) {
  const double size = std::max(bullet.bottom - bullet.top, first.bottom - first.top);
  const double overlap = std::min(bullet.bottom, first.bottom) - std::max(bullet.top, first.top);
  const double gap = first.left - bullet.right;
  return bullet.rotation == 0 && first.rotation == 0 && gap >= 0 && gap < 4 * size &&
         overlap >= 0.5 * std::min(bullet.bottom - bullet.top, first.bottom - first.top);
}

// Far-off bullets are read as a column of their own; each returns to the front of its item.
std::vector<Line> attach_bullets(std::vector<Line> lines) {
  constexpr std::size_t kFarthest = 200;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].size() != 1 || !is_bullet(lines[i][0]->text)) continue;
    const PdfWord* bullet = lines[i][0];
    const std::size_t end = std::min(lines.size(), i + kFarthest);
    for (std::size_t j = i > kFarthest ? i - kFarthest : 0; j < end; ++j) {
      if (j == i || lines[j].empty() || !labels(*bullet, *lines[j].front())) continue;
      lines[j].insert(lines[j].begin(), bullet);
      lines[i].clear();
      break;
    }
  }
  std::erase_if(lines, [](const Line& line) { return line.empty(); });
  return lines;
}

// The PDF library knows no space between the cells of a table.
bool needs_space(const PdfWord& previous, const PdfWord& word) {
  if (previous.space_after || previous.rotation != 0) return true;
  return word.left - previous.right > 0.15 * (word.bottom - word.top);
}

float fraction(double value, double whole) {
  return whole > 0 ? static_cast<float>(std::clamp(value / whole, 0.0, 1.0)) : 0.0F;
}

// A rectangle must have an area even when the word lies on the page's edge.
void widen(float& low, float& high) {
  constexpr float kLeast = 1e-4F;
  if (high - low >= kLeast) return;
  low = std::min(low, 1.0F - kLeast);
  high = low + kLeast;
}

Rect place(const PdfWord& word, const PageFrame& frame) {
  Rect rect{fraction(word.left, frame.width), fraction(word.top, frame.height), fraction(word.right, frame.width),
            fraction(word.bottom, frame.height)};
  widen(rect.left, rect.right);
  widen(rect.top, rect.bottom);
  return rect;
}

}  // namespace

std::string clean_word(std::u16string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char32_t code = text[i];
    if (code >= 0xD800 && code < 0xE000) {
      const bool pair = code < 0xDC00 && i + 1 < text.size() && text[i + 1] >= 0xDC00 && text[i + 1] < 0xE000;
      code = pair ? 0x10000 + ((code - 0xD800) << 10) + (char32_t{text[i + 1]} - 0xDC00) : 0xFFFD;
      if (pair) ++i;
    }
    append_clean(out, code);
  }
  const std::size_t first = out.find_first_not_of(' ');
  if (first == std::string::npos) return {};
  return out.substr(first, out.find_last_not_of(' ') - first + 1);
}

ExtractedPage assemble_page(const std::vector<PdfWord>& words, const PageFrame& frame) {
  ExtractedPage page;
  page.width_points = static_cast<float>(frame.width);
  page.height_points = static_cast<float>(frame.height);
  for (const Line& line : attach_bullets(group_lines(words))) {
    if (!page.text.empty()) page.text.push_back('\n');
    const PdfWord* previous = nullptr;
    for (const PdfWord* word : line) {
      if (page.text.size() + word->text.size() + 2 > std::numeric_limits<std::uint32_t>::max()) return page;
      if (previous != nullptr && needs_space(*previous, *word)) page.text.push_back(' ');
      Word placed;
      placed.begin = static_cast<std::uint32_t>(page.text.size());
      page.text += word->text;
      placed.end = static_cast<std::uint32_t>(page.text.size());
      placed.rect = place(*word, frame);
      page.words.push_back(placed);
      previous = word;
    }
  }
  return page;
}

std::string largest_line(const ExtractedPage& page) {
  float tallest = 0;
  double sum = 0;
  for (const Word& word : page.words) {
    const float height = word.rect.bottom - word.rect.top;
    sum += height;
    if (word.rect.top < 0.5F) tallest = std::max(tallest, height);
  }
  if (page.words.empty() || tallest < 1.2 * sum / static_cast<double>(page.words.size())) return {};
  std::string title;
  for (const Word& word : page.words) {
    const bool large = word.rect.bottom - word.rect.top > 0.95F * tallest && word.rect.top < 0.5F;
    if (!large && !title.empty()) break;
    if (!large) continue;
    if (!title.empty()) title.push_back(' ');
    title += page.text.substr(word.begin, word.end - word.begin);
    if (title.size() > 300) return {};
  }
  return title;
}

}  // namespace lectern::retrieval
