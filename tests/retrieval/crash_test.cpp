// SPDX-License-Identifier: GPL-3.0-or-later
// A child process ingests and is killed at a random moment. What it has acknowledged over a pipe must be there
// afterwards, whole; what it has not may be there or not, but whole too.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <sstream>

#include "retrieval/library.h"
#include "store/database.h"
#include "support/fakes.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;

constexpr int kKills = 60;
constexpr int kFiles = 40;

class Acknowledge : public IngestSink {
 public:
  explicit Acknowledge(int pipe) : pipe_(pipe) {}
  void on_item(const IngestItem& item) override {
    if (item.outcome != IngestOutcome::kAdded && item.outcome != IngestOutcome::kUpdated) return;
    const std::string line = item.file.filename().string() + "\n";
    if (::write(pipe_, line.data(), line.size()) < 0) ::_exit(3);
  }

 private:
  int pipe_;
};

// Runs in the child until it is killed or done.
[[noreturn]] void ingest_in_child(const fs::path& directory, const fs::path& tree, int pipe) {
  auto library = Library::open(directory);
  if (!library) ::_exit(1);
  fakes::MemoryExtractor extractor;
  fakes::HashingEmbedder embedder(16);
  Acknowledge sink(pipe);
  const auto report = (*library)->ingest(std::span(&tree, 1), extractor, &embedder, sink, {});
  ::_exit(report && report->failed == 0 ? 0 : 2);
}

std::string read_to_end(int descriptor) {
  std::string all;
  char buffer[4096];
  for (ssize_t count = 0; (count = ::read(descriptor, buffer, sizeof(buffer))) > 0;) {
    all.append(buffer, static_cast<std::size_t>(count));
  }
  return all;
}

class CrashTest : public testing::Test {
 protected:
  // A new version of a file: several chunks that all name it.
  void change(int number) {
    const std::string name = std::to_string(100 + number) + ".txt";
    std::vector<std::string>& versions = versions_[name];
    std::string text;
    for (int line = 0; line < 30; ++line) {
      text += "File " + name + " version " + std::to_string(versions.size()) + " says sentence number " +
              std::to_string(line) + " to whoever may read it.\n";
    }
    scratch_.write("tree/" + name, text);
    versions.push_back(std::move(text));
  }

  // Returns whether the child was killed before it was done.
  bool run_and_kill(std::chrono::microseconds after) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(ends[0]);
      ingest_in_child(scratch_ / "library", scratch_ / "tree", ends[1]);
    }
    ::close(ends[1]);
    ::usleep(static_cast<useconds_t>(after.count()));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    std::istringstream lines(read_to_end(ends[0]));
    ::close(ends[0]);
    for (std::string name; std::getline(lines, name);) {
      acknowledged_[name] = versions_[name].size() - 1;
      ++acknowledgements_;
    }
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
    }
    return WIFSIGNALED(status);
  }

  void check_documents() {
    auto library = Library::open(scratch_ / "library");
    ASSERT_TRUE(library) << library.error().message;
    std::map<std::string, std::size_t> stored;  // version
    const std::vector<DocumentInfo> documents = *(*library)->documents();
    for (const DocumentInfo& info : documents) {
      const std::string name = info.path.filename().string();
      const auto page = (*library)->page(info.id, 0);
      ASSERT_TRUE(page) << page.error().message;
      const std::vector<std::string>& versions = versions_[name];
      const auto version = std::ranges::find(versions, page->text);
      ASSERT_NE(version, versions.end()) << name << " holds a text that never was";
      stored[name] = static_cast<std::size_t>(version - versions.begin());
      EXPECT_GT(info.chunks, 1);
      const auto hits = (*library)->search(name, {.limit = 1000, .documents = {info.id}}, nullptr, {});
      ASSERT_TRUE(hits) << hits.error().message;
      EXPECT_EQ(static_cast<std::int64_t>(hits->size()), info.chunks) << name;
    }
    for (const auto& [name, version] : acknowledged_) {
      // A later one may have been committed and not acknowledged any more.
      ASSERT_TRUE(stored.contains(name)) << name << " was lost";
      EXPECT_GE(stored[name], version) << name << " fell back";
    }
    fakes::HashingEmbedder embedder(16);
    const auto hits = (*library)->search("sentence", {.limit = 1000, .documents = {}}, &embedder, {});
    ASSERT_TRUE(hits) << hits.error().message;
    EXPECT_EQ(std::ranges::count_if(*hits, [](const SearchHit& hit) { return hit.vector_rank > 0; }),
              (*library)->status()->embedded_chunks);
  }

  void check_file() {
    const Database database(scratch_ / "library/library.sqlite", Database::Role::kWriter);
    Statement check = database.prepare("PRAGMA integrity_check");
    ASSERT_TRUE(check.step());
    EXPECT_EQ(check.text(0), "ok");
    EXPECT_NO_THROW(database.run("INSERT INTO chunks_fts(chunks_fts, rank) VALUES ('integrity-check', 1)"));
    EXPECT_FALSE(database.prepare("PRAGMA foreign_key_check").step());
    EXPECT_EQ(database.integer("SELECT count(*) FROM documents d WHERE chunk_count <> (SELECT count(*) FROM chunks c "
                               "WHERE c.document_id = d.id) OR page_count <> (SELECT count(*) FROM pages p WHERE "
                               "p.document_id = d.id)"),
              0);
  }

  test::Scratch scratch_;
  std::map<std::string, std::vector<std::string>> versions_;  // every text a file ever had, the newest last
  std::map<std::string, std::size_t> acknowledged_;           // index into these
  int acknowledgements_ = 0;
};

TEST_F(CrashTest, NothingAcknowledgedIsLostAndNothingIsHalf) {
  std::mt19937 random(20'261'121);
  for (int i = 0; i < kFiles; ++i) change(i);
  int killed = 0;
  double longest_us = 60'000;  // of a run before its kill: follows the machine, so that kills come while there is work
  for (int round = 0; killed < kKills && round < 4 * kKills; ++round) {
    SCOPED_TRACE("run " + std::to_string(round));
    // Early ones hit the creation of the library, later ones documents and embeddings.
    const double limit_us = round < 20 ? 8'000 : longest_us;
    const double share = static_cast<double>(random() % 1000) / 1000;
    const bool died = run_and_kill(std::chrono::microseconds(static_cast<std::int64_t>(share * limit_us)));
    killed += died ? 1 : 0;
    if (round >= 20) longest_us = std::clamp(longest_us * (died ? 1.1 : 0.7), 2'000.0, 60'000.0);
    check_documents();
    check_file();
    if (HasFailure()) return;
    for (int k = 0; k < 12; ++k) change(static_cast<int>(random() % kFiles));
  }
  EXPECT_EQ(killed, kKills) << "too few kills came while there was work";
  EXPECT_GT(acknowledgements_, 0);
  RecordProperty("acknowledged", acknowledgements_);
  EXPECT_FALSE(run_and_kill(std::chrono::seconds(3))) << "the last run is left to finish";
  check_documents();
}

// What a killed process wrote stays in the system's memory, so the test above cannot tell whether power may fail.
TEST(PowerLoss, WriterWaitsForTheDisk) {
  const test::Scratch scratch;
  const Database database(scratch / "library.sqlite", Database::Role::kWriter);
  constexpr std::int64_t kFull = 2;
  EXPECT_EQ(database.integer("PRAGMA synchronous"), kFull);
}

}  // namespace
}  // namespace lectern::retrieval
