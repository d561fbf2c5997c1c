// SPDX-License-Identifier: GPL-3.0-or-later
#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

namespace lectern::engine {
namespace {

using Logits = std::vector<float>;

Sampler make(const SamplingOptions& options, TokenId vocabulary) {
  auto sampler = Sampler::create(options, vocabulary);
  EXPECT_TRUE(sampler.ok());
  return std::move(sampler).value();
}

// How often each token comes out of `draws` draws from fresh penalties-free samplers with one running seed.
std::map<TokenId, int> histogram(const SamplingOptions& options, const Logits& logits, int draws) {
  Sampler sampler = make(options, static_cast<TokenId>(logits.size()));
  std::map<TokenId, int> counts;
  for (int i = 0; i < draws; ++i) ++counts[*sampler.sample(logits)];
  return counts;
}

TEST(Sampler, GreedyTakesTheFirstOfEquals) {
  Sampler sampler = make({}, 5);
  EXPECT_EQ(*sampler.sample(Logits{1, 3, 2, 3, 3}), 1);
  EXPECT_EQ(*sampler.sample(Logits{-5, -5, -5, -5, -5}), 0);
}

TEST(Sampler, PaddingRowsAreNeverDrawn) {
  Sampler greedy = make({}, 3);
  EXPECT_EQ(*greedy.sample(Logits{1, 2, 1, 9, 9}), 1);
  SamplingOptions options;
  options.temperature = 1;
  Sampler random = make(options, 3);
  for (int i = 0; i < 200; ++i) EXPECT_LT(*random.sample(Logits{1, 2, 1, 9, 9}), 3);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  SamplingOptions options;
  options.temperature = 2;
  const Logits logits{0, 2, 4, -2};
  constexpr int kDraws = 40000;
  auto counts = histogram(options, logits, kDraws);
  double total = 0;
  for (const float logit : logits) total += std::exp(logit / 2);
  for (TokenId token = 0; token < 4; ++token) {
    const double p = std::exp(logits[token] / 2) / total;
    EXPECT_NEAR(counts[token] / double{kDraws}, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << token;
  }
}

TEST(Sampler, TopKKeepsTheBest) {
  SamplingOptions options;
  options.temperature = 5;
  options.top_k = 2;
  const auto counts = histogram(options, {1, 5, 4, 5, 0}, 500);
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_TRUE(counts.contains(1) && counts.contains(3));
  options.top_k = 99;
  EXPECT_EQ(histogram(options, {1, 1, 1}, 500).size(), 3U);
}

TEST(Sampler, TopKTiesGoToTheLowestIndex) {
  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 2;
  const auto counts = histogram(options, Logits(1000, 1.0F), 300);
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_TRUE(counts.contains(0) && counts.contains(1));
}

TEST(Sampler, TopPKeepsTheSmallestNucleus) {
  SamplingOptions options;
  options.temperature = 1;
  const Logits logits{std::log(0.1F), std::log(0.5F), std::log(0.1F), std::log(0.3F)};
  options.top_p = 0.45F;
  EXPECT_EQ(histogram(options, logits, 300).size(), 1U);
  options.top_p = 0.75F;
  const auto counts = histogram(options, logits, 300);
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_TRUE(counts.contains(1) && counts.contains(3));
  options.top_p = 0;
  EXPECT_EQ(histogram(options, logits, 300).size(), 1U);
}

TEST(Sampler, TopPOfAWideVocabulary) {
  SamplingOptions options;
  options.temperature = 1;
  options.top_p = 0.5F;
  const auto counts = histogram(options, Logits(5000, 0.0F), 5000);
  EXPECT_GT(counts.size(), 1000U);
  EXPECT_LT(counts.rbegin()->first, 2501);
}

TEST(Sampler, TopPCountsOnlyWhatTopKLeft) {
  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 2;
  options.top_p = 0.6F;
  // 0.4 and 0.3 of all are 0.57 and 0.43 of the first two, so both stay.
  const auto counts = histogram(options, {std::log(0.4F), std::log(0.3F), std::log(0.3F)}, 300);
  EXPECT_EQ(counts.size(), 2U);
}

TEST(Sampler, MinPIsRelativeToTheBest) {
  SamplingOptions options;
  options.temperature = 1;
  options.min_p = 0.5F;
  const auto counts = histogram(options, {std::log(0.4F), std::log(0.21F), std::log(0.19F), std::log(0.2F)}, 300);
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_TRUE(counts.contains(0) && counts.contains(1));
}

TEST(Sampler, PresencePenaltyCountsGeneratedTokensOnce) {
  SamplingOptions options;
  options.presence_penalty = 1.5F;
  Sampler sampler = make(options, 3);
  sampler.add_prompt(std::vector<TokenId>{0});
  const Logits logits{3, 2, 1};
  EXPECT_EQ(*sampler.sample(logits), 0);  // in the prompt only: no penalty
  EXPECT_EQ(*sampler.sample(logits), 1);  // 1.5 2 1
  EXPECT_EQ(*sampler.sample(logits), 0);  // 1.5 0.5 1
  EXPECT_EQ(*sampler.sample(logits), 0);  // not penalised twice
}

TEST(Sampler, RepetitionPenaltyCountsThePromptToo) {
  SamplingOptions options;
  options.repetition_penalty = 2;
  Sampler sampler = make(options, 3);
  sampler.add_prompt(std::vector<TokenId>{0, 99, -1});
  EXPECT_EQ(*sampler.sample(Logits{3, 2, 1}), 1);     // 1.5 2 1
  EXPECT_EQ(*sampler.sample(Logits{-1, -1, -1}), 2);  // -2 -2 -1
}

TEST(Sampler, SeedsRepeatAndDiffer) {
  SamplingOptions options;
  options.temperature = 1;
  const Logits logits(100, 0.0F);
  const auto sequence = [&](std::uint64_t seed) {
    options.seed = seed;
    Sampler sampler = make(options, 100);
    std::vector<TokenId> tokens;
    for (int i = 0; i < 20; ++i) tokens.push_back(*sampler.sample(logits));
    return tokens;
  };
  EXPECT_EQ(sequence(7), sequence(7));
  EXPECT_NE(sequence(7), sequence(8));
  EXPECT_NE(sequence(0), sequence(0x9E3779B97F4A7C15ULL));
}

// Fixed, so that a seed means the same on every platform and in every version.
TEST(CounterRandom, KnownValues) {
  CounterRandom random(42);
  std::vector<std::uint64_t> values;
  for (int i = 0; i < 3; ++i) values.push_back(static_cast<std::uint64_t>(random.next() * 0x1.0p53));
  EXPECT_EQ(values, (std::vector<std::uint64_t>{3092098744885774, 8608601199334984, 4380647180739872}));
}

TEST(CounterRandom, IsUniform) {
  CounterRandom random(1);
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.next();
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.005);
}

TEST(Sampler, ValuesThatAreNotNumbersAreErrors) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -infinity}) {
    Sampler sampler = make({}, 3);
    const auto token = sampler.sample(Logits{1, bad, 2});
    ASSERT_FALSE(token.ok());
    EXPECT_EQ(token.error().code, ErrorCode::kDevice);
  }
  Sampler padded = make({}, 2);
  EXPECT_TRUE(padded.sample(Logits{1, 2, nan}).ok());
  EXPECT_FALSE(padded.sample(Logits{1}).ok());
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  const auto message = [](auto change) {
    SamplingOptions options;
    change(options);
    const auto sampler = Sampler::create(options, 3);
    return sampler.ok() ? std::string("accepted") : sampler.error().message;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message([](SamplingOptions&) {}), "accepted");
  EXPECT_NE(message([](SamplingOptions& o) { o.temperature = -1; }).find("temperature"), std::string::npos);
  EXPECT_NE(message([&](SamplingOptions& o) { o.temperature = nan; }).find("temperature"), std::string::npos);
  EXPECT_NE(message([](SamplingOptions& o) { o.top_k = -1; }).find("top_k"), std::string::npos);
  EXPECT_NE(message([](SamplingOptions& o) { o.top_p = 1.5F; }).find("top_p"), std::string::npos);
  EXPECT_NE(message([&](SamplingOptions& o) { o.min_p = nan; }).find("min_p"), std::string::npos);
  EXPECT_NE(message([](SamplingOptions& o) { o.repetition_penalty = 0; }).find("repetition"), std::string::npos);
  EXPECT_NE(message([&](SamplingOptions& o) { o.presence_penalty = nan; }).find("presence"), std::string::npos);
  EXPECT_FALSE(Sampler::create({}, 0).ok());
}

}  // namespace
}  // namespace lectern::engine
