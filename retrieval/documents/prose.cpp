// SPDX-License-Identifier: GPL-3.0-or-later
#include "prose.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "markdown.h"
#include "sentences.h"
#include "stopping.h"
#include "utf8.h"

namespace lectern::retrieval {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }

bool is_ideographic(char32_t code) {
  return (code >= 0x3040 && code <= 0x30FF) || (code >= 0x3400 && code <= 0x9FFF) ||
         (code >= 0xAC00 && code <= 0xD7AF) || (code >= 0xF900 && code <= 0xFAFF) ||
         (code >= 0x20000 && code <= 0x3FFFF);
}

bool is_letter_at(std::string_view text, std::size_t position) {
  const auto byte = static_cast<unsigned char>(text[position]);
  return byte >= 0x80 || std::isalpha(byte) != 0;
}

constexpr std::string_view kSoftHyphen = "\xC2\xAD";
constexpr std::string_view kHyphen = "\xE2\x80\x90";

// Bytes of the hyphen that ends `text` directly behind a letter, else 0.
std::size_t trailing_hyphen(std::string_view text) {
  std::size_t length = 0;
  if (text.ends_with('-')) length = 1;
  if (text.ends_with(kSoftHyphen)) length = kSoftHyphen.size();
  if (text.ends_with(kHyphen)) length = kHyphen.size();
  return length > 0 && text.size() > length && is_letter_at(text, text.size() - length - 1) ? length : 0;
}

std::string_view last_word(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0 && is_letter_at(text, begin - 1)) --begin;
  return text.substr(begin);
}

std::string_view first_word(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size() && is_letter_at(text, end)) ++end;
  return text.substr(0, end);
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

bool starts_small(std::string_view text) {
  return !text.empty() &&
         (std::islower(static_cast<unsigned char>(text[0])) != 0 || static_cast<unsigned char>(text[0]) >= 0x80);
}

void copy_words(Passage& passage, std::uint32_t page, std::string_view text, std::size_t begin, std::size_t end) {
  std::size_t from = begin;
  for (std::size_t i = begin; i < end;) {
    if (text.substr(i, end - i).starts_with(kSoftHyphen)) {
      passage.copy(page, text, from, i);
      i += kSoftHyphen.size();
      from = i;
    } else if (is_space(text[i]) && (text[i] != ' ' || is_space(text[i + 1]))) {
      passage.copy(page, text, from, i);
      passage.join(' ');
      while (is_space(text[i])) ++i;  // `end` lies behind a character that is no space
      from = i;
    } else {
      ++i;
    }
  }
  passage.copy(page, text, from, end);
}

constexpr std::size_t kLongestHeading = 300;  // bytes; it is stored with each chunk below it

// Words may be of any length, so the bytes of a chunk are limited too.
std::size_t most_bytes(const ChunkOptions& options) { return std::size_t{options.max_words} * 24; }

// The smallest piece that packing moves: a sentence, a piece of one that is too long, or a block kept whole.
struct Atom {
  Passage passage;
  std::size_t words = 0;
  char glue = 0;  // white space between the atom before and this one; '\n' starts a paragraph
};

