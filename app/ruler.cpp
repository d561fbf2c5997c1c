// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruler.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <utility>

namespace lectern::app {
namespace {

constexpr std::array<std::pair<RulerTask, const char*>, 5> kTasks = {
    {{RulerTask::kNeedle, "needle"},
     {RulerTask::kMultiNeedle, "multi_needle"},
     {RulerTask::kVariableTracking, "variable_tracking"},
     {RulerTask::kCommonWords, "common_words"},
     {RulerTask::kAggregation, "aggregation"}}};

constexpr std::array<const char*, 64> kNouns = {
    "anchor", "basket", "candle",  "desert", "engine", "forest",  "garden", "hammer", "island",  "jacket",   "kettle",
    "ladder", "market", "needle",  "office", "pencil", "quarry",  "ribbon", "saddle", "temple",  "umbrella", "valley",
    "window", "yellow", "zipper",  "bridge", "castle", "donkey",  "eagle",  "falcon", "glacier", "harbor",   "insect",
    "jungle", "kitten", "lantern", "meadow", "nephew", "orchard", "pigeon", "rocket", "shadow",  "thunder",  "uncle",
    "violin", "walnut", "barrel",  "copper", "dragon", "feather", "goblet", "helmet", "ivory",   "jewel",    "kernel",
    "lemon",  "marble", "nickel",  "oyster", "pepper", "raven",   "silver", "turtle", "velvet"};
constexpr std::array<const char*, 24> kAdjectives = {"quiet",   "heavy",  "narrow", "golden", "broken", "distant",
                                                     "gentle",  "hollow", "early",  "frozen", "polite", "rusty",
                                                     "sudden",  "tender", "usual",  "vivid",  "wooden", "young",
                                                     "ancient", "bitter", "clever", "dusty",  "empty",  "famous"};
constexpr std::array<const char*, 16> kVerbs = {"watched",   "followed", "carried", "painted", "forgot",  "repaired",
                                                "described", "borrowed", "counted", "crossed", "guarded", "hid",
                                                "inherited", "measured", "noticed", "sold"};

// Fixed arithmetic instead of the standard distributions, which differ between libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : m_state(seed * 2 + 1) { next(); }

  // SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators").
  std::uint64_t next() {
    std::uint64_t z = m_state += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31U);
  }
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(next() % count); }
  template <std::size_t N>
  std::string one(const std::array<const char*, N>& words) {
    return words[below(N)];
  }
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  std::uint64_t m_state;
};

std::string digits(Random& random, int count) {
  std::string text(1, static_cast<char>('1' + random.below(9)));
  while (static_cast<int>(text.size()) < count) text += static_cast<char>('0' + random.below(10));
  return text;
}

std::string letters(Random& random, int count) {
  std::string text;
  while (static_cast<int>(text.size()) < count) text += static_cast<char>('A' + random.below(26));
  return text;
}

// A sentence that says nothing anyone will ask for.
std::string filler(Random& random) {
  return "The " + random.one(kAdjectives) + " " + random.one(kNouns) + " " + random.one(kVerbs) + " the " +
         random.one(kAdjectives) + " " + random.one(kNouns) + ". ";
}

// One text: what comes first, `units` pieces of what makes it long, what is asked, and the answer.
struct Draft {
  std::string prompt;
  std::vector<std::string> expected;
};

// Sentences scattered over `units` sentences of filler, in their order.
std::string scattered(const std::vector<std::string>& sentences, std::int64_t units, Random& random) {
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < sentences.size(); ++i)
    places.push_back(random.below(static_cast<std::size_t>(units) + 1));
  std::sort(places.begin(), places.end());
  std::string text;
  std::size_t next = 0;
  for (std::size_t i = 0; i <= static_cast<std::size_t>(units); ++i) {
    while (next < places.size() && places[next] == i) text += sentences[next++];
    if (i < static_cast<std::size_t>(units)) text += filler(random);
  }
  return text;
}

