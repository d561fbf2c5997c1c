// SPDX-License-Identifier: GPL-3.0-or-later
// Tests of long contexts after RULER (Hsieh et al. 2024, "RULER: What's the Real Context Size of Your Long-Context
// Language Models?"): generated texts in which something is to be found, followed or counted.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lectern::app {

enum class RulerTask : std::uint8_t {
  kNeedle,            // one number among much else
  kMultiNeedle,       // four numbers of the same name
  kVariableTracking,  // all names that got a value, directly or from one another
  kCommonWords,       // the ten words of a list that occur more often than the others
  kAggregation,       // the three most frequent of many made-up words
};

std::vector<RulerTask> allRulerTasks();
const char* name(RulerTask task);
std::optional<RulerTask> rulerTaskNamed(std::string_view name);
// "needle, multi_needle, ..."
std::string rulerTaskNames();

struct RulerSample {
  std::string prompt;
  std::vector<std::string> expected;
  std::int64_t promptTokens = 0;
  std::int64_t answerTokens = 0;  // reserved for the answer
};

// Tokens of the whole conversation that consists of this one question; nothing when counting failed.
using PromptCounter = std::function<std::optional<std::int64_t>(const std::string&)>;

// The longest text of this kind that, together with its answer, fits into `tokens`; the same for the same seed. Nothing
// when even the shortest one does not fit, or counting failed.
std::optional<RulerSample> makeRulerSample(RulerTask task, std::int64_t tokens, std::uint64_t seed,
                                           const PromptCounter& count);

// The share of the expected strings that the answer holds as whole words.
double rulerScore(std::string_view answer, const std::vector<std::string>& expected);

}  // namespace lectern::app
