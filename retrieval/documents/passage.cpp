// SPDX-License-Identifier: GPL-3.0-or-later
#include "passage.h"

#include <algorithm>

namespace lectern::retrieval {

void Passage::copy(std::uint32_t page, std::string_view page_text, std::size_t begin, std::size_t end) {
  if (begin >= end) return;
  const auto offset = static_cast<std::uint32_t>(text_.size());
  const auto length = static_cast<std::uint32_t>(end - begin);
  text_.append(page_text.substr(begin, end - begin));
  if (!runs_.empty()) {
    TextRun& last = runs_.back();
    const bool adjacent =
        last.page == page && last.page_offset + last.length == begin && last.chunk_offset + last.length == offset;
    if (adjacent) {
      last.length += length;
      return;
    }
  }
  runs_.push_back({offset, page, static_cast<std::uint32_t>(begin), length});
}

void Passage::join(char space) { text_.push_back(space); }

void Passage::drop_back(std::size_t bytes) {
  text_.resize(text_.size() - std::min(bytes, text_.size()));
  while (!runs_.empty() && std::size_t{runs_.back().chunk_offset} + runs_.back().length > text_.size()) {
    TextRun& last = runs_.back();
    if (last.chunk_offset < text_.size()) {
      last.length = static_cast<std::uint32_t>(text_.size() - last.chunk_offset);
    } else {
      runs_.pop_back();
    }
  }
}

void Passage::append(const Passage& other) {
  const auto offset = static_cast<std::uint32_t>(text_.size());
  text_ += other.text_;
  for (TextRun run : other.runs_) {
    run.chunk_offset += offset;
    if (!runs_.empty() && runs_.back().page == run.page &&
        runs_.back().page_offset + runs_.back().length == run.page_offset &&
        runs_.back().chunk_offset + runs_.back().length == run.chunk_offset) {
      runs_.back().length += run.length;
    } else {
      runs_.push_back(run);
    }
  }
}

Passage Passage::slice(std::size_t begin, std::size_t end) const {
  Passage part;
  part.text_ = text_.substr(begin, end - begin);
  const auto first = std::partition_point(runs_.begin(), runs_.end(), [&](const TextRun& run) {
    return std::size_t{run.chunk_offset} + run.length <= begin;
  });
  for (auto run = first; run != runs_.end() && run->chunk_offset < end; ++run) {
    const std::size_t from = std::max<std::size_t>(run->chunk_offset, begin);
    const std::size_t to = std::min<std::size_t>(std::size_t{run->chunk_offset} + run->length, end);
    part.runs_.push_back({static_cast<std::uint32_t>(from - begin), run->page,
                          static_cast<std::uint32_t>(run->page_offset + (from - run->chunk_offset)),
                          static_cast<std::uint32_t>(to - from)});
  }
  return part;
}

}  // namespace lectern::retrieval
