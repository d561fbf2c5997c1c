// SPDX-License-Identifier: GPL-3.0-or-later
// Tokens chosen on the emulated GPU are those that a sampler on the host chooses from the same logits, whatever is
// guessed ahead.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "model/transformer.h"
#include "runtime/pass_scheduler.h"
#include "runtime/row_choices.h"
#include "runtime/sampler.h"
#include "runtime/transformer_sequence.h"
#include "support/backend_kind.h"
#include "support/cuda_emulation/cuda_emulation.h"
#include "support/load_transformer.h"
#include "support/scratch.h"

namespace lectern::engine {
namespace {

namespace emulation = cuda::emulation;

const SamplingOptions kSettings[] = {
    {},
    {.repetition_penalty = 1.3F},
    {.temperature = 0.9F, .seed = 1},
    {.temperature = 0.8F, .top_k = 9, .top_p = 0.9F, .seed = 2},
    {.temperature = 1.0F, .top_p = 0.8F, .min_p = 0.1F, .seed = 3},
    {.temperature = 0.7F, .top_k = 20, .presence_penalty = 1.5F, .repetition_penalty = 1.1F, .seed = 4},
};

class CudaChoices : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    golden::write_model(golden::directory() / "models" / "tiny", directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  CudaChoices() {
    for (TokenId t = 0; t < 21; ++t) prompt_.push_back((7 * t * t + 3 * t + 5) % 96);
  }
  ~CudaChoices() override { EXPECT_EQ(emulation::check_guards(), ""); }

  SequenceState new_state() { return model_->new_sequence({.kv = KvType::kF32, .with_mtp = true}).value(); }
  TransformerSequence new_sequence(int drafts) { return {scheduler_, new_state(), drafts}; }

  // Padding rows of the output matrix are never chosen.
  TokenId vocabulary() const { return static_cast<TokenId>(model_->config().vocabulary - 3); }

  Sampler sampler_for(const SamplingOptions& options) const {
    Sampler sampler = Sampler::create(options, vocabulary()).value();
    sampler.add_prompt(prompt_);
    return sampler;
  }

  // The tokens that follow the prompt, chosen from downloaded logits.
  std::vector<TokenId> on_host(TransformerSequence& sequence, Sampler sampler, int count) {
    auto logits = sequence.append(prompt_, true, {});
    std::vector<TokenId> tokens;
    while (logits.ok()) {
      tokens.push_back(sampler.sample(*logits).value());
      if (std::ssize(tokens) == count) break;
      logits = sequence.append({&tokens.back(), 1}, true, {});
    }
    return tokens;
  }

  // The same chosen where the logits are.
  std::vector<TokenId> on_device(TransformerSequence& sequence, Sampler& sampler, int count) {
    EXPECT_TRUE(sequence.choose_with(sampler));
    EXPECT_TRUE(sequence.append(prompt_, true, {}).ok());
    return go_on(sequence, sequence.chosen(), count);
  }

  // `count` tokens from `first` on.
  static std::vector<TokenId> go_on(TransformerSequence& sequence, Result<TokenId> first, int count) {
    std::vector<TokenId> tokens;
    for (Result<TokenId> token = std::move(first); token.ok(); token = sequence.chosen()) {
      tokens.push_back(*token);
      if (std::ssize(tokens) == count) break;
      EXPECT_TRUE(sequence.append({&*token, 1}, true, {}).ok());
    }
    return tokens;
  }

  static test::Scratch* directory_;
  std::unique_ptr<Backend> backend_ = support::test_backend();
  std::unique_ptr<Transformer> model_ = support::load_transformer(directory_->path(), *backend_, 64).value();
  PassScheduler scheduler_{*model_};
  std::vector<TokenId> prompt_;
};

test::Scratch* CudaChoices::directory_ = nullptr;

TEST_F(CudaChoices, AreThoseOfTheHost) {
  std::int64_t drafted = 0;
  for (const SamplingOptions& options : kSettings) {
    SCOPED_TRACE(options.seed);
    TransformerSequence plain = new_sequence(0);
    const std::vector<TokenId> expected = on_host(plain, sampler_for(options), 7);
    TransformerSequence sequence = new_sequence(kMostDrafts);
    Sampler sampler = sampler_for(options);
    EXPECT_EQ(on_device(sequence, sampler, 7), expected);
    drafted += sequence.drafts().drafted;
  }
  EXPECT_GT(drafted, 0);
}

// A pass over a token and the tokens that follow it, as after right guesses; then one behind it.
TEST_F(CudaChoices, HoldBehindRightGuesses) {
  for (const std::size_t setting : {3, 5}) {
    const SamplingOptions& options = kSettings[setting];
    SCOPED_TRACE(options.seed);
    TransformerSequence plain = new_sequence(0);
    const std::vector<TokenId> expected = on_host(plain, sampler_for(options), 7);
    Sampler sampler = sampler_for(options);
    RowChoices choices(sampler);
    SequenceState state = new_state();
    const auto read = [&](std::span<const TokenId> tokens, std::span<const TokenId> guesses, bool tentative) {
      if (choices.wants_upload(guesses.size())) {
        EXPECT_TRUE(choices.upload_seen(*backend_).ok());
      }
      Outputs outputs;
      outputs.rows = static_cast<std::int64_t>(guesses.size()) + 1;
      outputs.choices = choices.prepare(guesses);
      outputs.chosen = choices.chosen();
      const Reading reading = {&state, tokens, outputs, tentative};
      EXPECT_TRUE(model_->advance({&reading, 1}).ok());
      choices.ran();
    };
    read(prompt_, {}, false);
    EXPECT_EQ(choices.take(0).value(), expected[0]);
    read(std::span(expected).first(5), std::span(expected).subspan(1, 4), true);
    for (std::int64_t row = 0; row < 5; ++row) {
      EXPECT_EQ(choices.take(row).value(), expected[static_cast<std::size_t>(row) + 1]);
    }
    ASSERT_TRUE(model_->accept(state, 5).ok());
    read(std::span(expected).subspan(5, 1), {}, false);
    EXPECT_EQ(choices.take(0).value(), expected[6]);
  }
}

TEST_F(CudaChoices, GoOnFromASnapshotAsFromTheSequence) {
  const SamplingOptions& options = kSettings[5];
  TransformerSequence sequence = new_sequence(kMostDrafts);
  Sampler sampler = sampler_for(options);
  std::vector<TokenId> begun = on_device(sequence, sampler, 8);
  ASSERT_TRUE(sequence.append({&begun.back(), 1}, true, {}).ok());
  SequenceSnapshot snapshot = sequence.snapshot().value();
  Sampler same = sampler;
  const std::vector<TokenId> expected = go_on(sequence, sequence.chosen(), 5);

  const TokenId last = snapshot.tokens.back();
  begun.pop_back();
  TransformerSequence again(scheduler_, std::move(snapshot), kMostDrafts);
  ASSERT_TRUE(again.choose_with(same));
  // The choice behind the snapshot was made before it: the host makes it again from what a new reading gives.
  TransformerSequence reader = new_sequence(0);
  ASSERT_TRUE(reader.append(prompt_, false, {}).ok());
  ASSERT_TRUE(reader.append(begun, false, {}).ok());
  const auto logits = reader.append({&last, 1}, true, {});
  ASSERT_TRUE(logits.ok());
  EXPECT_EQ(go_on(again, same.sample(*logits), 5), expected);
}

TEST_F(CudaChoices, OfTwoSequencesInOnePass) {
  TransformerSequence alone[] = {new_sequence(0), new_sequence(0)};
  Sampler samplers[] = {sampler_for(kSettings[3]), sampler_for(kSettings[5])};
  RowChoices choices[] = {RowChoices(samplers[0]), RowChoices(samplers[1])};
  SequenceState states[] = {new_state(), new_state()};
  std::vector<TokenId> tokens[2];
  for (int step = 0; step < 4; ++step) {
    std::vector<Reading> readings;
    for (std::size_t i = 0; i < 2; ++i) {
      const std::span<const TokenId> next =
          step == 0 ? std::span<const TokenId>(prompt_) : std::span<const TokenId>(tokens[i]).last(1);
      if (choices[i].wants_upload(0)) {
        ASSERT_TRUE(choices[i].upload_seen(*backend_).ok());
      }
      Outputs outputs;
      outputs.rows = 1;
      outputs.choices = choices[i].prepare({});
      outputs.chosen = choices[i].chosen();
      readings.push_back({&states[i], next, outputs});
    }
    ASSERT_TRUE(model_->advance(readings).ok());
    for (std::size_t i = 0; i < 2; ++i) {
      choices[i].ran();
      tokens[i].push_back(choices[i].take(0).value());
    }
  }
  EXPECT_EQ(tokens[0], on_host(alone[0], sampler_for(kSettings[3]), 4));
  EXPECT_EQ(tokens[1], on_host(alone[1], sampler_for(kSettings[5]), 4));
}

// One id comes back for each row, and with guesses one for each of them.
TEST_F(CudaChoices, OnlyIdsComeBack) {
  for (const int drafts : {0, kMostDrafts}) {
    TransformerSequence sequence = new_sequence(drafts);
    Sampler sampler = sampler_for(kSettings[5]);
    const std::vector<TokenId> begun = on_device(sequence, sampler, 2);
    ASSERT_TRUE(sequence.append({&begun.back(), 1}, true, {}).ok());
    const emulation::Counters before = emulation::counters();
    go_on(sequence, sequence.chosen(), 10);
    const emulation::Counters after = emulation::counters();
    const std::int64_t most_ids = 10 + 2 * sequence.drafts().drafted;
    EXPECT_LE(after.downloaded_bytes - before.downloaded_bytes, most_ids * static_cast<std::int64_t>(sizeof(TokenId)));
  }
}

TEST_F(CudaChoices, GuessesAreThoseOfTheHost) {
  const std::int64_t d = model_->config().hidden_size;
  SequenceState state = new_state();
  const Reading reading = {&state, prompt_, {static_cast<std::int64_t>(prompt_.size()), {}, {}}};
  ASSERT_TRUE(model_->advance({&reading, 1}).ok());
  ASSERT_TRUE(model_->pair_pass(state, prompt_, 0).ok());
  std::vector<float> hidden(static_cast<std::size_t>(d));
  ASSERT_TRUE(model_->read_kept(state, hidden).ok());

  SequenceState copy = model_->fork(state).value();
  std::vector<TokenId> expected;
  std::vector<TokenId> known = {17};
  std::vector<float> logits(static_cast<std::size_t>(model_->config().vocabulary));
  for (int i = 0; i < 3; ++i) {
    std::vector<float> next(hidden.size());
    ASSERT_TRUE(model_->draft(copy, known, hidden, {1, logits, next}).ok());
    known = {static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
    expected.push_back(known.front());
    hidden = next;
  }
  const std::vector<TokenId> next = {17};
  for (int repeat = 0; repeat < 2; ++repeat) {
    std::vector<TokenId> guesses(3);
    ASSERT_TRUE(model_->guess(state, next, guesses).ok());
    EXPECT_EQ(guesses, expected);
    state.mtp_cache().truncate(20);
  }
}

TEST_F(CudaChoices, NumbersThatAreNoneAreAnError) {
  TransformerSequence sequence = new_sequence(0);
  Sampler sampler = sampler_for({});
  const std::vector<TokenId> begun = on_device(sequence, sampler, 2);
  const Tensor gain = {const_cast<float*>(model_->weights().norm->data()), 1, 1};
  const float none = std::numeric_limits<float>::quiet_NaN();
  backend_->upload({&none, 1}, gain.data);
  ASSERT_TRUE(sequence.append({&begun.back(), 1}, true, {}).ok());
  const Result<TokenId> token = sequence.chosen();
  ASSERT_FALSE(token.ok());
  EXPECT_EQ(token.error().code, ErrorCode::kDevice);
  EXPECT_NE(token.error().message.find("not a number"), std::string::npos);
}

}  // namespace
}  // namespace lectern::engine