// Ends of pieces of text[begin, end) with at most `limit` words each, cut at spaces, or anywhere between characters in
// text without any.
std::vector<std::size_t> cut_points(std::string_view text, std::size_t begin, std::size_t end, std::size_t limit) {
  std::vector<std::size_t> cuts;
  const std::size_t most_bytes = limit * 24;
  std::size_t piece = begin;
  std::size_t last_space = begin;
  std::size_t words = 0;
  for (std::size_t i = begin; i < end; ++i) {
    if (is_space(text[i])) {
      ++words;
      last_space = i;
      if (words >= limit) {
        cuts.push_back(i);
        piece = i;
        words = 0;
      }
    } else if (i - piece >= most_bytes && (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) {
      const std::size_t cut = last_space > piece ? last_space : i;
      cuts.push_back(cut);
      piece = cut;
      words = 0;
    }
  }
  cuts.push_back(end);
  return cuts;
}

void add_sentence(std::vector<Atom>& atoms, const Passage& passage, std::size_t begin, std::size_t end, char glue,
                  const ChunkOptions& options, const std::stop_token& stop) {
  const std::string_view text = passage.text();
  const std::size_t words = count_words(text.substr(begin, end - begin));
  if (words <= options.max_words && end - begin <= most_bytes(options)) {
    atoms.push_back({passage.slice(begin, end), words, glue});
    return;
  }
  // Ideographs count half a word and have no spaces, which cut_points answers with its limit of bytes.
  for (const std::size_t cut : cut_points(text, begin, end, options.max_words)) {
    throw_if_stopped(stop);
    const bool spaced = is_space(text[begin]);
    if (spaced) ++begin;
    if (begin >= cut) continue;
    Passage piece = passage.slice(begin, cut);
    const std::size_t piece_words = count_words(piece.text());
    atoms.push_back({std::move(piece), piece_words, spaced ? ' ' : glue});
    glue = 0;
    begin = cut;
  }
}

void add_paragraph(std::vector<Atom>& atoms, const Passage& passage, const ChunkOptions& options,
                   const std::stop_token& stop) {
  std::size_t done = 0;
  bool first = true;
  for (const auto& [begin, end] : split_sentences(passage.text(), stop)) {
    throw_if_stopped(stop);
    const char glue = first ? '\n' : begin > done ? ' ' : '\0';
    add_sentence(atoms, passage, begin, end, glue, options, stop);
    done = end;
    first = false;
  }
}

// A block of lines stays whole up to twice the length of a code chunk.
void add_verbatim(std::vector<Atom>& atoms, const Passage& passage, const ChunkOptions& options,
                  const std::stop_token& stop) {
  const std::vector<std::string_view> lines = split_lines(passage.text());
  const std::size_t most_lines =
      lines.size() <= 2 * std::size_t{options.code_lines} ? lines.size() : options.code_lines;
  const std::size_t longest = 2 * most_bytes(options);
  std::size_t begin = 0, end = 0, taken = 0;
  const auto emit = [&] {
    if (end > begin) {
      Passage piece = passage.slice(begin, end);
      const std::size_t words = count_words(piece.text());
      atoms.push_back({std::move(piece), words, '\n'});
    }
    taken = 0;
  };
  for (const std::string_view line : lines) {
    throw_if_stopped(stop);
    const auto line_begin = static_cast<std::size_t>(line.data() - passage.text().data());
    if (taken > 0 && (taken >= most_lines || line_begin + line.size() - begin > longest)) {
      emit();
      begin = line_begin;
    }
    if (taken == 0) begin = line_begin;
    end = line_begin + line.size();
    ++taken;
    if (end - begin > longest) {
      add_sentence(atoms, passage, begin, end, '\n', options, stop);
      begin = end;
      taken = 0;
    }
  }
  emit();
}

class SectionPacker {
 public:
  SectionPacker(const ChunkOptions& options, std::vector<Chunk>& chunks, const std::stop_token& stop)
      : options_(options), chunks_(chunks), stop_(stop) {}

  void pack(const std::vector<Atom>& atoms, const std::string& heading) {
    std::size_t words_left = 0;
    for (const Atom& atom : atoms) words_left += atom.words;
    const std::size_t first_chunk = chunks_.size();
    std::size_t begin = 0;
    while (begin < atoms.size()) {
      throw_if_stopped(stop_);
      const std::size_t end = end_of_chunk(atoms, begin, words_left);
      for (std::size_t i = begin; i < end; ++i) words_left -= atoms[i].words;
      emit(atoms, begin, end, heading, chunks_.size() > first_chunk);
      begin = end;
    }
  }

 private:
  // Spreads what is left evenly, so that no short rest remains, and prefers to stop where a paragraph ends.
  std::size_t end_of_chunk(const std::vector<Atom>& atoms, std::size_t begin, std::size_t words_left) const {
    const std::size_t at_least = (words_left + options_.max_words - 1) / options_.max_words;
    const std::size_t about = (words_left + options_.target_words / 2) / options_.target_words;
    const double ideal =
        static_cast<double>(words_left) / static_cast<double>(std::max<std::size_t>({at_least, about, 1}));
    std::size_t words = 0;
    std::size_t bytes = 0;
    for (std::size_t i = begin; i < atoms.size(); ++i) {
      const bool paragraph = atoms[i].glue == '\n';
      const auto so_far = static_cast<double>(words);
      const double after = so_far + static_cast<double>(atoms[i].words) / 2;
      const bool full = words + atoms[i].words > options_.max_words ||
                        bytes + atoms[i].passage.text().size() > most_bytes(options_) + 1;
      if (i > begin && (full || (paragraph ? so_far >= 0.8 * ideal : after > ideal && so_far >= 0.8 * ideal))) return i;
      words += atoms[i].words;
      bytes += atoms[i].passage.text().size();
    }
    return atoms.size();
  }

  void emit(const std::vector<Atom>& atoms, std::size_t begin, std::size_t end, const std::string& heading,
            bool may_join) {
    Passage passage;
    for (std::size_t i = begin; i < end; ++i) {
      if (i > begin && atoms[i].glue != 0) passage.join(atoms[i].glue);
      passage.append(atoms[i].passage);
    }
    if (passage.runs().empty()) return;
    const std::size_t words = count_words(passage.text());
    if (may_join && words < options_.min_words &&
        chunks_.back().text.size() + passage.text().size() < most_bytes(options_) &&
        count_words(chunks_.back().text) + words <= options_.max_words) {
      Passage joined = std::move(last_);
      if (atoms[begin].glue != 0) joined.join(atoms[begin].glue);
      joined.append(passage);
      chunks_.pop_back();
      passage = std::move(joined);
    }
    Chunk chunk;
    chunk.text = passage.text();
    chunk.runs = passage.runs();
    chunk.heading = heading;
    chunks_.push_back(std::move(chunk));
    last_ = std::move(passage);
  }

  const ChunkOptions& options_;
  std::vector<Chunk>& chunks_;
  const std::stop_token& stop_;
  Passage last_;
};

}  // namespace

