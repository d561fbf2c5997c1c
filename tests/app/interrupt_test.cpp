// SPDX-License-Identifier: GPL-3.0-or-later
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <string>
#include <thread>

#include "bert_folder.h"
#include "cli_process.h"
#include "support/promptness.h"
#include "support/scratch.h"

namespace lectern::app {
namespace {

using nlohmann::json;

constexpr int kFiles = 150;

class InterruptTest : public testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < kFiles; ++i) {
      m_files.write("log/" + std::to_string(i) + ".txt",
                    "Entry " + std::to_string(i) + ": the lamp was lit at dusk and burned until morning.\n");
    }
  }

  std::vector<std::string> ingest() const { return {"ingest", "--no-embeddings", (m_files.path() / "log").string()}; }

  std::size_t documents() const { return m_cli.run({"ls", "--json"}).json()["documents"].size(); }

  test::Scratch m_files;
  test::Scratch m_data;
  Cli m_cli{m_data.path()};
};

int numberBefore(const std::string& text, const std::string& word) {
  const std::size_t end = text.find(word);
  if (end == std::string::npos) return -1;
  const std::size_t begin = text.find_last_not_of("0123456789", end - 1);
  return begin + 1 == end ? -1 : std::stoi(text.substr(begin + 1, end - begin - 1));
}

TEST_F(InterruptTest, StopsSoonAndKeepsWhatWasReported) {
  Cli::Running running = m_cli.start(ingest());
  ASSERT_TRUE(running.waitForOutput("added"));
  const auto before = std::chrono::steady_clock::now();
  running.signal(SIGINT);
  const Finished finished = running.finish();
  const auto taken = std::chrono::steady_clock::now() - before;

  EXPECT_EQ(finished.code, 130) << finished.err;
  EXPECT_LT(taken, test::kPromptly);
  EXPECT_THAT(finished.out, testing::HasSubstr("Stopped; kept: "));
  const int kept = numberBefore(finished.out, " added,");
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, kFiles);
  EXPECT_EQ(documents(), static_cast<std::size_t>(kept));

  const json again = m_cli.run({"ingest", "--json", "--no-embeddings", (m_files.path() / "log").string()}).json();
  EXPECT_EQ(again["report"]["unchanged"], kept);
  EXPECT_EQ(documents(), static_cast<std::size_t>(kFiles));
}

// A vocabulary of millions takes seconds to read, and reading it cannot be interrupted.
TEST_F(InterruptTest, StopsWhileAModelIsBeingLoaded) {
  std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n";
  for (int i = 0; i < 3'900'000; ++i) vocabulary += std::to_string(i) + "\n";
  writeBert(m_data.path() / "models" / "all-MiniLM-L6-v2", 0.5F, vocabulary);
  Cli::Running running = m_cli.start({"ingest", (m_files.path() / "log").string()});
  const auto begin = std::chrono::steady_clock::now();
  while (!std::filesystem::exists(m_data.path() / "libraries" / "default" / "library.sqlite") &&
         std::chrono::steady_clock::now() - begin < std::chrono::seconds(20)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const auto before = std::chrono::steady_clock::now();
  running.signal(SIGINT);
  const Finished finished = running.finish();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - before;
  std::printf("stopped within %.0f ms\n", taken.count() * 1e3);
  EXPECT_EQ(finished.code, 130);
  EXPECT_EQ(finished.err, "lectern-cli: Stopped while the model was being loaded.\n");
  EXPECT_LT(taken, test::kPromptly);
  EXPECT_EQ(documents(), 0U);
}

TEST_F(InterruptTest, KilledAtAnyMomentKeepsWhatWasAcknowledged) {
  Cli::Running running = m_cli.start(ingest());
  ASSERT_TRUE(running.waitForOutput("120.txt"));
  running.signal(SIGKILL);
  const Finished finished = running.finish();
  EXPECT_EQ(finished.code, 128 + SIGKILL);
  std::size_t acknowledged = 0;
  for (std::size_t at = 0; (at = finished.out.find("added", at)) != std::string::npos; ++at) ++acknowledged;
  EXPECT_GE(documents(), acknowledged - 1);  // the last line may be half written
  EXPECT_EQ(m_cli.run(ingest()).code, 0);
  EXPECT_EQ(documents(), static_cast<std::size_t>(kFiles));
}

}  // namespace
}  // namespace lectern::app
