// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "retrieval/library.h"
#include "store/durable_file.h"
#include "support/fakes.h"
#include "support/promptness.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;

unsigned mode_of(const fs::path& path) {
  struct stat status = {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 0777U;
}

DocumentRecord record_of(const fs::path& path) {
  DocumentRecord record;
  record.path = path;
  record.title = path.filename().string();
  record.content = hash_of(path.native());
  return record;
}

Chunk chunk_of(const std::string& text) {
  return {text, "", {{0, 0, 0, static_cast<std::uint32_t>(text.size())}}, 1, 1};
}

class StoreTest : public testing::Test {
 protected:
  void SetUp() override { reopen(); }

  void reopen() {
    store.reset();
    auto opened = Store::open(directory);
    ASSERT_TRUE(opened) << opened.error().message;
    store = std::move(*opened);
  }

  // Closes the store and works on the file as anybody could.
  void tamper(const char* sql) {
    store.reset();
    Database(file, Database::Role::kWriter).run(sql);
  }

  DocumentId put(const std::string& name, const std::string& text) {
    const auto put = store->put(record_of("/" + name), {{text, 0, 0, {}}}, {chunk_of(text)}, {});
    EXPECT_TRUE(put) << put.error().message;
    return put ? put->document : 0;
  }

  test::Scratch scratch;
  const fs::path directory = scratch / "library";
  const fs::path file = directory / "library.sqlite";
  std::unique_ptr<Store> store;
};

TEST_F(StoreTest, OnlyTheUserMayReadTheFiles) {
  put("a", "alpha");
  EXPECT_EQ(mode_of(directory), 0700U);
  for (const auto& entry : fs::directory_iterator(directory)) EXPECT_EQ(mode_of(entry.path()), 0600U) << entry.path();
}

TEST_F(StoreTest, SecondOpenerIsTurnedAwayWhicheverProcessItIs) {
  const auto second = Store::open(directory);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  EXPECT_EQ(second.error().message,
            "The library " + directory.string() + " is open in another Lectern; close it first.");
  const pid_t child = ::fork();
  if (child == 0) {
    const auto third = Store::open(directory);
    ::_exit(!third && third.error().code == ErrorCode::kBusy ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  reopen();
}

TEST_F(StoreTest, WhatIsNoLibraryIsRefusedAndKept) {
  store.reset();
  const std::string library = read_bounded(file, 1 << 24).value();
  std::string bad_header = library;
  bad_header[17] = 3;  // page size
  std::string random = library;
  for (std::size_t i = 0; i < random.size(); ++i) random[i] = static_cast<char>(i * 7919 >> 3);
  const std::vector<std::string> contents = {"not a database, but text that is long enough to be one",
                                             "SQLite format 3",
                                             bad_header,
                                             random,
                                             library.substr(0, 100),
                                             library.substr(0, 5000)};
  for (const std::string& content : contents) {
    fs::remove(directory / "library.sqlite-wal");
    fs::remove(directory / "library.sqlite-shm");
    fs::remove(file);
    scratch.write("library/library.sqlite", content);
    const auto opened = Store::open(directory);
    ASSERT_FALSE(opened) << content.size();
    EXPECT_EQ(opened.error().code, ErrorCode::kCorrupt) << opened.error().message;
    EXPECT_THAT(opened.error().message, HasSubstr(file.string()));
    EXPECT_EQ(read_bounded(file, 1 << 24).value(), content);
  }
}

TEST_F(StoreTest, DatabaseOfAnotherProgramIsRefusedAndKept) {
  store.reset();
  fs::remove(file);
  Database(file, Database::Role::kWriter).run("CREATE TABLE theirs(x); INSERT INTO theirs VALUES (1)");
  const std::string before = read_bounded(file, 1 << 24).value();
  const auto opened = Store::open(directory);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(opened.error().message, HasSubstr("not a Lectern library"));
  EXPECT_EQ(read_bounded(file, 1 << 24).value(), before);
}

TEST_F(StoreTest, UnreachablePlacesAreErrors) {
  EXPECT_FALSE(Store::open("/proc/nowhere/library"));
  scratch.write("file", "x");
  EXPECT_FALSE(Store::open(scratch / "file"));
  EXPECT_FALSE(Store::open(""));
}

TEST_F(StoreTest, DamagedTextIsNoticedAndNamed) {
  const DocumentId document = put("report.pdf", "the true figure is 17");
  put("other.pdf", "other things");
  tamper("UPDATE chunks SET text = replace(text, '17', '71'); UPDATE pages SET text = replace(text, '17', '71')");
  reopen();
  const auto ids = *store->chunk_ids(std::vector{document});
  const auto chunks = store->chunks(ids);
  ASSERT_FALSE(chunks);
  EXPECT_EQ(chunks.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(chunks.error().message, HasSubstr("report.pdf"));
  EXPECT_EQ(store->page(document, 0).error().code, ErrorCode::kCorrupt);
  EXPECT_TRUE(store->page(document + 1, 0));
}

TEST_F(StoreTest, DamagedPositionsAreNoticed) {
  const DocumentId document = put("report.pdf", "the true figure is 17");
  tamper("UPDATE chunks SET runs = x'0000ffffff7f10'; UPDATE pages SET words = x'00'");
  reopen();
  EXPECT_EQ(store->chunks(*store->chunk_ids(std::vector{document})).error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(store->page(document, 0).error().code, ErrorCode::kCorrupt);
}

TEST_F(StoreTest, DamageFoundWhileReadingEndsWriting) {
  for (int i = 0; i < 50; ++i) put(std::to_string(i), "text " + std::to_string(i) + std::string(3000, 'x'));
  store.reset();
  std::string content = read_bounded(file, 1 << 24).value();
  std::fill(content.begin() + 20 * 4096, content.end(), '\xAA');
  scratch.write("library/library.sqlite", content);
  auto opened = Store::open(directory);
  if (!opened) {
    EXPECT_EQ(opened.error().code, ErrorCode::kCorrupt);
    return;
  }
  store = std::move(*opened);
  ErrorCode found = ErrorCode::kCancelled;
  for (DocumentId document = 1; document <= 50; ++document) {
    if (const auto page = store->page(document, 0); !page) found = page.error().code;
  }
  EXPECT_EQ(found, ErrorCode::kCorrupt);
  EXPECT_THAT(store->read_only_reason(), HasSubstr("damaged"));
  EXPECT_EQ(store->remove(1).error().code, ErrorCode::kStorage);
}

TEST_F(StoreTest, WordIndexStaysInStep) {
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 10; ++i) put(std::to_string(i), "round " + std::to_string(round) + " camelCaseWord");
  }
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(store->remove((*store->find("/" + std::to_string(i)))->id));
  store.reset();
  const Database database(file, Database::Role::kWriter);
  EXPECT_NO_THROW(database.run("INSERT INTO chunks_fts(chunks_fts, rank) VALUES ('integrity-check', 1)"));
  EXPECT_EQ(database.integer("SELECT count(*) FROM chunks_fts WHERE chunks_fts MATCH 'camel'"), 5);
  EXPECT_EQ(database.integer("SELECT count(*) FROM chunks_fts WHERE chunks_fts MATCH '\"0\"'"), 0);
}

TEST_F(StoreTest, StoppedPutLeavesTheEarlierContent) {
  const DocumentId document = put("a", "earlier");
  std::string text;
  std::vector<Chunk> chunks;
  for (int i = 0; i < 60'000; ++i) chunks.push_back(chunk_of("chunk number " + std::to_string(i) + " with some words"));
  std::stop_source source;
  std::chrono::steady_clock::time_point asked;
  std::jthread canceller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    asked = std::chrono::steady_clock::now();
    source.request_stop();
  });
  const auto put = store->put(record_of("/a"), {{"new", 0, 0, {}}}, chunks, source.get_token());
  const auto taken = std::chrono::steady_clock::now() - asked;
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, ErrorCode::kCancelled);
  EXPECT_LT(taken, test::kPromptly);
  EXPECT_EQ(store->page(document, 0)->text, "earlier");
  EXPECT_EQ(store->status()->chunks, 1);
}

TEST_F(StoreTest, PutFailureKeepsContentAndUnknownDocumentsAreNotFound) {
  put("a", "alpha");
  DocumentRecord failed = record_of("/a");
  failed.state = DocumentState::kFailed;
  failed.note = "it broke.";
  const auto id = store->put_failure(failed);
  ASSERT_TRUE(id);
  EXPECT_EQ(store->page(*id, 0)->text, "alpha");
  EXPECT_EQ(store->document(*id)->record.state, DocumentState::kPartial);
  EXPECT_EQ(store->document(99).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store->page(99, 0).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store->remove(99).error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(store->find("/nowhere")->has_value());
}

TEST_F(StoreTest, RemovedChunksTakeNoVectors) {
  put("a", "alpha");
  const DocumentId removed = put("b", "beta");
  const auto model = store->use_model("m", 2);
  ASSERT_TRUE(model);
  const auto pending = *store->chunks_without_vector(*model, 0, 10);
  ASSERT_EQ(pending.size(), 2U);
  ASSERT_TRUE(store->remove(removed));
  const std::vector<ChunkId> ids = {pending[0].id, pending[1].id};
  const std::vector<std::vector<float>> vectors = {{1, 0}, {0, 1}};
  EXPECT_THAT(*store->put_vectors(*model, ids, vectors), testing::ElementsAre(ids[0]));
  EXPECT_THAT(*store->vector_ids(*model), testing::ElementsAre(ids[0]));
  EXPECT_EQ(store->status()->embedded_chunks, 1);
}

// Stands in for a full disk: no file of this process may grow beyond `bytes`.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    signal_ = ::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, signal_);
  }

 private:
  rlimit before_ = {};
  sighandler_t signal_ = SIG_DFL;
};

