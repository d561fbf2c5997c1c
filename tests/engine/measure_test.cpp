// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/measure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>

#include "model/model_files.h"
#include "runtime/token_work.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class MeasureTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch();
    std::filesystem::create_directory(*directory_ / "tiny");
    support::write_tiny_model(*directory_ / "tiny");
  }
  static void TearDownTestSuite() { delete directory_; }

  static fs::path model() { return *directory_ / "tiny"; }
  static fs::path quantised(const std::string& mix) {
    fs::path file = *directory_ / (mix + ".gguf");
    if (fs::exists(file)) return file;
    EXPECT_TRUE(convert_model(model(), file, {.mix = mix}, {}, {}).ok());
    return file;
  }

  static BenchOptions small_bench() {
    BenchOptions options;
    options.engine.threads = 1;
    options.engine.draft_tokens = 0;
    options.prefill_tokens = 20;
    options.decode_tokens = 5;
    options.repeats = 2;
    return options;
  }
  static BenchReport bench(const BenchOptions& options) {
    auto report = run_bench(model(), options, {}, {});
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().message);
    return report.ok() ? std::move(report).value() : BenchReport();
  }

 private:
  static inline test::Scratch* directory_ = nullptr;
};

TEST_F(MeasureTest, BenchRelatesSpeedsToTheMachine) {
  const BenchReport report = bench(small_bench());
  EXPECT_EQ(report.model, "tiny");
  EXPECT_GT(report.prefill_tokens_per_second.median, 0);
  EXPECT_LE(report.prefill_tokens_per_second.least, report.prefill_tokens_per_second.median);
  EXPECT_GE(report.decode_tokens_per_second.most, report.decode_tokens_per_second.median);
  EXPECT_GT(report.machine.read_bytes_per_second, 1e8);
  EXPECT_GT(report.machine.f32_operations_per_second, 1e8);
  EXPECT_LT(report.prefill_operations_per_second, report.machine.f32_operations_per_second * 20);
  EXPECT_GT(report.decode_bytes_per_second, 0);
  EXPECT_GT(report.prediction.chosen.decode_tokens_per_second, 0);
  EXPECT_GT(report.prediction.chosen.prefill_tokens_per_second, 0);
  EXPECT_GT(report.peak_resident_bytes, 1 << 20);
  EXPECT_FALSE(report.drafts);
}

TEST_F(MeasureTest, TheLastLogitsDependOnlyOnWhatWasRead) {
  BenchOptions options = small_bench();
  const BenchReport one = bench(options);
  EXPECT_TRUE(one.repeatable);
  options.engine.threads = 2;
  options.repeats = 1;
  EXPECT_EQ(bench(options).logits_fingerprint, one.logits_fingerprint);
  options.sequences = 3;
  EXPECT_EQ(bench(options).logits_fingerprint, one.logits_fingerprint);
  options.depth_tokens = 7;
  EXPECT_NE(bench(options).logits_fingerprint, one.logits_fingerprint);
}

TEST_F(MeasureTest, BenchStartsAtADepth) {
  BenchOptions options = small_bench();
  options.engine.prefill_chunk_tokens = 32;
  options.depth_tokens = 300;
  const BenchReport read = bench(options);
  options.synthetic_depth = true;
  const BenchReport synthetic = bench(options);
  EXPECT_EQ(read.sequence_bytes, synthetic.sequence_bytes);
  EXPECT_NE(read.logits_fingerprint, synthetic.logits_fingerprint);
  options.depth_tokens = 0;
  EXPECT_LT(bench(options).decode_bytes_per_pass, read.decode_bytes_per_pass);
}

TEST_F(MeasureTest, GuessingAheadIsMeasuredAndChangesNothing) {
  BenchOptions options = small_bench();
  options.engine.draft_tokens = 3;
  options.decode_tokens = 24;
  const BenchReport report = bench(options);
  ASSERT_TRUE(report.drafts);
  EXPECT_TRUE(report.drafts->same_tokens);
  EXPECT_GE(report.drafts->drafted, report.drafts->accepted);
  EXPECT_GT(report.drafts->gain(), 0);
}

TEST_F(MeasureTest, RefusesNumbersOutOfRange) {
  const auto message = [](const BenchOptions& options) {
    const auto report = run_bench(model(), options, {}, {});
    return report.ok() ? std::string("it worked") : report.error().message;
  };
  BenchOptions options = small_bench();
  options.repeats = 0;
  EXPECT_THAT(message(options), HasSubstr("repeats"));
  options = small_bench();
  options.depth_tokens = 1 << 22;
  EXPECT_THAT(message(options), HasSubstr("rope factor"));
  EXPECT_EQ(run_bench(model() / "none", small_bench(), {}, {}).error().code, ErrorCode::kNotFound);
}

