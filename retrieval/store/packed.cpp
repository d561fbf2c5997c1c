// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/packed.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lectern::retrieval {
namespace {

constexpr float kRectSteps = 65535.0F;

void put_number(Packed& bytes, std::uint32_t value) {  // LEB128
  while (value >= 0x80) {
    bytes.push_back(static_cast<std::uint8_t>(value | 0x80));
    value >>= 7;
  }
  bytes.push_back(static_cast<std::uint8_t>(value));
}

void put_step(Packed& bytes, float value) {
  const auto step = static_cast<std::uint16_t>(std::clamp(value, 0.0F, kRectSteps));
  bytes.push_back(static_cast<std::uint8_t>(step));
  bytes.push_back(static_cast<std::uint8_t>(step >> 8));
}

class Reader {
 public:
  explicit Reader(Bytes bytes) : bytes_(bytes) {}

  bool at_end() const { return position_ == bytes_.size(); }
  std::size_t left() const { return bytes_.size() - position_; }

  bool number(std::uint32_t& value) {
    std::uint64_t wide = 0;
    for (unsigned shift = 0; shift < 35 && position_ < bytes_.size(); shift += 7) {
      const std::uint8_t byte = bytes_[position_++];
      wide |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) != 0) continue;
      value = static_cast<std::uint32_t>(wide);
      return wide <= std::numeric_limits<std::uint32_t>::max();
    }
    return false;
  }

  bool fraction(float& value) {
    if (left() < 2) return false;
    value = static_cast<float>(bytes_[position_] | (bytes_[position_ + 1] << 8)) / kRectSteps;
    position_ += 2;
    return true;
  }

 private:
  Bytes bytes_;
  std::size_t position_ = 0;
};

}  // namespace

Packed pack_words(const std::vector<Word>& words) {
  Packed bytes;
  bytes.reserve(words.size() * 10);
  std::uint32_t end = 0;
  for (const Word& word : words) {
    put_number(bytes, word.begin - end);
    put_number(bytes, word.end - word.begin);
    end = word.end;
    // Outwards, so that a rectangle never loses its area.
    put_step(bytes, std::floor(word.rect.left * kRectSteps));
    put_step(bytes, std::floor(word.rect.top * kRectSteps));
    put_step(bytes, std::ceil(word.rect.right * kRectSteps));
    put_step(bytes, std::ceil(word.rect.bottom * kRectSteps));
  }
  return bytes;
}

std::optional<std::vector<Word>> unpack_words(Bytes bytes, std::size_t text_size) {
  constexpr std::size_t kSmallestWord = 10;  // two one-byte numbers and four steps
  std::vector<Word> words;
  words.reserve(bytes.size() / kSmallestWord);
  Reader reader(bytes);
  std::uint64_t position = 0;
  while (!reader.at_end()) {
    std::uint32_t gap = 0;
    std::uint32_t length = 0;
    Word word;
    if (!reader.number(gap) || !reader.number(length) || !reader.fraction(word.rect.left) ||
        !reader.fraction(word.rect.top) || !reader.fraction(word.rect.right) || !reader.fraction(word.rect.bottom)) {
      return std::nullopt;
    }
    const std::uint64_t begin = position + gap;
    position = begin + length;
    if (position > text_size) return std::nullopt;
    word.begin = static_cast<std::uint32_t>(begin);
    word.end = static_cast<std::uint32_t>(position);
    words.push_back(word);
  }
  return words;
}

Packed pack_runs(const std::vector<TextRun>& runs) {
  Packed bytes;
  bytes.reserve(runs.size() * 8);
  std::uint32_t end = 0;
  for (const TextRun& run : runs) {
    put_number(bytes, run.chunk_offset - end);
    put_number(bytes, run.page);
    put_number(bytes, run.page_offset);
    put_number(bytes, run.length);
    end = run.chunk_offset + run.length;
  }
  return bytes;
}

std::optional<std::vector<TextRun>> unpack_runs(Bytes bytes, std::size_t text_size) {
  std::vector<TextRun> runs;
  runs.reserve(bytes.size() / 4);
  Reader reader(bytes);
  std::uint64_t position = 0;
  while (!reader.at_end()) {
    std::uint32_t gap = 0;
    TextRun run;
    if (!reader.number(gap) || !reader.number(run.page) || !reader.number(run.page_offset) ||
        !reader.number(run.length)) {
      return std::nullopt;
    }
    const std::uint64_t begin = position + gap;
    position = begin + run.length;
    if (position > text_size) return std::nullopt;
    run.chunk_offset = static_cast<std::uint32_t>(begin);
    runs.push_back(run);
  }
  return runs;
}

}  // namespace lectern::retrieval
