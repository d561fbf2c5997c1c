// SPDX-License-Identifier: GPL-3.0-or-later
#include "core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace lectern::engine {
namespace {

class ThreadTeamTest : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadTeamTest, ::testing::Values(1, 2, 3, 16));

TEST_P(ThreadTeamTest, RunsEveryIndexOnce) {
  ThreadTeam team(GetParam());
  EXPECT_EQ(team.size(), GetParam());
  for (const std::int64_t count : {0, 1, 2, 7, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
    team.parallel_for(count, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
    for (const auto& run : runs) EXPECT_EQ(run, 1);
  }
}

// What the tasks of a loop wrote is there when the loop returns, and in the next loop on any thread.
TEST_P(ThreadTeamTest, LoopsFollowEachOther) {
  ThreadTeam team(GetParam());
  std::vector<std::int64_t> values(64, 0);
  for (int loop = 0; loop < 3000; ++loop) {
    const std::int64_t sum = std::accumulate(values.begin(), values.end(), std::int64_t{0});
    ASSERT_EQ(sum, 64 * loop);
    team.parallel_for(64, [&](std::int64_t i) { ++values[static_cast<std::size_t>((i * 7 + loop) % 64)]; });
  }
}

TEST_P(ThreadTeamTest, WakesUpAfterSleep) {
  ThreadTeam team(GetParam());
  for (int i = 0; i < 3; ++i) {
    std::atomic<int> runs = 0;
    team.parallel_for(20, [&](std::int64_t) { ++runs; });
    EXPECT_EQ(runs, 20);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

TEST_P(ThreadTeamTest, ExceptionsComeOutOnceAllHaveEnded) {
  ThreadTeam team(GetParam());
  for (int loop = 0; loop < 20; ++loop) {
    std::atomic<int> runs = 0;
    try {
      team.parallel_for(30, [&](std::int64_t i) {
        ++runs;
        if (i % 10 == 3) throw std::runtime_error("index " + std::to_string(i));
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(std::string(error.what()).substr(0, 6), "index ");
    }
    // One thread alone stops at the first; a team runs the rest.
    if (GetParam() > 1) {
      EXPECT_EQ(runs, 30);
    }
  }
  std::atomic<int> runs = 0;
  team.parallel_for(30, [&](std::int64_t) { ++runs; });
  EXPECT_EQ(runs, 30);
}

TEST(ThreadTeam, ZeroMeansEveryHardwareThread) {
  const unsigned hardware = std::thread::hardware_concurrency();
  EXPECT_EQ(ThreadTeam(0).size(), static_cast<int>(hardware == 0 ? 1 : hardware));
}

}  // namespace
}  // namespace lectern::engine