void Vocabulary::add(std::string_view text, const std::stop_token& stop) {
  constexpr std::size_t kMostWords = 200'000;
  std::size_t begin = 0;
  const auto in_word = [&](std::size_t i) { return text[i] == '-' || is_letter_at(text, i); };
  while (begin < text.size()) {
    throw_if_stopped(stop);
    while (begin < text.size() && !in_word(begin)) ++begin;
    std::size_t end = begin;
    while (end < text.size() && in_word(end)) ++end;
    // A word that ends in a hyphen is one half of a broken word and says nothing.
    if (end > begin + 3 && text[end - 1] != '-' && end - begin < 64 && counts_.size() < kMostWords) {
      ++counts_[lower(text.substr(begin, end - begin))];
    }
    begin = end;
  }
}

bool Vocabulary::prefers_hyphen(std::string_view before, std::string_view after) const {
  const auto count = [&](const std::string& word) {
    const auto found = counts_.find(word);
    return found == counts_.end() ? 0U : found->second;
  };
  const std::uint32_t joined = count(lower(before) + lower(after));
  const std::uint32_t hyphenated = count(lower(before) + "-" + lower(after));
  if (joined == 0 && hyphenated == 0) return before == "self" || before == "Self" || before == "half" || before == "ex";
  return hyphenated > joined;
}

void append_line(Passage& paragraph, std::uint32_t page, std::string_view page_text, std::size_t begin, std::size_t end,
                 const Vocabulary& vocabulary) {
  while (begin < end && is_space(page_text[begin])) ++begin;
  while (end > begin && is_space(page_text[end - 1])) --end;
  if (begin == end) return;
  if (!paragraph.empty()) {
    const std::string_view so_far = paragraph.text();
    const std::string_view line = page_text.substr(begin, end - begin);
    const std::size_t hyphen = trailing_hyphen(so_far);
    if (hyphen == 0 || !starts_small(line)) {
      if (hyphen == 0) paragraph.join(' ');
    } else if (hyphen == kSoftHyphen.size() ||
               !vocabulary.prefers_hyphen(last_word(so_far.substr(0, so_far.size() - hyphen)), first_word(line))) {
      paragraph.drop_back(hyphen);
    }
  }
  copy_words(paragraph, page, page_text, begin, end);
}

std::vector<Chunk> pack_prose(const std::vector<ProseBlock>& blocks, const ChunkOptions& options,
                              const std::stop_token& stop) {
  std::vector<Chunk> chunks;
  SectionPacker packer(options, chunks, stop);
  std::vector<Atom> atoms;
  const ProseBlock* heading = nullptr;
  const auto flush = [&] {
    packer.pack(atoms, heading == nullptr ? std::string() : heading->heading);
    atoms.clear();
  };
  for (const ProseBlock& block : blocks) {
    if (block.kind == ProseBlockKind::kHeading && block.heading.size() <= kLongestHeading) {
      // A heading above nothing but an equal or higher one would be lost: a slide, a caption.
      if (atoms.empty() && heading != nullptr && block.level <= heading->level) {
        add_paragraph(atoms, heading->passage, options, stop);
      }
      flush();
      heading = &block;
    } else if (block.kind == ProseBlockKind::kVerbatim) {
      add_verbatim(atoms, block.passage, options, stop);
    } else {
      add_paragraph(atoms, block.passage, options, stop);
    }
  }
  if (atoms.empty() && heading != nullptr) add_paragraph(atoms, heading->passage, options, stop);
  flush();
  return chunks;
}

std::size_t count_words(std::string_view text) {
  std::size_t words = 0;
  std::size_t ideographs = 0;
  bool inside = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = std::max<std::size_t>(utf8_length_at(text, i), 1);
    if (length >= 3 && is_ideographic(utf8_at(text, i))) {
      ++ideographs;
      inside = false;
    } else if (is_space(text[i])) {
      inside = false;
    } else if (!inside) {
      inside = true;
      ++words;
    }
    i += length;
  }
  return words + (ideographs + 1) / 2;
}

}  // namespace lectern::retrieval
