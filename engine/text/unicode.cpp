// SPDX-License-Identifier: Apache-2.0
#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace lectern::engine::unicode {

namespace {

struct Decomposition {
  std::uint32_t code;
  std::uint32_t first;
  std::uint32_t second;
};

struct LowerCaseRun {
  std::uint32_t first;
  std::uint32_t last;
  std::uint32_t step;
  std::int32_t delta;
};

#include "text/unicode_tables.inc"

constexpr char32_t kLastCode = 0x10FFFF;

// Hangul syllables are arithmetic: syllable = base + (lead * vowels + vowel) * trails + trail.
constexpr std::uint32_t kSyllableBase = 0xAC00;
constexpr std::uint32_t kLeadBase = 0x1100;
constexpr std::uint32_t kVowelBase = 0x1161;
constexpr std::uint32_t kTrailBase = 0x11A7;
constexpr std::uint32_t kLeads = 19;
constexpr std::uint32_t kVowels = 21;
constexpr std::uint32_t kTrails = 28;
constexpr std::uint32_t kSyllables = kLeads * kVowels * kTrails;

// Nothing below U+0300 combines with what stands before it and nothing below U+00C0 decomposes.
constexpr char32_t kFirstCombining = 0x300;

// The value of the last change point at or before `code`; table entries are code << shift | value.
template <std::size_t kSize>
std::uint32_t value_at(const std::array<std::uint32_t, kSize>& table, char32_t code, unsigned shift) {
  const std::uint32_t above = ((code + 1U) << shift) - 1U;
  const auto after = std::upper_bound(table.begin(), table.end(), above);
  return *(after - 1) & ((1U << shift) - 1U);
}

std::uint8_t combining_class(char32_t code) {
  return code < kFirstCombining ? std::uint8_t{0} : static_cast<std::uint8_t>(value_at(kCombiningClasses, code, 8));
}

const Decomposition* find_decomposition(char32_t code) {
  const auto row = std::lower_bound(kDecompositions.begin(), kDecompositions.end(), code,
                                    [](const Decomposition& entry, char32_t wanted) { return entry.code < wanted; });
  return row != kDecompositions.end() && row->code == code ? &*row : nullptr;
}

// The composition of two adjacent characters, or 0.
char32_t compose(char32_t first, char32_t second) {
  if (first - kLeadBase < kLeads && second - kVowelBase < kVowels) {
    return kSyllableBase + ((first - kLeadBase) * kVowels + (second - kVowelBase)) * kTrails;
  }
  const std::uint32_t syllable = first - kSyllableBase;
  if (syllable < kSyllables && syllable % kTrails == 0 && second - kTrailBase - 1U < kTrails - 1U) {
    return first + (second - kTrailBase);
  }
  const std::pair<std::uint32_t, std::uint32_t> wanted(first, second);
  const auto index =
      std::lower_bound(kCompositions.begin(), kCompositions.end(), wanted, [](std::uint16_t row, const auto& pair) {
        return std::pair(kDecompositions[row].first, kDecompositions[row].second) < pair;
      });
  if (index == kCompositions.end()) return 0;
  const Decomposition& row = kDecompositions[*index];
  return row.first == wanted.first && row.second == wanted.second ? row.code : 0;
}

// Takes characters in text order, gives normalised UTF-8. It holds one starter with the marks after it.
class Normaliser {
 public:
  Normaliser(std::string& out, bool composing) : out_(out), composing_(composing) {}

  void add(char32_t code) {
    if (code < 0xC0) return place(code, 0);
    const std::uint32_t syllable = code - kSyllableBase;
    if (syllable < kSyllables) {
      place(kLeadBase + syllable / (kVowels * kTrails), 0);
      place(kVowelBase + syllable % (kVowels * kTrails) / kTrails, 0);
      if (syllable % kTrails != 0) place(kTrailBase + syllable % kTrails, 0);
      return;
    }
    const Decomposition* row = find_decomposition(code);
    if (row == nullptr) return place(code, combining_class(code));
    add(row->first);  // depth is bounded by the table: at most four levels
    if (row->second != 0) add(row->second);
  }

  void finish() {
    settle();
    flush();
  }