TEST(FullDisk, StoreTurnsReadOnlySaysSoOnceAndGoesOnSearching) {
  const test::Scratch scratch;
  const fs::path directory = scratch / "library";
  fakes::MemoryExtractor extractor;
  IngestSink sink;
  scratch.write("d/a.txt", "the first reef");
  std::string large = "large reef";
  for (int i = 0; i < 60'000; ++i) large += " word" + std::to_string(i);
  scratch.write("e/large.txt", large);
  const std::vector<fs::path> first = {scratch / "d"};
  const std::vector<fs::path> second = {scratch / "e"};

  auto library = Library::open(directory).value();
  ASSERT_TRUE(library->ingest(first, extractor, nullptr, sink, {}));
  {
    const FileSizeLimit limit(400'000);
    const auto report = library->ingest(second, extractor, nullptr, sink, {});
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code, ErrorCode::kStorage);
    EXPECT_THAT(report.error().message, HasSubstr("until then it can be searched but not changed"));
  }
  EXPECT_THAT(library->status()->read_only_reason, HasSubstr(directory.string()));
  EXPECT_EQ(library->search("reef", {}, nullptr, {})->size(), 1U);
  EXPECT_EQ(library->status()->documents, 1);
  EXPECT_FALSE(library->ingest(second, extractor, nullptr, sink, {})) << "space alone does not make it writable again";
  EXPECT_EQ(library->remove(1).error().code, ErrorCode::kStorage);

  library.reset();
  library = Library::open(directory).value();
  EXPECT_THAT(library->status()->read_only_reason, IsEmpty());
  EXPECT_EQ(library->ingest(second, extractor, nullptr, sink, {})->added, 1);
  EXPECT_EQ(library->status()->documents, 2);
}

TEST(DurableFile, ReplacesWholeAndLeavesNoTemporaryFile) {
  const test::Scratch scratch;
  ASSERT_TRUE(write_durably(scratch / "f", {"one", "", "two"}));
  EXPECT_EQ(read_bounded(scratch / "f", 6).value(), "onetwo");
  EXPECT_EQ(read_bounded(scratch / "f", 5).error().code, ErrorCode::kTooLarge);
  EXPECT_EQ(mode_of(scratch / "f"), 0600U);
  {
    const FileSizeLimit limit(1000);
    EXPECT_EQ(write_durably(scratch / "f", {std::string(5000, 'x')}).error().code, ErrorCode::kStorage);
  }
  EXPECT_EQ(read_bounded(scratch / "f", 6).value(), "onetwo");
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), fs::directory_iterator()), 1);
  fs::create_symlink(scratch / "f", scratch / "link");
  EXPECT_FALSE(read_bounded(scratch / "link", 100));
  EXPECT_FALSE(write_durably(scratch / "no/such/directory", {"x"}));
}

}  // namespace
}  // namespace lectern::retrieval
