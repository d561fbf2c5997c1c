// SPDX-License-Identifier: GPL-3.0-or-later
// Guessing ahead, and reading several sequences together, must not change a single bit of what comes out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "model/transformer.h"
#include "runtime/draft_depth.h"
#include "runtime/pass_scheduler.h"
#include "runtime/sampler.h"
#include "runtime/transformer_sequence.h"
#include "support/backend_kind.h"
#include "support/load_transformer.h"
#include "support/scratch.h"

namespace lectern::engine {
namespace {

using Row = std::vector<float>;

class SpeculationTest : public ::testing::TestWithParam<KvType> {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    golden::write_model(golden::directory() / "models" / "tiny", directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  SpeculationTest() : model_(support::load_transformer(directory_->path(), *backend_, 64).value()) {
    for (TokenId t = 0; t < 41; ++t) prompt_.push_back((7 * t * t + 3 * t + 5) % 96);
  }

  SequenceState new_state() { return model_->new_sequence({.kv = GetParam(), .with_mtp = true}).value(); }

  std::size_t vocabulary() const { return static_cast<std::size_t>(model_->config().vocabulary); }

  // The logits after each of `tokens`, read one by one.
  std::vector<Row> one_by_one(SequenceState& state, std::span<const TokenId> tokens) {
    std::vector<Row> rows;
    for (const TokenId& token : tokens) {
      Row row(vocabulary());
      EXPECT_TRUE(model_->forward(state, {&token, 1}, {1, row, {}}).ok());
      rows.push_back(row);
    }
    return rows;
  }

  // What a reply is made of: the prompt at once, then every next token by `sampler`.
  std::vector<TokenId> reply(TransformerSequence& sequence, SamplingOptions sampling, int count) {
    Sampler sampler = Sampler::create(sampling, static_cast<TokenId>(vocabulary())).value();
    auto logits = sequence.append(prompt_, true, {});
    std::vector<TokenId> tokens;
    for (int i = 0; i < count && logits.ok(); ++i) {
      const TokenId token = sampler.sample(*logits).value();
      tokens.push_back(token);
      logits = sequence.append({&token, 1}, true, {});
    }
    EXPECT_TRUE(logits.ok());
    return tokens;
  }

  static test::Scratch* directory_;
  std::unique_ptr<Backend> backend_ = support::test_backend();
  std::unique_ptr<Transformer> model_;
  std::vector<TokenId> prompt_;
};

test::Scratch* SpeculationTest::directory_ = nullptr;

INSTANTIATE_TEST_SUITE_P(Kv, SpeculationTest, ::testing::Values(KvType::kF32, KvType::kBF16, KvType::kQ8),
                         [](const auto& test) { return "type" + std::to_string(static_cast<int>(test.param)); });

TEST_P(SpeculationTest, ATentativePassGivesTheBitsOfSinglePasses) {
  const std::vector<TokenId> tokens = {9, 80, 3, 55, 21};
  for (std::int64_t accepted = 0; accepted <= 5; ++accepted) {
    SequenceState plain = new_state();
    SequenceState tentative = new_state();
    ASSERT_TRUE(model_->forward(plain, prompt_, {}).ok());
    ASSERT_TRUE(model_->forward(tentative, prompt_, {}).ok());
    std::vector<float> logits(tokens.size() * vocabulary());
    const Reading reading = {&tentative, tokens, {5, logits, {}}, true};
    ASSERT_TRUE(model_->advance({&reading, 1}).ok());
    EXPECT_EQ(model_->forward(tentative, tokens, {}).error().code, ErrorCode::kInvalidArgument) << "not decided yet";
    ASSERT_TRUE(model_->accept(tentative, accepted).ok());
    EXPECT_EQ(tentative.length(), 41 + accepted);

    const auto rows = one_by_one(plain, std::span(tokens).first(static_cast<std::size_t>(accepted)));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(0, std::memcmp(rows[i].data(), logits.data() + i * vocabulary(), vocabulary() * sizeof(float)));
    }
    const std::vector<TokenId> next = {44, 17};
    EXPECT_EQ(one_by_one(tentative, next), one_by_one(plain, next)) << accepted << " accepted";
  }
}

TEST_P(SpeculationTest, NeighboursInAPassChangeNothing) {
  SequenceState alone[2] = {new_state(), new_state()};
  SequenceState together[2] = {new_state(), new_state()};
  for (auto* states : {alone, together}) {
    ASSERT_TRUE(model_->forward(states[0], prompt_, {}).ok());
    ASSERT_TRUE(model_->forward(states[1], std::span(prompt_).first(7), {}).ok());
  }
  const std::vector<TokenId> first = {3, 60, 90};
  const std::vector<TokenId> second = {12, 33, 1};
  const std::vector<Row> expected[2] = {one_by_one(alone[0], first), one_by_one(alone[1], second)};
  for (std::size_t i = 0; i < 3; ++i) {
    Row rows[2] = {Row(vocabulary()), Row(vocabulary())};
    const Reading readings[2] = {{&together[0], {&first[i], 1}, {1, rows[0], {}}},
                                 {&together[1], {&second[i], 1}, {1, rows[1], {}}}};
    ASSERT_TRUE(model_->advance(readings).ok());
    EXPECT_EQ(rows[0], expected[0][i]);
    EXPECT_EQ(rows[1], expected[1][i]);
  }
}

TEST_P(SpeculationTest, DraftingGivesTheSameReply) {
  PassScheduler scheduler(*model_);
  for (const float temperature : {0.0F, 0.8F}) {
    const SamplingOptions sampling = {.temperature = temperature, .top_p = 0.95F, .seed = 11};
    TransformerSequence plain(scheduler, new_state(), 0);
    const std::vector<TokenId> expected = reply(plain, sampling, 200);
    for (int drafts = 1; drafts <= kMostDrafts; ++drafts) {
      TransformerSequence drafting(scheduler, new_state(), drafts);
      EXPECT_EQ(reply(drafting, sampling, 200), expected);
      EXPECT_EQ(drafting.length(), 241);
    }
  }
}

// The surprise of a token drawn from p is on average the entropy of p. Over many replies drawn while guessing ahead,
// the sum of (surprise - entropy) in units of its standard deviation is about normally distributed, with p from plain
// passes. The replies are short, because guesses that fail become rare.
TEST_P(SpeculationTest, SampledRepliesFollowTheTargetDistribution) {
  PassScheduler scheduler(*model_);
  SequenceState read = new_state();
  Row first(vocabulary());
  ASSERT_TRUE(model_->forward(read, prompt_, {1, first, {}}).ok());
  std::int64_t drafted = 0;
  double excess = 0;
  double variance = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    TransformerSequence sequence(scheduler, new_state(), kMostDrafts);
    const std::vector<TokenId> tokens = reply(sequence, {.temperature = 1.0F, .seed = seed}, 30);
    drafted += sequence.drafts().drafted;
    SequenceState plain = model_->fork(read).value();
    Row logits = first;
    for (const TokenId& token : tokens) {
      const double largest = *std::max_element(logits.begin(), logits.end());
      double total = 0;
      for (const float value : logits) total += std::exp(value - largest);
      double entropy = 0;
      double square = 0;
      for (const float value : logits) {
        const double surprise = std::log(total) - (value - largest);
        entropy += std::exp(-surprise) * surprise;
        square += std::exp(-surprise) * surprise * surprise;
      }
      excess += std::log(total) - (logits[static_cast<std::size_t>(token)] - largest) - entropy;
      variance += square - entropy * entropy;
      ASSERT_TRUE(model_->forward(plain, {&token, 1}, {1, logits, {}}).ok());
    }
  }
  EXPECT_GE(drafted, 60);  // how far is guessed depends on measured times
  EXPECT_LT(std::abs(excess) / std::sqrt(variance), 4.0);
}

TEST_P(SpeculationTest, ASnapshotInTheMiddleOfGuessesGoesOnTheSame) {
  PassScheduler scheduler(*model_);
  TransformerSequence sequence(scheduler, new_state(), kMostDrafts);
  const std::vector<TokenId> begun = reply(sequence, {}, 30);
  auto snapshot = sequence.snapshot();
  ASSERT_TRUE(snapshot.ok());
  EXPECT_EQ(snapshot->tokens.size(), 71U);
  TransformerSequence copy(scheduler, std::move(snapshot).value(), kMostDrafts);
  for (const TokenId token : {5, 90, 13, 13, 2, 41}) {
    const auto expected = sequence.append({&token, 1}, true, {});
    const auto actual = copy.append({&token, 1}, true, {});
    ASSERT_TRUE(expected.ok() && actual.ok());
    EXPECT_TRUE(std::equal(expected->begin(), expected->end(), actual->begin(), actual->end()));
  }
}

// Guesses at what a model without training draws are as good as never right, so that there are soon none.
TEST_P(SpeculationTest, WhatIsWrittenWithoutGuessesIsNotFedToTheModule) {
  PassScheduler scheduler(*model_);
  TransformerSequence sequence(scheduler, new_state(), kMostDrafts);
  reply(sequence, {.temperature = 1.0F, .seed = 3}, 400);
  auto snapshot = sequence.snapshot();
  ASSERT_TRUE(snapshot.ok());
  EXPECT_EQ(snapshot->hidden.size(), static_cast<std::size_t>(model_->config().hidden_size));
  EXPECT_GE(snapshot->state.mtp_cache().length(), 40) << "the prompt is";
  EXPECT_LT(snapshot->state.mtp_cache().length(), 300);
  TransformerSequence copy(scheduler, std::move(snapshot).value(), kMostDrafts);
  for (int i = 0; i < 40; ++i) {  // guesses from a module that has seen only some of it
    const TokenId token = 7 * i % 96;
    const auto expected = sequence.append({&token, 1}, true, {});
    const auto actual = copy.append({&token, 1}, true, {});
    ASSERT_TRUE(expected.ok() && actual.ok());
    ASSERT_TRUE(std::equal(expected->begin(), expected->end(), actual->begin(), actual->end())) << i;
  }
}

TEST_P(SpeculationTest, SequencesOfSeveralThreadsGiveTheirOwnReplies) {
  PassScheduler scheduler(*model_);
  std::vector<std::vector<TokenId>> expected;
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    TransformerSequence sequence(scheduler, new_state(), 2);
    expected.push_back(reply(sequence, {.temperature = 0.7F, .seed = seed}, 60));
  }
  std::vector<std::vector<TokenId>> actual(3);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < 3; ++i) {
      threads.emplace_back([&, i] {
        TransformerSequence sequence(scheduler, new_state(), 2);
        actual[i] = reply(sequence, {.temperature = 0.7F, .seed = i}, 60);
      });
    }
  }
  EXPECT_EQ(actual, expected);
}

