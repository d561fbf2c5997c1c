// SPDX-License-Identifier: GPL-3.0-or-later
// The graph on the tiny model of tests/golden: published values, states, sequences. The reference implementation's
// logits for more models are compared in parity_test.cpp.
#include "model/transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "support/backend_kind.h"
#include "support/load_transformer.h"
#include "support/scratch.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kVocabulary = 96;
constexpr std::int64_t kHidden = 64;
constexpr float kTolerance = 2e-5F;  // of a logit; logits reach 3

struct PublishedRow {
  std::int64_t position;
  float logits[6];  // of tokens 0 to 5
  TokenId best;
  double length;  // Euclidean, of all logits
};

// After prompt token `position`; computed in float64.
constexpr PublishedRow kTrunk[] = {
    {0, {0.754885429F, 1.555776527F, -0.166640766F, -1.609463397F, 0.846150972F, -0.722173765F}, 12, 9.508290712},
    {1, {0.608498862F, 1.328779362F, -1.298267639F, -0.498998445F, 0.638567836F, -0.266135120F}, 51, 10.377047139},
    {63, {0.229200998F, -0.880043344F, 1.409564618F, -0.640162156F, 1.681326571F, -1.069313286F}, 62, 9.177121068},
    {64, {-0.951597195F, 2.075617395F, -0.523009227F, -1.594880806F, -1.393142246F, 0.975698957F}, 51, 10.223946681},
    {69, {0.083863185F, 0.420182944F, 1.854647509F, -0.437788336F, -0.716807611F, 0.052042348F}, 78, 9.513240739},
};
// Of the draft head; the pair at 69 has the greedy token, the one at 70 the head's own.
constexpr PublishedRow kDraft[] = {
    {0, {-0.755740975F, 0.935292708F, 0.153617100F, 0.799414269F, 2.841726927F, -1.664287374F}, 4, 9.712631409},
    {68, {-0.799959287F, 0.268985178F, -1.100372255F, 0.400039840F, -1.070419839F, 0.870163500F}, 29, 7.459384221},
    {69, {-1.435638017F, -1.033310748F, 1.055651254F, -0.990103513F, 0.801588997F, -1.579853404F}, 52, 11.056909329},
    {70, {0.501852558F, -0.919494330F, -1.275213739F, -0.553566404F, -0.155074023F, -0.744824493F}, 60, 7.998907044},
};