Draft needles(std::int64_t units, Random& random, int count) {
  constexpr int kOthers = 3;  // numbers of other names, which are not asked for
  const std::string name = random.one(kAdjectives) + " " + random.one(kNouns);
  Draft draft;
  std::vector<std::string> sentences;
  const auto add = [&](const std::string& of, const std::string& number) {
    sentences.push_back("One of the special magic numbers for " + of + " is: " + number + ". ");
  };
  for (int i = 0; i < count; ++i) {
    draft.expected.push_back(digits(random, 7));
    add(name, draft.expected.back());
  }
  for (int i = 0; i < kOthers; ++i) {
    const std::string other = random.one(kAdjectives) + " " + random.one(kNouns);
    if (other != name) add(other, digits(random, 7));
  }
  random.shuffle(sentences);
  draft.prompt =
      "Some special magic numbers are hidden within the following text. Make sure to memorize them. I will "
      "quiz you about them afterwards.\n\n" +
      scattered(sentences, units, random) + "\n\nWhat are all the special magic numbers for " + name +
      " mentioned in the text above? Answer with the numbers alone.";
  return draft;
}

Draft variables(std::int64_t units, Random& random) {
  constexpr int kHops = 4;
  const std::string value = digits(random, 5);
  Draft draft;
  std::vector<std::string> sentences;
  const auto chain = [&](const std::string& start, bool asked) {
    std::string before = start;
    for (int i = 0; i <= kHops; ++i) {
      const std::string variable = letters(random, 5);
      sentences.push_back("VAR " + variable + " = " + (i == 0 ? start : "VAR " + before) + ". ");
      if (asked) draft.expected.push_back(variable);
      before = variable;
    }
  };
  chain(value, true);
  draft.prompt = "Memorize and track the chains of variable assignments hidden in the following text.\n\n" +
                 scattered(sentences, units, random) + "\n\nFind all variables that are assigned the value " + value +
                 " in the text above, directly or through other variables. Answer with their names alone; there are " +
                 std::to_string(draft.expected.size()) + " of them.";
  return draft;
}

// Two-part words, of which there are enough for any length.
std::string listWord(std::size_t index) {
  const std::size_t adjective = index % kAdjectives.size();
  const std::size_t noun = index / kAdjectives.size();
  std::string word = std::string(kAdjectives[adjective]) + kNouns[noun % kNouns.size()];
  if (noun >= kNouns.size()) word += std::to_string(noun / kNouns.size());
  return word;
}

Draft commonWords(std::int64_t units, bool brief, Random& random) {
  constexpr int kCommon = 10;
  const int often = brief ? 10 : 30;
  const int rarely = brief ? 1 : 3;
  const auto rare = static_cast<std::size_t>(units);
  std::vector<std::size_t> indices(rare + kCommon);
  for (std::size_t i = 0; i < indices.size(); ++i) indices[i] = i;
  random.shuffle(indices);
  Draft draft;
  std::vector<std::string> words;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const std::string word = listWord(indices[i]);
    if (i < kCommon) draft.expected.push_back(word);
    words.insert(words.end(), static_cast<std::size_t>(i < kCommon ? often : rarely), word);
  }
  random.shuffle(words);
  std::string list;
  for (std::size_t i = 0; i < words.size(); ++i) list += std::to_string(i + 1) + ". " + words[i] + " ";
  draft.prompt =
      "Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
      "ones that appear most often.\n\n" +
      list + "\n\nWhat are the 10 most common words in the above list? Answer with the words alone.";
  return draft;
}

// Frequencies fall as 1 / rank^2, so that the first three stand out at any length.
Draft aggregation(std::int64_t units, Random& random) {
  constexpr std::size_t kDistinct = 40;
  constexpr std::int64_t kWordsPerUnit = 8;
  std::vector<std::string> vocabulary;
  while (vocabulary.size() < kDistinct) {
    std::string word = letters(random, 6);
    std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::tolower(c); });
    if (std::find(vocabulary.begin(), vocabulary.end(), word) == vocabulary.end()) vocabulary.push_back(word);
  }
  double sum = 0;
  for (std::size_t rank = 1; rank <= kDistinct; ++rank) sum += 1.0 / static_cast<double>(rank * rank);
  std::vector<std::string> words;
  const auto total = static_cast<double>(kWordsPerUnit * (units + 4));
  for (std::size_t rank = 1; rank <= kDistinct; ++rank) {
    const double share = 1.0 / static_cast<double>(rank * rank) / sum;
    words.insert(words.end(), static_cast<std::size_t>(std::max(1L, std::lround(total * share))), vocabulary[rank - 1]);
  }
  random.shuffle(words);
  std::string text;
  for (const std::string& word : words) text += word + (random.below(4) == 0 ? " ... " : " ");
  return {
      "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
      "appearing coded words.\n\n" +
          text +
          "\n\nWhat are the three most frequently appearing words in the above coded text? Ignore the dots. "
          "Answer with the words alone.",
      {vocabulary[0], vocabulary[1], vocabulary[2]}};
}