 private:
  struct Mark {
    char32_t code;
    std::uint8_t combining;
  };

  void place(char32_t code, std::uint8_t combining) {
    if (combining == 0 && !held_.empty()) {
      settle();
      if (composing_ && held_.size() == 1 && held_[0].combining == 0) {
        if (const char32_t both = compose(held_[0].code, code); both != 0) {
          held_[0].code = both;
          return;
        }
      }
      flush();
    }
    held_.push_back({code, combining});
    settled_ = held_.size() == 1;
  }

  // Orders the marks by class and composes what is not blocked with the starter.
  void settle() {
    if (settled_ || held_.empty()) return;
    settled_ = true;
    const bool has_starter = held_[0].combining == 0;
    std::stable_sort(held_.begin() + (has_starter ? 1 : 0), held_.end(),
                     [](const Mark& a, const Mark& b) { return a.combining < b.combining; });
    if (!composing_ || !has_starter) return;
    std::size_t kept = 1;
    for (std::size_t i = 1; i < held_.size(); ++i) {
      const bool blocked = kept > 1 && held_[kept - 1].combining >= held_[i].combining;
      const char32_t both = blocked ? 0 : compose(held_[0].code, held_[i].code);
      if (both != 0) {
        held_[0].code = both;
      } else {
        held_[kept++] = held_[i];
      }
    }
    held_.resize(kept);
  }

  void flush() {
    for (const Mark& mark : held_) append_utf8(out_, mark.code);
    held_.clear();
  }

  std::string& out_;
  bool composing_;
  bool settled_ = true;
  std::vector<Mark> held_;
};

std::string normalise(std::string_view text, bool composing) {
  std::string out;
  out.reserve(text.size());
  Normaliser normaliser(out, composing);
  for (std::size_t at = 0; at < text.size();) {
    const Decoded character = decode_utf8(text, at);
    normaliser.add(character.code);
    at += character.length;
  }
  normaliser.finish();
  return out;
}

}  // namespace

Category category(char32_t code) {
  return code > kLastCode ? Category::kCn : static_cast<Category>(value_at(kCategories, code, 5));
}

bool is_letter(char32_t code) {
  if (code < 0x80) return (code | 0x20U) - U'a' < 26U;
  const Category kind = category(code);
  return kind >= Category::kLl && kind <= Category::kLu;
}

bool is_number(char32_t code) {
  if (code < 0x80) return code - U'0' < 10U;
  const Category kind = category(code);
  return kind >= Category::kNd && kind <= Category::kNo;
}

bool is_white_space(char32_t code) {
  if (code < 0x80) return code == U' ' || code - 9U < 5U;
  if (code == 0x85) return true;
  const Category kind = category(code);
  return kind >= Category::kZl && kind <= Category::kZs;
}

bool is_punctuation(char32_t code) {
  const Category kind = category(code);
  return kind >= Category::kPc && kind <= Category::kPs;
}

char32_t lower_case(char32_t code) {
  if (code < 0x80) return code - U'A' < 26U ? code + 32U : code;
  const auto after = std::upper_bound(kLowerCase.begin(), kLowerCase.end(), code,
                                      [](char32_t wanted, const LowerCaseRun& run) { return wanted < run.first; });
  const LowerCaseRun& run = *(after - 1);  // the first run starts below U+0080
  if (code > run.last || (code - run.first) % run.step != 0) return code;
  return static_cast<char32_t>(static_cast<std::int32_t>(code) + run.delta);
}

std::string lower_case(std::string_view text) {
  constexpr char32_t kDottedCapitalI = 0x130;
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Decoded character = decode_utf8(text, at);
    at += character.length;
    if (character.code == kDottedCapitalI) {
      out += "i\xCC\x87";
    } else {
      append_utf8(out, lower_case(character.code));
    }
  }
  return out;
}

std::string nfc(std::string_view text) {
  const auto plain = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  return std::all_of(text.begin(), text.end(), plain) ? std::string(text) : normalise(text, true);
}

std::string nfd(std::string_view text) {
  const auto plain = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  return std::all_of(text.begin(), text.end(), plain) ? std::string(text) : normalise(text, false);
}

}  // namespace lectern::engine::unicode