// A model of costs: a pass takes 1 and 0.1 more for every guess, a guess takes 0.1.
double simulated_seconds_per_token(DraftDepth& depth, double right, int steps) {
  std::mt19937 random(5);
  std::bernoulli_distribution guess_is_right(right);
  double seconds = 0;
  int tokens = 0;
  for (int i = 0; i < steps; ++i) {
    const int drafts = depth.next();
    int accepted = 0;
    while (accepted < drafts && guess_is_right(random)) ++accepted;
    depth.add_step(drafts, accepted, 1 + 0.2 * drafts);
    seconds += 1 + 0.2 * drafts;
    tokens += 1 + accepted;
  }
  return seconds / tokens;
}

TEST(DraftDepthTest, GoodGuessesAreUsedAndBadOnesCostNextToNothing) {
  DraftDepth good(kMostDrafts);
  EXPECT_LT(simulated_seconds_per_token(good, 0.9, 400), 0.6);
  DraftDepth bad(kMostDrafts);
  simulated_seconds_per_token(bad, 0.02, 100);
  EXPECT_LT(simulated_seconds_per_token(bad, 0.02, 2000), 1.02);
  DraftDepth none(0);
  EXPECT_EQ(simulated_seconds_per_token(none, 0.9, 50), 1.0);
}

