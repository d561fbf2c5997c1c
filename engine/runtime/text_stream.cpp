// SPDX-License-Identifier: Apache-2.0
#include "runtime/text_stream.h"

#include <algorithm>
#include <utility>

#include "text/unicode.h"

namespace lectern::engine {

namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kThinkEnd = "</think>";

// Bytes at the end of `text` that could be the beginning of `marker`.
std::size_t partial_match(std::string_view text, std::string_view marker) {
  for (std::size_t length = std::min(text.size(), marker.size() - 1); length > 0; --length) {
    if (text.ends_with(marker.substr(0, length))) return length;
  }
  return 0;
}

std::size_t trailing_newlines(std::string_view text) { return text.size() - (text.find_last_not_of('\n') + 1); }

void drop_leading_newlines(std::string& text) { text.erase(0, std::min(text.find_first_not_of('\n'), text.size())); }

}  // namespace

TextStream::TextStream(bool thinking, std::vector<std::string> stop_texts, GenerationSink& sink)
    : sink_(sink), thinking_(thinking), stop_texts_(std::move(stop_texts)) {}

void TextStream::add(std::string_view bytes) {
  bytes_ += bytes;
  const std::size_t complete = bytes_.size() - unicode::incomplete_utf8_tail(bytes_);
  pending_ += unicode::replace_invalid_utf8(std::string_view(bytes_).substr(0, complete));
  bytes_.erase(0, complete);
  while (advance(false)) {
  }
}

void TextStream::finish() {
  pending_ += unicode::replace_invalid_utf8(bytes_);
  bytes_.clear();
  while (advance(true)) {
  }
}

bool TextStream::advance(bool final) {
  if (pending_.empty()) return false;
  switch (section_) {
    case Section::kStart:
      return choose_section(final);
    case Section::kReasoning:
      return advance_reasoning(final);
    case Section::kAnswer:
      return advance_answer(final);
    case Section::kStopped:
      pending_.clear();
      return false;
  }
  return false;
}

bool TextStream::choose_section(bool final) {
  const std::size_t start = std::min(pending_.find_first_not_of(" \n"), pending_.size());
  const std::string_view rest = std::string_view(pending_).substr(start);
  const bool tagged = rest.starts_with(kThink);
  if (!tagged && !final && kThink.starts_with(rest)) return false;
  if (tagged) pending_.erase(0, start + kThink.size());
  section_ = tagged || thinking_ ? Section::kReasoning : Section::kAnswer;
  trim_start_ = section_ == Section::kReasoning;
  return true;
}

bool TextStream::advance_reasoning(bool final) {
  if (trim_start_) drop_leading_newlines(pending_);
  const std::size_t end = pending_.find(kThinkEnd);
  if (end != std::string::npos) {
    emit_reasoning(end - trailing_newlines(std::string_view(pending_).substr(0, end)));
    pending_.erase(0, pending_.find(kThinkEnd) + kThinkEnd.size());
    section_ = Section::kAnswer;
    trim_start_ = true;
    return true;
  }
  const std::size_t held = final ? 0 : partial_match(pending_, kThinkEnd);
  const std::string_view open = std::string_view(pending_).substr(0, pending_.size() - held);
  emit_reasoning(open.size() - trailing_newlines(open));
  return false;
}

bool TextStream::advance_answer(bool final) {
  if (trim_start_) drop_leading_newlines(pending_);
  std::size_t end = std::string::npos;
  std::size_t held = 0;
  for (const std::string& stop : stop_texts_) {
    end = std::min(end, pending_.find(stop));
    if (!final) held = std::max(held, partial_match(pending_, stop));
  }
  if (end != std::string::npos) {
    emit_answer(end);
    section_ = Section::kStopped;
    return true;
  }
  emit_answer(pending_.size() - held);
  return false;
}

void TextStream::emit_reasoning(std::size_t length) {
  if (length == 0) return;
  const std::string piece = pending_.substr(0, length);
  pending_.erase(0, length);
  trim_start_ = false;
  reasoning_ += piece;
  sink_.on_reasoning(piece);
}

void TextStream::emit_answer(std::size_t length) {
  if (length == 0) return;
  const std::string piece = pending_.substr(0, length);
  pending_.erase(0, length);
  trim_start_ = false;
  text_ += piece;
  sink_.on_text(piece);
}

}  // namespace lectern::engine
