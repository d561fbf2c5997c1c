// SPDX-License-Identifier: GPL-3.0-or-later
// The engine against logits of the reference implementation; tests/golden/README.md says how they were made.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cpu/kernels.h"
#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "model/transformer.h"
#include "support/gguf_model.h"
#include "support/load_transformer.h"
#include "support/scratch.h"

namespace lectern::engine {
namespace {

// Largest difference of a logit from the reference's, relative to the range of its row.
constexpr float kTolerance = 1e-4F;
constexpr std::int64_t kChunk = 512;

struct Rows {
  std::size_t width = 0;
  std::vector<float> values;
  std::span<float> row(std::int64_t index) {
    return std::span(values).subspan(static_cast<std::size_t>(index) * width, width);
  }
  std::size_t count() const { return values.size() / width; }
};

float difference(std::span<const float> actual, std::span<const float> expected) {
  const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
  float worst = 0.0F;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const float distance = std::abs(actual[i] - expected[i]);
    if (std::isnan(distance)) return distance;
    worst = std::max(worst, distance);
  }
  return worst / (*high - *low);
}

TokenId best(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::unique_ptr<Backend> make_backend(int threads, const cpu::Kernels& kernels) {
  return std::make_unique<cpu::CpuBackend>(threads, kernels);
}

// A model of the golden folder, written to files of its own, and what the reference says about it.
class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name, int shards = 1)
      : files_(directory_.path()), golden_(golden::read_logits(golden::directory() / "models" / name)) {
    golden::write_model(golden::directory() / "models" / name, files_, shards);
  }
  // As a GGUF file.
  GoldenModel(const std::string& name, support::DeltaLayout layout)
      : files_(directory_ / "model.gguf"), golden_(golden::read_logits(golden::directory() / "models" / name)) {
    support::write_gguf_model(golden::directory() / "models" / name, files_, layout);
  }

  const golden::LogitGolden& golden() const { return golden_; }

  std::unique_ptr<Transformer> load(Backend& backend, std::int64_t chunk) const {
    auto loaded = support::load_transformer(files_, backend, chunk);
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    return loaded.ok() ? std::move(*loaded) : nullptr;
  }

 private:
  test::Scratch directory_;
  std::filesystem::path files_;
  golden::LogitGolden golden_;
};

// One sequence of one model that collects the logits (and what the draft head reads) of all its tokens.
class Sequence {
 public:
  explicit Sequence(Transformer& model) : model_(model), state_(model.new_sequence({.with_mtp = true}).value()) {
    logits_.width = static_cast<std::size_t>(model.config().vocabulary);
    hidden_.width = static_cast<std::size_t>(model.config().hidden_size);
  }

  void append(std::span<const TokenId> tokens) {
    const std::size_t before = logits_.count();
    logits_.values.resize((before + tokens.size()) * logits_.width);
    hidden_.values.resize((before + tokens.size()) * hidden_.width);
    const Outputs outputs{static_cast<std::int64_t>(tokens.size()),
                          std::span(logits_.values).subspan(before * logits_.width),
                          std::span(hidden_.values).subspan(before * hidden_.width)};
    const auto done = model_.forward(state_, tokens, outputs);
    ASSERT_TRUE(done.ok()) << done.error().message;
  }

  // Prefill, then one token at a time.
  void run(const golden::LogitRun& run) {
    append(run.prompt);
    for (const TokenId token : run.decode) append(std::span(&token, 1));
  }

  Rows& logits() { return logits_; }
  Rows& hidden() { return hidden_; }
  SequenceState& state() { return state_; }

 private:
  Transformer& model_;
  SequenceState state_;
  Rows logits_;
  Rows hidden_;
};

void expect_golden(Rows& logits, const golden::LogitRun& run) {
  ASSERT_EQ(logits.count(), run.prompt.size() + run.decode.size());
  for (std::size_t i = 0; i < run.positions.size(); ++i) {
    EXPECT_LE(difference(logits.row(run.positions[i]), run.rows[i]), kTolerance)
        << "prompt of " << run.prompt.size() << " tokens, position " << run.positions[i];
  }
}