TEST_F(MeasureTest, BenchStops) {
  std::stop_source stop;
  BenchOptions options = small_bench();
  options.decode_tokens = 500;
  const auto report = run_bench(
      model(), options,
      [&](const TaskProgress& progress) {
        if (progress.done > 20) stop.request_stop();
      },
      stop.get_token());
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kCancelled);
}

TEST_F(MeasureTest, AModelAgreesWithItself) {
  CompareOptions options;
  options.engine.threads = 1;
  options.decode_tokens = 4;
  const auto report = compare_models(model(), quantised("F32"), options, {}, {});
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_TRUE(report->alternated);
  EXPECT_EQ(report->texts.size(), 8U);
  EXPECT_EQ(report->agreement.same_top_token, 1);
  EXPECT_LT(report->agreement.largest_divergence, 1e-6);
  EXPECT_NEAR(report->agreement.perplexity_a, report->agreement.perplexity_b, 1e-3);
  for (const ComparedText& text : report->texts) EXPECT_EQ(text.same_tokens, text.decoded_tokens);
  EXPECT_GT(report->b.decode_tokens_per_second.median, 0);
}

TEST_F(MeasureTest, FewerBitsAgreeLess) {
  CompareOptions options;
  options.engine.threads = 1;
  options.decode_tokens = 0;
  options.texts = {"hello world, hello wide world", "x", "another text: hell, well, bell"};
  const auto eight = compare_models(model(), quantised("Q8_0"), options, {}, {});
  const auto four = compare_models(model(), quantised("Q4_0"), options, {}, {});
  ASSERT_TRUE(eight.ok() && four.ok());
  EXPECT_EQ(eight->texts.size(), 2U);  // one token has no next one
  EXPECT_GT(eight->agreement.mean_divergence, 0);
  EXPECT_GT(four->agreement.mean_divergence, 4 * eight->agreement.mean_divergence);
  EXPECT_GE(four->agreement.largest_divergence, four->agreement.mean_divergence);
}

TEST_F(MeasureTest, ModelsThatDoNotFitTogetherRunOneAfterTheOther) {
  CompareOptions options;
  options.engine.threads = 1;
  options.decode_tokens = 2;
  options.texts = {"hello world, hello wide world"};
  options.engine.prefill_chunk_tokens = 8;
  const auto together = compare_models(model(), quantised("Q4_0"), options, {}, {});
  std::int64_t bytes = 0;
  const auto files = ModelFiles::open(model());
  ASSERT_TRUE(files.ok());
  for (const auto& [name, tensor] : files->tensors()) bytes += static_cast<std::int64_t>(tensor.bytes.size());
  options.engine.memory_limit_bytes = bytes + (bytes / 10);
  const auto apart = compare_models(model(), quantised("Q4_0"), options, {}, {});
  ASSERT_TRUE(together.ok());
  ASSERT_TRUE(apart.ok()) << apart.error().message;
  EXPECT_TRUE(together->alternated);
  EXPECT_FALSE(apart->alternated);
  EXPECT_NEAR(apart->agreement.mean_divergence, together->agreement.mean_divergence, 1e-5);
}

TEST_F(MeasureTest, WorkFollowsShapesAndDepth) {
  const auto files = ModelFiles::open(model());
  ASSERT_TRUE(files.ok());
  const TokenWork work(*files);
  const ModelConfig& config = files->config();
  const auto attention = std::count(config.layers.begin(), config.layers.end(), LayerKind::kAttention);
  const double row = 2.0 * static_cast<double>(attention * config.kv_width());
  EXPECT_NEAR(work.decode_bytes(100, KvType::kBF16, 1) - work.decode_bytes(0, KvType::kBF16, 1), 200 * row, 1);
  EXPECT_NEAR(work.decode_bytes(100, KvType::kF32, 1) - work.decode_bytes(0, KvType::kF32, 1), 400 * row, 1);
  EXPECT_LT(work.decode_bytes(0, KvType::kF32, 4), 4 * work.decode_bytes(0, KvType::kF32, 1));
  EXPECT_GT(work.prefill_operations(1000, 10), work.prefill_operations(0, 10));
}

}  // namespace
}  // namespace lectern::engine
