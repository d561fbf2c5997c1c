// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/types.h"

namespace lectern::engine {

// Turns the bytes of generated tokens into the two texts a reader sees and streams them to a sink:
// - whole UTF-8 characters only; bytes that never become one are U+FFFD;
// - what stands before </think> is reasoning, if the prompt opened a reasoning block or the reply starts with <think>;
//   newlines around it and before the answer are dropped;
// - stop texts end the answer (not the reasoning); no part of one is ever emitted.
class TextStream {
 public:
  TextStream(bool thinking, std::vector<std::string> stop_texts, GenerationSink& sink);

  void add(std::string_view bytes);
  void finish();  // no more bytes: emits what was held back

  bool stopped() const { return section_ == Section::kStopped; }
  std::string& text() { return text_; }
  std::string& reasoning() { return reasoning_; }

 private:
  enum class Section { kStart, kReasoning, kAnswer, kStopped };

  // Each works on pending_ and says whether the section changed, so that the rest belongs to the next one.
  bool advance(bool final);
  bool choose_section(bool final);
  bool advance_reasoning(bool final);
  bool advance_answer(bool final);

  void emit_reasoning(std::size_t length);
  void emit_answer(std::size_t length);

  GenerationSink& sink_;
  bool thinking_;
  std::vector<std::string> stop_texts_;
  Section section_ = Section::kStart;
  bool trim_start_ = false;  // newlines at the start of the section are dropped
  std::string bytes_;        // an incomplete character
  std::string pending_;      // valid UTF-8 not yet emitted
  std::string text_;
  std::string reasoning_;
};

}  // namespace lectern::engine