Draft draftOf(RulerTask task, std::int64_t tokens, std::int64_t units, std::uint64_t seed) {
  constexpr std::int64_t kBrief = 8192;
  Random random(seed * kTasks.size() + static_cast<std::uint64_t>(task));
  switch (task) {
    case RulerTask::kMultiNeedle:
      return needles(units, random, 4);
    case RulerTask::kVariableTracking:
      return variables(units, random);
    case RulerTask::kCommonWords:
      return commonWords(units, tokens < kBrief, random);
    case RulerTask::kAggregation:
      return aggregation(units, random);
    case RulerTask::kNeedle:
      break;
  }
  return needles(units, random, 1);
}

std::int64_t answerTokensOf(RulerTask task) {
  switch (task) {
    case RulerTask::kCommonWords:
      return 128;
    case RulerTask::kMultiNeedle:
    case RulerTask::kVariableTracking:
      return 96;
    default:
      return 48;
  }
}

bool isWordCharacter(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

}  // namespace

std::vector<RulerTask> allRulerTasks() {
  std::vector<RulerTask> tasks;
  tasks.reserve(kTasks.size());
  for (const auto& [task, name] : kTasks) tasks.push_back(task);
  return tasks;
}

const char* name(RulerTask task) { return kTasks[static_cast<std::size_t>(task)].second; }

std::optional<RulerTask> rulerTaskNamed(std::string_view wanted) {
  for (const auto& [task, name] : kTasks) {
    if (wanted == name) return task;
  }
  return std::nullopt;
}

std::string rulerTaskNames() {
  std::string names;
  for (const auto& [task, name] : kTasks) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

// Counting a long text takes long, so the number of units is guessed from those counted before; it always ends, because
// every guess lies strictly between a number that fits and one that does not.
std::optional<RulerSample> makeRulerSample(RulerTask task, std::int64_t tokens, std::uint64_t seed,
                                           const PromptCounter& count) {
  const std::int64_t room = tokens - answerTokensOf(task);
  std::optional<RulerSample> best;
  const auto tryUnits = [&](std::int64_t units) -> std::optional<std::int64_t> {
    Draft draft = draftOf(task, tokens, units, seed);
    const std::optional<std::int64_t> counted = count(draft.prompt);
    if (counted && *counted <= room) {
      best = RulerSample{std::move(draft.prompt), std::move(draft.expected), *counted, answerTokensOf(task)};
    }
    return counted;
  };
  std::int64_t fits = 0;
  auto fitting = tryUnits(0);
  if (!fitting || *fitting > room) return std::nullopt;
  std::int64_t fails = std::max<std::int64_t>(2, room);  // a unit is at least a token
  auto failing = std::optional<std::int64_t>();          // tokens of `fails` units, if they were counted
  while (fails - fits > 1) {
    double perUnit = 12;
    if (fits > 0) perUnit = static_cast<double>(*fitting - 50) / static_cast<double>(fits);
    if (failing) perUnit = static_cast<double>(*failing - *fitting) / static_cast<double>(fails - fits);
    const double guess = static_cast<double>(fits) + static_cast<double>(room - *fitting) / std::max(1.0, perUnit);
    const std::int64_t units = std::clamp(static_cast<std::int64_t>(guess), fits + 1, fails - 1);
    const auto counted = tryUnits(units);
    if (!counted) return std::nullopt;
    if (*counted <= room) {
      fits = units;
      fitting = counted;
    } else {
      fails = units;
      failing = counted;
    }
  }
  return best;
}

double rulerScore(std::string_view answer, const std::vector<std::string>& expected) {
  if (expected.empty()) return 0;
  std::size_t found = 0;
  for (const std::string& word : expected) {
    for (std::size_t at = answer.find(word); at != std::string_view::npos; at = answer.find(word, at + 1)) {
      const std::size_t end = at + word.size();
      const bool whole =
          (at == 0 || !isWordCharacter(answer[at - 1])) && (end == answer.size() || !isWordCharacter(answer[end]));
      if (!whole) continue;
      ++found;
      break;
    }
  }
  return static_cast<double>(found) / static_cast<double>(expected.size());
}

}  // namespace lectern::app
