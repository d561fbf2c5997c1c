// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>

namespace lectern::app {
namespace {

// Counts words and punctuation, roughly as a tokenizer does.
std::optional<std::int64_t> countWords(const std::string& text) {
  std::istringstream words(text);
  std::int64_t count = 12;
  for (std::string word; words >> word;) count += 1 + static_cast<std::int64_t>(word.size()) / 6;
  return count;
}

class RulerTest : public testing::TestWithParam<RulerTask> {};

TEST_P(RulerTest, FillsTheTextUpToTheLength) {
  for (const std::int64_t length : {1024, 4096, 32768}) {
    const auto sample = makeRulerSample(GetParam(), length, 7, countWords);
    ASSERT_TRUE(sample) << length;
    EXPECT_EQ(sample->promptTokens, countWords(sample->prompt));
    const std::int64_t all = sample->promptTokens + sample->answerTokens;
    EXPECT_LE(all, length);
    EXPECT_GT(all, length - 64);
  }
}

TEST_P(RulerTest, IsTheSameForTheSameSeedAlone) {
  const auto one = makeRulerSample(GetParam(), 2048, 1, countWords);
  const auto again = makeRulerSample(GetParam(), 2048, 1, countWords);
  const auto other = makeRulerSample(GetParam(), 2048, 2, countWords);
  ASSERT_TRUE(one && again && other);
  EXPECT_EQ(one->prompt, again->prompt);
  EXPECT_EQ(one->expected, again->expected);
  EXPECT_NE(one->expected, other->expected);
}

TEST_P(RulerTest, HoldsItsAnswer) {
  const auto sample = makeRulerSample(GetParam(), 4096, 3, countWords);
  ASSERT_TRUE(sample);
  EXPECT_FALSE(sample->expected.empty());
  EXPECT_EQ(rulerScore(sample->prompt, sample->expected), 1);
  const std::set<std::string> distinct(sample->expected.begin(), sample->expected.end());
  EXPECT_EQ(distinct.size(), sample->expected.size());
}

TEST_P(RulerTest, GivesUpWhereNothingFits) {
  EXPECT_FALSE(makeRulerSample(GetParam(), 100, 1, countWords));
  EXPECT_FALSE(makeRulerSample(GetParam(), 4096, 1, [](const std::string&) { return std::nullopt; }));
}

TEST_P(RulerTest, HasAName) {
  EXPECT_EQ(rulerTaskNamed(name(GetParam())), GetParam());
  EXPECT_THAT(rulerTaskNames(), testing::HasSubstr(name(GetParam())));
}

INSTANTIATE_TEST_SUITE_P(All, RulerTest, testing::ValuesIn(allRulerTasks()),
                         [](const auto& test) { return std::string(name(test.param)); });

std::map<std::string, int> frequencies(const std::string& text) {
  std::map<std::string, int> counts;
  std::istringstream words(text);
  for (std::string word; words >> word;) ++counts[word];
  return counts;
}

TEST(RulerTasksTest, ExpectTheMostFrequentWords) {
  for (const RulerTask task : {RulerTask::kCommonWords, RulerTask::kAggregation}) {
    const auto sample = makeRulerSample(task, 8192, 5, countWords);
    ASSERT_TRUE(sample);
    std::map<std::string, int> counts = frequencies(sample->prompt);
    int least = 1 << 30;
    for (const std::string& word : sample->expected) {
      least = std::min(least, counts[word]);
      counts.erase(word);
    }
    for (const auto& [word, count] : counts) {
      const bool ofTheList = word.size() >= 6 && word.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == word.npos;
      EXPECT_TRUE(!ofTheList || count < least) << word;
    }
  }
}

TEST(RulerTasksTest, FollowsVariablesBackToTheirValue) {
  const auto sample = makeRulerSample(RulerTask::kVariableTracking, 2048, 11, countWords);
  ASSERT_TRUE(sample);
  ASSERT_EQ(sample->expected.size(), 5U);
  std::size_t before = 0;
  for (std::size_t i = 0; i < sample->expected.size(); ++i) {
    const std::size_t at = sample->prompt.find("VAR " + sample->expected[i] + " = ");
    ASSERT_NE(at, std::string::npos);
    EXPECT_GE(at, before);  // assigned after what it is assigned from
    before = at;
    if (i == 0) continue;
    EXPECT_EQ(sample->prompt.substr(at, 40).find("= VAR " + sample->expected[i - 1]), 10U);
  }
}

TEST(RulerScoreTest, CountsWholeWords) {
  EXPECT_EQ(rulerScore("The number is 1234567.", {"1234567"}), 1);
  EXPECT_EQ(rulerScore("12345678", {"1234567"}), 0);
  EXPECT_EQ(rulerScore("111, 222 and 3333", {"111", "222", "333", "444"}), 0.5);
  EXPECT_EQ(rulerScore("x1 12, 12", {"12"}), 1);
  EXPECT_EQ(rulerScore("", {"1"}), 0);
  EXPECT_EQ(rulerScore("anything", {}), 0);
}

}  // namespace
}  // namespace lectern::app