// As in a small model, where a second row costs as much as the first: what is always right hardly pays.
TEST(DraftDepthTest, GuessesThatCannotPayAreHardlyTried) {
  DraftDepth depth(kMostDrafts);
  double seconds = 0;
  int tokens = 0;
  for (int i = 0; i < 1000; ++i) {
    const int drafts = depth.next();
    depth.add_step(drafts, drafts, 1 + drafts);
    seconds += 1 + 1.5 * drafts;  // feeding the module before a probe included
    tokens += 1 + drafts;
    if (i == 63) {
      EXPECT_LT(seconds / tokens, 1.02);
    }
  }
  EXPECT_LT(seconds / tokens, 1.005);
}

TEST(DraftDepthTest, ASlowBeginningDoesNotMakeGuessesLookCheap) {
  DraftDepth depth(kMostDrafts);
  double lost = 0;
  const std::vector<double> slow = {2.7, 2.5, 1.8, 1.4};  // caches are cold
  for (std::size_t i = 0; i < 64; ++i) {
    const int drafts = depth.next();
    const int accepted = i < 8 ? drafts : 0;  // and the first guesses happen to be right
    depth.add_step(drafts, accepted, drafts == 0 && i < slow.size() ? slow[i] : 1 + drafts);
    lost += drafts - accepted;
  }
  EXPECT_LT(lost, 8);
}

TEST(DraftDepthTest, RecoversWhenGuessesBecomeRight) {
  DraftDepth depth(kMostDrafts);
  simulated_seconds_per_token(depth, 0.0, 500);
  simulated_seconds_per_token(depth, 0.95, 2000);
  EXPECT_LT(simulated_seconds_per_token(depth, 0.95, 400), 0.6);
}

}  // namespace
}  // namespace lectern::engine