TokenId best(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

void expect_row(const PublishedRow& expected, std::span<const float> logits) {
  SCOPED_TRACE("position " + std::to_string(expected.position));
  double square = 0;
  for (const float logit : logits) square += double{logit} * logit;
  for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(logits[i], expected.logits[i], kTolerance);
  EXPECT_EQ(best(logits), expected.best);
  EXPECT_NEAR(std::sqrt(square), expected.length, 1e-4);
}

std::span<const float> row(const std::vector<float>& rows, std::int64_t index, std::int64_t width = kVocabulary) {
  return std::span(rows).subspan(static_cast<std::size_t>(index * width), static_cast<std::size_t>(width));
}

class TransformerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    golden::write_model(golden::directory() / "models" / "tiny", directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  TransformerTest() : model_(load(512)) {
    for (std::int64_t t = 0; t < 70; ++t)
      prompt_.push_back(static_cast<TokenId>((7 * t * t + 3 * t + 5) % kVocabulary));
  }

  std::unique_ptr<Transformer> load(std::int64_t chunk) {
    auto loaded = support::load_transformer(directory_->path(), *backend_, chunk);
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    return std::move(loaded).value();
  }

  SequenceState new_sequence() { return std::move(model_->new_sequence({.with_mtp = true})).value(); }

  // Logits and hidden of every token.
  struct Rows {
    std::vector<float> logits;
    std::vector<float> hidden;
  };
  static Rows forward(Transformer& model, SequenceState& state, std::span<const TokenId> tokens) {
    Rows rows{std::vector<float>(tokens.size() * kVocabulary), std::vector<float>(tokens.size() * kHidden)};
    const auto done =
        model.forward(state, tokens, {static_cast<std::int64_t>(tokens.size()), rows.logits, rows.hidden});
    EXPECT_TRUE(done.ok()) << done.error().message;
    return rows;
  }
  Rows forward(SequenceState& state, std::span<const TokenId> tokens) { return forward(*model_, state, tokens); }

  Rows draft(SequenceState& state, std::span<const TokenId> tokens, std::span<const float> hidden) {
    Rows rows{std::vector<float>(tokens.size() * kVocabulary), std::vector<float>(tokens.size() * kHidden)};
    const auto done =
        model_->draft(state, tokens, hidden, {static_cast<std::int64_t>(tokens.size()), rows.logits, rows.hidden});
    EXPECT_TRUE(done.ok()) << done.error().message;
    return rows;
  }

  std::vector<float> read(const Buffer& buffer) {
    std::vector<float> values(static_cast<std::size_t>(buffer.size()));
    backend_->download(buffer.data(), values);
    return values;
  }

  static test::Scratch* directory_;
  std::unique_ptr<Backend> backend_ = support::test_backend();
  std::unique_ptr<Transformer> model_;
  std::vector<TokenId> prompt_;
};

test::Scratch* TransformerTest::directory_ = nullptr;

TEST_F(TransformerTest, PublishedLogits) {
  SequenceState state = new_sequence();
  const Rows rows = forward(state, prompt_);
  for (const PublishedRow& expected : kTrunk) expect_row(expected, row(rows.logits, expected.position));
}

TEST_F(TransformerTest, PublishedStates) {
  SequenceState state = new_sequence();
  forward(state, prompt_);
  constexpr double kLengths[] = {1.804376785, 2.628679374, 2.057207801};
  for (std::size_t layer = 0; layer < 3; ++layer) {
    double square = 0;
    for (const float value : read(*state.delta(layer).recurrent)) square += double{value} * value;
    EXPECT_NEAR(std::sqrt(square), kLengths[layer], 1e-5);
  }
  const std::vector<float> recurrent = read(*state.delta(0).recurrent);  // [heads, 16, 16]
  constexpr float kFirstRows[2][3] = {{0.049135240F, -0.003752546F, 0.029548383F},
                                      {0.015415940F, 0.025272143F, 0.018574101F}};
  for (std::size_t k = 0; k < 2; ++k) {
    for (std::size_t v = 0; v < 3; ++v) EXPECT_NEAR(recurrent[k * 16 + v], kFirstRows[k][v], 1e-6F);
  }
  const std::vector<float> conv = read(*state.delta(0).conv);  // [3, 128], newest last
  constexpr float kNewest[] = {-1.703978979F, -0.566019448F, -0.561202567F};
  for (std::size_t c = 0; c < 3; ++c) EXPECT_NEAR(conv[2 * 128 + c], kNewest[c], 1e-5F);
}

TEST_F(TransformerTest, PublishedGreedyContinuation) {
  SequenceState state = new_sequence();
  TokenId token = best(row(forward(state, prompt_).logits, 69));
  for (const TokenId expected : {78, 78, 44, 16, 30, 60}) {
    EXPECT_EQ(token, expected);
    token = best(forward(state, std::span(&token, 1)).logits);
  }
}

TEST_F(TransformerTest, PublishedDrafts) {
  SequenceState state = new_sequence();
  const Rows trunk = forward(state, prompt_);
  std::vector<TokenId> next(prompt_.begin() + 1, prompt_.end());
  next.push_back(78);
  const Rows first = draft(state, next, trunk.hidden);
  for (const PublishedRow& expected : std::span(kDraft).first(3)) {
    expect_row(expected, row(first.logits, expected.position));
  }
  const TokenId drafted = 52;
  expect_row(kDraft[3], draft(state, std::span(&drafted, 1), row(first.hidden, 69, kHidden)).logits);
}

TEST_F(TransformerTest, DraftedPairsMayBeReplaced) {
  SequenceState state = new_sequence();
  const Rows trunk = forward(state, prompt_);
  std::vector<TokenId> next(prompt_.begin() + 1, prompt_.end());
  next.push_back(78);
  const Rows expected = draft(state, next, trunk.hidden);
  state.mtp_cache().truncate(60);
  std::vector<TokenId> wrong(10, 7);
  draft(state, wrong, std::span(trunk.hidden).first(10 * kHidden));
  state.mtp_cache().truncate(60);
  const Rows again = draft(state, std::span(next).subspan(60), std::span(trunk.hidden).subspan(60 * kHidden));
  for (std::int64_t i = 0; i < 10; ++i) {
    for (std::size_t v = 0; v < kVocabulary; ++v) {
      EXPECT_NEAR(row(again.logits, i)[v], row(expected.logits, 60 + i)[v], kTolerance);
    }
  }
}

TEST_F(TransformerTest, ChunksChangeRoundingOnly) {
  SequenceState whole = new_sequence();
  const Rows expected = forward(whole, prompt_);
  for (const std::int64_t chunk : {1, 7, 64, 512}) {
    const auto model = load(chunk);
    SequenceState state = std::move(model->new_sequence({})).value();
    const Rows rows = forward(*model, state, prompt_);
    for (std::size_t i = 0; i < rows.logits.size(); ++i) ASSERT_NEAR(rows.logits[i], expected.logits[i], kTolerance);
    EXPECT_EQ(state.length(), 70);
  }
}

TEST_F(TransformerTest, OnlyTheLastRowsAreGiven) {
  SequenceState whole = new_sequence();
  const Rows expected = forward(whole, prompt_);
  const auto model = load(16);
  for (const std::int64_t wanted : {0, 1, 5, 6, 7, 23, 70}) {
    SequenceState state = std::move(model->new_sequence({})).value();
    std::vector<float> logits(static_cast<std::size_t>(wanted * kVocabulary));
    std::vector<float> hidden(static_cast<std::size_t>(wanted * kHidden));
    ASSERT_TRUE(model->forward(state, prompt_, {wanted, logits, hidden}).ok());
    for (std::int64_t i = 0; i < wanted; ++i) {
      const std::int64_t from = 70 - wanted + i;
      for (std::size_t v = 0; v < kVocabulary; ++v) {
        ASSERT_NEAR(row(logits, i)[v], row(expected.logits, from)[v], kTolerance);
      }
      EXPECT_NEAR(row(hidden, i, kHidden)[3], row(expected.hidden, from, kHidden)[3], kTolerance);
    }
  }
}

TEST_F(TransformerTest, TheSameCallsGiveTheSameBits) {
  SequenceState first = new_sequence();
  SequenceState second = new_sequence();
  EXPECT_EQ(forward(first, prompt_).logits, forward(second, prompt_).logits);
}

TEST_F(TransformerTest, ACloneGoesItsOwnWay) {
  SequenceState state = new_sequence();
  forward(state, prompt_);
  auto cloned = model_->fork(state);
  ASSERT_TRUE(cloned.ok());
  EXPECT_EQ(cloned->length(), 70);
  EXPECT_EQ(cloned->bytes(), state.bytes());
  const std::vector<TokenId> detour(40, 3);
  forward(state, detour);
  const TokenId token = 78;
  SequenceState fresh = new_sequence();
  forward(fresh, prompt_);
  EXPECT_EQ(forward(*cloned, std::span(&token, 1)).logits, forward(fresh, std::span(&token, 1)).logits);
}

TEST_F(TransformerTest, MemoryGrowsWithTheSequence) {
  SequenceState state = new_sequence();
  const std::int64_t empty = state.bytes();
  const TokenId token = 1;
  forward(state, std::span(&token, 1));
  const std::int64_t little = state.bytes();
  forward(state, std::vector<TokenId>(1000, 1));
  EXPECT_GT(little, empty);
  EXPECT_GT(state.bytes(), little);
  EXPECT_EQ(state.length(), 1001);
}

TEST_F(TransformerTest, WrongCallsChangeNothing) {
  SequenceState state = new_sequence();
  std::vector<float> one_row(kVocabulary);
  const auto code = [&](std::vector<TokenId> tokens, const Outputs& outputs) {
    const auto done = model_->forward(state, tokens, outputs);
    return done.ok() ? ErrorCode::kIo : done.error().code;
  };
  EXPECT_EQ(code({}, {}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({5, 96}, {}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({-1}, {}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({5}, {2, {}, {}}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({5}, {-1, {}, {}}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({5, 6}, {2, std::span(one_row).first(kVocabulary - 1), {}}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(std::vector<TokenId>(2049, 5), {}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(model_->draft(state, prompt_, one_row, {}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(state.length(), 0);
  const Rows rows = forward(state, prompt_);
  expect_row(kTrunk[4], row(rows.logits, 69));
}

TEST_F(TransformerTest, TheContextEndsWhereTheModelSays) {
  SequenceState state = new_sequence();
  ASSERT_TRUE(model_->forward(state, std::vector<TokenId>(2048, 5), {}).ok());
  const TokenId token = 5;
  const auto done = model_->forward(state, std::span(&token, 1), {});
  ASSERT_FALSE(done.ok());
  EXPECT_NE(done.error().message.find("2048"), std::string::npos) << done.error().message;
}

TEST_F(TransformerTest, AStoppedSequenceSaysSo) {
  SequenceState state = new_sequence();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(model_->forward(state, prompt_, {}, stop.get_token()).error().code, ErrorCode::kCancelled);
  EXPECT_EQ(model_->forward(state, prompt_, {}).error().code, ErrorCode::kInvalidArgument);
  SequenceState fresh = new_sequence();
  EXPECT_TRUE(model_->forward(fresh, prompt_, {}).ok());
}

}  // namespace
}  // namespace lectern::engine