void expect_golden_drafts(Transformer& transformer, const golden::LogitGolden& golden) {
  EXPECT_EQ(transformer.has_mtp(), !golden.drafts.empty());
  for (const golden::DraftRun& draft : golden.drafts) {
    const golden::LogitRun& run = golden.runs[draft.run];
    Sequence trunk(transformer);
    trunk.append(run.prompt);
    const std::size_t prompt = run.prompt.size();
    Rows logits{trunk.logits().width, std::vector<float>(draft.tokens.size() * trunk.logits().width)};
    Rows hidden{trunk.hidden().width, std::vector<float>(draft.tokens.size() * trunk.hidden().width)};
    const auto draft_rows = [&](std::size_t first, std::size_t count, std::span<const float> from) {
      const Outputs outputs{static_cast<std::int64_t>(count),
                            std::span(logits.values).subspan(first * logits.width, count * logits.width),
                            std::span(hidden.values).subspan(first * hidden.width, count * hidden.width)};
      const auto done = transformer.draft(trunk.state(), std::span(draft.tokens).subspan(first, count), from, outputs);
      ASSERT_TRUE(done.ok()) << done.error().message;
    };
    draft_rows(0, prompt, trunk.hidden().values);
    for (std::size_t i = prompt; i < draft.tokens.size(); ++i) {
      const auto previous = static_cast<std::int64_t>(i) - 1;
      EXPECT_EQ(best(logits.row(previous)), draft.tokens[i]);
      const std::vector<float> carried(hidden.row(previous).begin(), hidden.row(previous).end());
      draft_rows(i, 1, carried);
    }
    for (std::size_t i = 0; i < draft.positions.size(); ++i) {
      EXPECT_LE(difference(logits.row(draft.positions[i]), draft.rows[i]), kTolerance)
          << "prompt of " << prompt << " tokens, position " << draft.positions[i];
    }
  }
}

class Parity : public ::testing::TestWithParam<const char*> {
 protected:
  Parity() : backend_(make_backend(1, *cpu::usable_kernels().back())), model_(GetParam()) {}

  std::unique_ptr<Backend> backend_;
  GoldenModel model_;
};

TEST_P(Parity, PrefillAndDecodeGiveTheReferenceLogits) {
  const auto transformer = model_.load(*backend_, kChunk);
  ASSERT_NE(transformer, nullptr);
  ASSERT_FALSE(model_.golden().runs.empty());
  for (const golden::LogitRun& run : model_.golden().runs) {
    Sequence sequence(*transformer);
    sequence.run(run);
    expect_golden(sequence.logits(), run);
    for (std::size_t i = 0; i < run.decode.size(); ++i) {
      EXPECT_EQ(best(sequence.logits().row(static_cast<std::int64_t>(run.prompt.size() + i) - 1)), run.decode[i]);
    }
  }
}

TEST_P(Parity, ChunkSizesAgree) {
  const golden::LogitRun& longest = model_.golden().runs.back();
  std::vector<Rows> results;
  for (const std::int64_t chunk : {1, 7, 64, 512}) {
    const auto transformer = model_.load(*backend_, chunk);
    ASSERT_NE(transformer, nullptr);
    Sequence sequence(*transformer);
    sequence.append(longest.prompt);
    results.push_back(std::move(sequence.logits()));
    for (std::size_t position = 0; position < longest.prompt.size(); ++position) {
      const auto row = static_cast<std::int64_t>(position);
      ASSERT_LE(difference(results.back().row(row), results.front().row(row)), kTolerance)
          << "chunk " << chunk << ", position " << position;
    }
  }
}

TEST_P(Parity, APromptMayBeCutAnywhere) {
  const auto transformer = model_.load(*backend_, kChunk);
  ASSERT_NE(transformer, nullptr);
  const golden::LogitRun& run = model_.golden().runs[4];
  ASSERT_EQ(run.prompt.size(), 130U);
  Sequence sequence(*transformer);
  std::span<const TokenId> rest = run.prompt;
  for (const std::size_t piece : {1, 2, 3, 1, 60, 5, 58}) {
    sequence.append(rest.first(piece));
    rest = rest.subspan(piece);
  }
  ASSERT_TRUE(rest.empty());
  for (const TokenId token : run.decode) sequence.append(std::span(&token, 1));
  expect_golden(sequence.logits(), run);
}

