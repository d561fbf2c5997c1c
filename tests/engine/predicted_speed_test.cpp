// SPDX-License-Identifier: GPL-3.0-or-later
#include "runtime/predicted_speed.h"

#include <gtest/gtest.h>

#include "engine/model_tools.h"
#include "runtime/token_work.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

constexpr double kGiga = 1e9;

// A device that reads 100 GB/s and computes 10 TFLOP/s, in a computer that reads 20 GB/s and sends it 10 GB/s.
constexpr ExpectedRates kRates = {.memory_bytes_per_second = 100 * kGiga,
                                  .operations_per_second = 10'000 * kGiga,
                                  .host_bytes_per_second = 20 * kGiga,
                                  .transfer_bytes_per_second = 10 * kGiga};

// 2 GB for every token, 16 GB of experts of which a token takes one in eight.
SpeedWork mixture() {
  SpeedWork work;
  work.other_bytes = 2 * kGiga;
  work.expert_bytes = 16 * kGiga;
  work.chosen_share = 0.125;
  work.chunk_tokens = 1000;
  work.other_operations = 4 * kGiga;
  work.expert_operations = 4 * kGiga;
  work.blocks = 10;
  return work;
}

TEST(PredictedSpeedTest, DecodingReadsEverythingOnce) {
  SpeedWork work = mixture();
  EXPECT_NEAR(decode_seconds(work, kRates), 0.02 + 0.02, 1e-9);  // 2 GB, and 2 GB of experts
  work.overhead_seconds = 0.001;
  EXPECT_NEAR(decode_seconds(work, kRates), 0.041, 1e-9);
  work.sequences = 2;  // 1 - (7/8)^2 = 15/64 of the experts
  EXPECT_NEAR(decode_seconds(work, kRates), 0.021 + 16.0 * 15 / 64 / 100, 1e-9);
}

TEST(PredictedSpeedTest, WhatIsElsewhereIsReadMeanwhile) {
  SpeedWork work = mixture();
  work.on_device_share = 0.75;  // 1.5 GB at 100 GB/s here, 0.5 GB at 20 GB/s there
  EXPECT_NEAR(decode_seconds(work, kRates), 0.02 + 0.025, 1e-9);
  work.on_device_share = 0.95;  // 1.9 GB here, 0.1 GB there
  EXPECT_NEAR(decode_seconds(work, kRates), 0.02 + 0.019, 1e-9);
  work.on_device_share = 0;
  EXPECT_NEAR(decode_seconds(work, kRates), 0.02 + 0.1, 1e-9);
}

TEST(PredictedSpeedTest, WhoComputesTooSlowlyIsNotWaitingForMemory) {
  SpeedWork work = mixture();
  work.small_operations = 3 * kGiga;
  work.on_device_share = 0.5;  // 1 GB here, 1 GB there, and 2 billion operations each
  ExpectedRates rates = kRates;
  rates.host_operations_per_second = 20 * kGiga;
  EXPECT_NEAR(decode_seconds(work, rates), 0.02 + 0.1, 1e-9);  // instead of 0.05
  rates.small_operations_per_second = 100 * kGiga;
  EXPECT_NEAR(decode_seconds(work, rates), 0.03 + 0.1, 1e-9);
  work.sequences = 2;
  EXPECT_NEAR(decode_seconds(work, rates), 0.06 + 0.2, 1e-9);
}

TEST(PredictedSpeedTest, ReadingComputesOrWaitsForExperts) {
  SpeedWork work = mixture();  // 0.4 s of either kind of product; 0.16 s for the bytes of all experts
  EXPECT_NEAR(chunk_seconds(work, kRates), 0.8, 1e-9);
  work.on_device_share = 0.5;  // 8 GB in 0.8 s through locked memory, or as fast as a copy in the computer's memory
  work.locked = true;
  EXPECT_NEAR(chunk_seconds(work, kRates), 0.4 + 0.8, 1e-9);
  work.staging_bytes = 0.1 * kGiga;  // ten times 0.01 s while the rest is computed
  EXPECT_NEAR(chunk_seconds(work, kRates), 0.4 + 0.7, 1e-9);
  work.staging_bytes = 1 * kGiga;  // no more than the rest takes
  EXPECT_NEAR(chunk_seconds(work, kRates), 0.4 + 0.4, 1e-9);
  work.locked = false;
  EXPECT_NEAR(chunk_seconds(work, kRates), 0.4 + 0.8, 1e-9);
  ExpectedRates slow_host = kRates;
  slow_host.host_bytes_per_second = 8 * kGiga;
  EXPECT_NEAR(chunk_seconds(work, slow_host), 0.4 + 2.0, 1e-9);
}

TEST(PredictedSpeedTest, AFewTokensReadWhatTheyTouch) {
  SpeedWork work = mixture();
  work.chunk_tokens = 2;  // 15/64 of 16 GB; hardly anything to compute
  EXPECT_NEAR(chunk_seconds(work, kRates), 0.02 + 16.0 * 15 / 64 / 100, 1e-9);
}

TEST(PredictedSpeedTest, WithoutARateNothingIsSaid) {
  SpeedWork work = mixture();
  EXPECT_EQ(decode_seconds(work, {}), 0);
  EXPECT_EQ(chunk_seconds(work, {}), 0);
  ExpectedRates rates = kRates;
  rates.host_bytes_per_second = 0;
  EXPECT_GT(decode_seconds(work, rates), 0);  // nothing is elsewhere
  work.on_device_share = 0.5;
  EXPECT_EQ(decode_seconds(work, rates), 0);
}

TEST(PredictedSpeedTest, OfAModelOnTheCpu) {
  const test::Scratch directory;
  support::write_tiny_model(directory.path());
  const auto files = ModelFiles::open(directory.path());
  ASSERT_TRUE(files.ok());
  EngineOptions options;
  options.prefill_chunk_tokens = 64;
  const TokenWork tokens(*files);
  const SpeedPrediction speed = predict_speed(*files, options, {}, kRates, 100);
  EXPECT_NEAR(speed.chosen.decode_tokens_per_second,
              kRates.memory_bytes_per_second / tokens.decode_bytes(100, options.kv_type, 1), 1e-6);
  EXPECT_EQ(speed.chosen.depth_tokens, 100);
  EXPECT_FALSE(speed.planned.has_value());
  const auto placement = plan_placement(directory.path(), {.threads = 1, .context_tokens = 256});
  ASSERT_TRUE(placement.ok()) << placement.error().message;
  EXPECT_EQ(placement->context_tokens, 256);
  EXPECT_EQ(placement->speed.chosen.depth_tokens, 256);
  EXPECT_GT(placement->memory.total(), 0);
  EXPECT_GT(placement->speed.chosen.decode_tokens_per_second, 0);
  EXPECT_GT(placement->speed.chosen.prefill_tokens_per_second, 0);
  EXPECT_EQ(plan_placement(directory / "none", {}).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace lectern::engine