TEST_P(Parity, DraftsAreTheReferenceDrafts) {
  const auto transformer = model_.load(*backend_, kChunk);
  ASSERT_NE(transformer, nullptr);
  expect_golden_drafts(*transformer, model_.golden());
}

// Drafting reads the sequence but must not change what the trunk computes next.
TEST_P(Parity, DraftingLeavesTheTrunkAlone) {
  const auto transformer = model_.load(*backend_, kChunk);
  ASSERT_NE(transformer, nullptr);
  const golden::LogitRun& run = model_.golden().runs[3];
  Sequence sequence(*transformer);
  sequence.append(run.prompt);
  const auto drafted = transformer->draft(sequence.state(), run.prompt, sequence.hidden().values, Outputs{});
  EXPECT_EQ(drafted.ok(), transformer->has_mtp());
  if (!drafted.ok()) {
    EXPECT_EQ(drafted.error().code, ErrorCode::kUnsupported);
  }
  for (const TokenId token : run.decode) sequence.append(std::span(&token, 1));
  expect_golden(sequence.logits(), run);
}

INSTANTIATE_TEST_SUITE_P(Models, Parity,
                         ::testing::Values("tiny", "odd", "layer_types", "bfloat16", "yarn", "wide", "many_experts",
                                           "qwen3_dense", "qwen3_moe", "qwen3_moe_raw", "qwen3_tied"),
                         [](const auto& test) { return std::string(test.param); });

void expect_kernels_give_golden(const GoldenModel& model, const cpu::Kernels& kernels, int threads) {
  const auto backend = make_backend(threads, kernels);
  const auto transformer = model.load(*backend, kChunk);
  ASSERT_NE(transformer, nullptr);
  const golden::LogitRun& run = model.golden().runs[4];
  Sequence sequence(*transformer);
  sequence.run(run);
  expect_golden(sequence.logits(), run);
}

TEST(ParityKernels, EveryInstructionSetGivesTheReferenceLogits) {
  for (const char* name : {"odd", "bfloat16", "wide"}) {
    const GoldenModel model(name);
    for (const cpu::Kernels* kernels : cpu::usable_kernels()) {
      SCOPED_TRACE(std::string(name) + ", " + std::string(kernels->name));
      expect_kernels_give_golden(model, *kernels, 1);
    }
  }
}

TEST(ParityKernels, SeveralThreadsGiveTheReferenceLogits) {
  const GoldenModel model("odd");
  expect_kernels_give_golden(model, *cpu::usable_kernels().back(), 3);
}

TEST(ParityFiles, ShardsGiveTheSameLogitsAsOneFile) {
  const auto backend = make_backend(1, *cpu::usable_kernels().back());
  const GoldenModel model("tiny", 3);
  const auto transformer = model.load(*backend, kChunk);
  ASSERT_NE(transformer, nullptr);
  const golden::LogitRun& run = model.golden().runs[1];
  Sequence sequence(*transformer);
  sequence.run(run);
  expect_golden(sequence.logits(), run);
}

// Without "bfloat16", whose weights the file would hold as F32, and "qwen3_moe_raw": no key of GGUF files says that
// weights of experts are not normalised.
class ParityGguf : public ::testing::TestWithParam<const char*> {};

TEST_P(ParityGguf, GivesTheReferenceLogitsAndDrafts) {
  const auto backend = make_backend(1, *cpu::usable_kernels().back());
  for (const auto layout : {support::DeltaLayout::kApart, support::DeltaLayout::kJoint}) {
    const GoldenModel model(GetParam(), layout);
    const auto transformer = model.load(*backend, kChunk);
    ASSERT_NE(transformer, nullptr);
    for (const golden::LogitRun& run : model.golden().runs) {
      Sequence sequence(*transformer);
      sequence.run(run);
      expect_golden(sequence.logits(), run);
    }
    expect_golden_drafts(*transformer, model.golden());
    if (!transformer->config().has_delta_layers()) break;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ParityGguf,
                         ::testing::Values("tiny", "odd", "layer_types", "yarn", "wide", "many_experts", "qwen3_dense",
                                           "qwen3_moe", "qwen3_tied"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace lectern::engine
