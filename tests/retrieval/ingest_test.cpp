// SPDX-License-Identifier: GPL-3.0-or-later
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "retrieval/library.h"
#include "support/fakes.h"
#include "support/promptness.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;
using fakes::HashingEmbedder;
using fakes::MemoryExtractor;
using test::Scratch;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

class Items : public IngestSink {
 public:
  void on_progress(const IngestProgress& progress) override {
    last = progress;
    if (each_progress) each_progress(progress);
  }
  void on_item(const IngestItem& item) override { items.push_back(item); }

  std::vector<std::string> names(IngestOutcome outcome) const {
    std::vector<std::string> found;
    for (const IngestItem& item : items) {
      if (item.outcome == outcome) found.push_back(item.file.filename().string());
    }
    return found;
  }
  std::string message_of(const std::string& name) const {
    for (const IngestItem& item : items) {
      if (item.file.filename() == name) return item.message;
    }
    return "no such item";
  }

  std::vector<IngestItem> items;
  IngestProgress last;
  std::function<void(const IngestProgress&)> each_progress;
};

class IngestTest : public testing::Test {
 protected:
  void SetUp() override { reopen(); }

  void reopen() {
    library.reset();
    auto opened = Library::open(scratch / "library");
    ASSERT_TRUE(opened) << opened.error().message;
    library = std::move(*opened);
  }

  IngestReport ingest(const std::vector<fs::path>& paths, Embedder* embedder = nullptr, std::stop_token stop = {}) {
    sink.items.clear();
    auto report = library->ingest(paths, extractor, embedder, sink, stop);
    EXPECT_TRUE(report) << report.error().message;
    return report ? *report : IngestReport();
  }

  std::vector<SearchHit> search(const std::string& query, SearchOptions options = {}, Embedder* embedder = nullptr) {
    auto hits = library->search(query, options, embedder, {});
    EXPECT_TRUE(hits) << hits.error().message;
    return hits ? *hits : std::vector<SearchHit>();
  }

  Scratch scratch;
  MemoryExtractor extractor;
  Items sink;
  std::unique_ptr<Library> library;
};

TEST_F(IngestTest, AddsFindsAndRemoves) {
  const fs::path file = scratch.write("docs/whales.txt", "The blue whale is the largest animal.\n");
  const IngestReport report = ingest({file});
  EXPECT_EQ(report.added, 1);
  EXPECT_EQ(report.pages, 1);
  ASSERT_EQ(search("whale").size(), 1U);
  const SearchHit hit = search("whales").front();
  EXPECT_EQ(hit.path, fs::canonical(file));
  EXPECT_EQ(hit.first_line, 1U);
  EXPECT_EQ(hit.page, 0U);
  EXPECT_THAT(hit.text, HasSubstr("largest animal"));

  ASSERT_TRUE(library->remove(hit.document));
  EXPECT_TRUE(search("whale").empty());
  EXPECT_EQ(library->status()->documents, 0);
  EXPECT_EQ(library->remove(hit.document).error().code, ErrorCode::kNotFound);
}

TEST_F(IngestTest, SamePathTwiceIsUnchangedAndNotReadAgain) {
  scratch.write("docs/a.txt", "alpha");
  scratch.write("docs/b.txt", "beta");
  EXPECT_EQ(ingest({scratch / "docs"}).added, 2);
  const IngestReport again = ingest({scratch / "docs", scratch / "docs"});
  EXPECT_EQ(again.unchanged, 2);
  EXPECT_EQ(again.added + again.updated, 0);
  EXPECT_EQ(extractor.calls, 2);
  EXPECT_EQ(library->status()->documents, 2);
}

TEST_F(IngestTest, ChangedContentReplacesTheDocumentAndKeepsItsId) {
  const fs::path file = scratch.write("a.txt", "alpha");
  ingest({file});
  const DocumentId id = library->documents()->front().id;
  scratch.write("a.txt", "gamma");  // same size, perhaps within the same clock tick
  EXPECT_EQ(ingest({file}).updated, 1);
  EXPECT_EQ(library->documents()->front().id, id);
  EXPECT_TRUE(search("alpha").empty());
  EXPECT_EQ(search("gamma").size(), 1U);
}

TEST_F(IngestTest, TouchedButEqualContentIsUnchanged) {
  const fs::path file = scratch.write("a.txt", "alpha");
  ingest({file});
  fs::last_write_time(file, fs::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_EQ(ingest({file}).unchanged, 1);
  EXPECT_EQ(extractor.calls, 1);
}

TEST_F(IngestTest, FileDeletedOnDiskStaysInTheLibrary) {
  const fs::path file = scratch.write("docs/a.txt", "alpha");
  ingest({scratch / "docs"});
  fs::remove(file);
  ingest({scratch / "docs"});
  EXPECT_EQ(search("alpha").size(), 1U);
}

TEST_F(IngestTest, OneBadFileIsOneFailedItem) {
  scratch.write("docs/a.txt", "alpha");
  const fs::path bad = scratch.write("docs/bad.pdf", "%PDF damaged");
  scratch.write("docs/c.txt", "gamma");
  extractor.prepared.emplace("bad.pdf", Error{ErrorCode::kEncrypted, "bad.pdf needs a password."});
  const IngestReport report = ingest({scratch / "docs"});
  EXPECT_EQ(report.added, 2);
  EXPECT_EQ(report.failed, 1);
  EXPECT_EQ(sink.message_of("bad.pdf"), "bad.pdf needs a password.");

  const auto documents = *library->documents();
  ASSERT_EQ(documents.size(), 3U);
  EXPECT_EQ(documents[1].state, DocumentState::kFailed);
  EXPECT_EQ(documents[1].note, "bad.pdf needs a password.");
  EXPECT_EQ(documents[1].title, "bad.pdf");

  EXPECT_EQ(ingest({scratch / "docs"}).unchanged, 3) << "an unchanged failure is not tried again in a directory";
  EXPECT_EQ(ingest({bad}).failed, 1) << "but it is when the user names it";
  extractor.prepared.clear();
  scratch.write("docs/bad.pdf", "now it is text");
  EXPECT_EQ(ingest({scratch / "docs"}).updated, 1);
  EXPECT_EQ(search("now text").size(), 1U);
}

TEST_F(IngestTest, TextSurvivesAChangeThatCannotBeRead) {
  const fs::path file = scratch.write("report.txt", "the only copy");
  ingest({file});
  scratch.write("report.txt", "broken now");
  extractor.prepared.emplace("report.txt", Error{ErrorCode::kUnreadable, "report.txt is damaged."});
  EXPECT_EQ(ingest({file}).failed, 1);
  ASSERT_EQ(search("only copy").size(), 1U);
  const DocumentInfo info = library->documents()->front();
  EXPECT_EQ(info.state, DocumentState::kPartial);
  EXPECT_THAT(info.note, HasSubstr("report.txt is damaged."));
  extractor.prepared.clear();
  EXPECT_EQ(ingest({file}).updated, 1);
  EXPECT_EQ(library->documents()->front().state, DocumentState::kReady);
}

TEST_F(IngestTest, WalkReportsEverythingItLeavesOut) {
  scratch.write("tree/.gitignore", "ignored.txt\nout/\n");
  scratch.write("tree/ignored.txt", "ignored");
  scratch.write("tree/out/deep/made.txt", "made");
  scratch.write("tree/.env", "SECRET=1");
  scratch.write("tree/empty.txt", "");
  const fs::path real = scratch.write("tree/src/real.cpp", "int main() {}\n");
  fs::create_symlink(real, scratch / "tree/link.cpp");
  fs::create_directory_symlink(scratch / "tree", scratch / "tree/src/loop");
  fs::create_hard_link(real, scratch / "tree/src/second.cpp");
  ASSERT_EQ(::mkfifo((scratch / "tree/pipe").c_str(), 0600), 0);

  const IngestReport report = ingest({scratch / "tree"});
  EXPECT_THAT(sink.names(IngestOutcome::kAdded), ElementsAre(".gitignore", "real.cpp"));
  EXPECT_THAT(sink.names(IngestOutcome::kSkipped), UnorderedElementsAre("ignored.txt", "out", ".env", "empty.txt",
                                                                        "link.cpp", "loop", "second.cpp", "pipe"));
  EXPECT_EQ(report.skipped, 8);
  EXPECT_EQ(sink.message_of("out"), "ignored");
  EXPECT_EQ(sink.message_of(".env"), "secret");
  EXPECT_EQ(sink.message_of("link.cpp"), "link");
  EXPECT_EQ(sink.message_of("pipe"), "not a regular file");
}

TEST_F(IngestTest, NamedFilesAreAlwaysTried) {
  const fs::path secret = scratch.write("tree/.env", "SECRET=1");
  EXPECT_EQ(ingest({secret}).added, 1);
  EXPECT_EQ(ingest({scratch / "nowhere.txt"}).failed, 1);
  EXPECT_THAT(sink.message_of("nowhere.txt"), HasSubstr("does not exist"));
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(ingest({scratch / "pipe"}).failed, 1);
  EXPECT_THAT(sink.message_of("pipe"), HasSubstr("not a regular file"));
}

TEST_F(IngestTest, FileNamesNeedNotBeText) {
  const fs::path file = scratch.write("bad\xff\xfename\n.txt", "alpha");
  EXPECT_EQ(ingest({file}).added, 1);
  const DocumentInfo info = library->documents()->front();
  EXPECT_EQ(info.path, fs::canonical(file));
  EXPECT_EQ(info.title.find('\xff'), std::string::npos);
  EXPECT_EQ(ingest({file}).unchanged, 1);
}

TEST_F(IngestTest, WarningsMakeTheDocumentPartial) {
  const fs::path file = scratch.write("scan.pdf", "%PDF");
  ExtractedDocument document = fakes::pdf_document({"Readable words.", ""}, "A  title\nin two lines");
  document.warnings = {"page 2 holds no text (scanned?)"};
  extractor.prepared.emplace("scan.pdf", document);
  ingest({file});
  const DocumentInfo info = library->documents()->front();
  EXPECT_EQ(info.state, DocumentState::kPartial);
  EXPECT_EQ(info.note, "page 2 holds no text (scanned?)");
  EXPECT_EQ(info.title, "A title in two lines");
  EXPECT_EQ(info.pages, 2);
  EXPECT_EQ(library->page(info.id, 1)->text, "");
}

TEST_F(IngestTest, PagesComeBackWithTheirWords) {
  const fs::path file = scratch.write("a.pdf", "%PDF");
  const ExtractedDocument document = fakes::pdf_document({"one two three four five six seven eight nine ten"});
  extractor.prepared.emplace("a.pdf", document);
  ingest({file});
  const ExtractedPage page = *library->page(library->documents()->front().id, 0);
  const ExtractedPage& expected = document.pages[0];
  EXPECT_EQ(page.text, expected.text);
  EXPECT_FLOAT_EQ(page.width_points, expected.width_points);
  ASSERT_EQ(page.words.size(), expected.words.size());
  for (std::size_t i = 0; i < page.words.size(); ++i) {
    EXPECT_EQ(page.words[i].begin, expected.words[i].begin);
    EXPECT_EQ(page.words[i].end, expected.words[i].end);
    EXPECT_NEAR(page.words[i].rect.left, expected.words[i].rect.left, 2e-5);
    EXPECT_NEAR(page.words[i].rect.bottom, expected.words[i].rect.bottom, 2e-5);
  }
  EXPECT_EQ(library->page(library->documents()->front().id, 1).error().code, ErrorCode::kNotFound);
}

TEST_F(IngestTest, HostileExtractionResultsAreContained) {
  ExtractedDocument words = fakes::pdf_document({"good words here"});
  words.pages[0].words.push_back({2, 4000, {0, 0, 1, 1}});
  words.pages[0].words.push_back({0, 3, {0, 0, 1, 1}});
  ExtractedDocument text = fakes::text_document("bad \xff utf-8");
  extractor.prepared.emplace("words.pdf", words);
  extractor.prepared.emplace("text.txt", text);
  scratch.write("d/words.pdf", "1");
  scratch.write("d/text.txt", "2");
  const IngestReport report = ingest({scratch / "d"});
  EXPECT_EQ(report.added, 1);
  EXPECT_EQ(report.failed, 1);
  EXPECT_EQ(library->page(search("good").front().document, 0)->words.size(), 3U);
}

TEST_F(IngestTest, EmbedsInBatchesAndResumesWhereItStopped) {
  for (int i = 0; i < 100; ++i)
    scratch.write("d/" + std::to_string(1000 + i) + ".txt", "text number " + std::to_string(i));
  HashingEmbedder embedder;
  std::stop_source source;
  embedder.on_embed = [&] {
    if (embedder.calls == 3) source.request_stop();
  };
  const IngestReport stopped = ingest({scratch / "d"}, &embedder, source.get_token());
  EXPECT_TRUE(stopped.cancelled);
  EXPECT_EQ(stopped.added, 100);
  EXPECT_EQ(stopped.embedded, 64);
  EXPECT_EQ(library->status()->embedded_chunks, 64);

  embedder.on_embed = nullptr;
  embedder.texts_embedded = 0;
  const IngestReport rest = ingest({}, &embedder);
  EXPECT_EQ(rest.embedded, 36);
  EXPECT_EQ(embedder.texts_embedded, 36);
  EXPECT_EQ(sink.last.chunks_embedded, sink.last.chunks_to_embed);
  const LibraryStatus status = *library->status();
  EXPECT_EQ(status.embedded_chunks, status.chunks);
  EXPECT_EQ(status.embedding_model, "hashing-v1");
}

TEST_F(IngestTest, FailingEmbedderLosesNothingAndIsReported) {
  for (int i = 0; i < 40; ++i) scratch.write("d/" + std::to_string(i) + ".txt", "text number " + std::to_string(i));
  HashingEmbedder embedder;
  embedder.fail_after_calls = 1;
  const IngestReport report = ingest({scratch / "d"}, &embedder);
  EXPECT_EQ(report.embedding_error, "the embedder broke");
  EXPECT_EQ(report.embedded, 32);
  EXPECT_EQ(report.added, 40);
  EXPECT_FALSE(search("number").empty());
}

TEST_F(IngestTest, ChangingTheModelReplacesAllVectors) {
  scratch.write("d/a.txt", "alpha beta");
  HashingEmbedder first(32, "first");
  HashingEmbedder second(48, "second");
  ingest({scratch / "d"}, &first);
  EXPECT_EQ(search("alpha", {}, &first).front().vector_rank, 1);
  EXPECT_EQ(search("alpha", {}, &second).front().vector_rank, 0) << "vectors of different models never mix";
  ingest({}, &second);
  EXPECT_EQ(search("alpha", {}, &second).front().vector_rank, 1);
  EXPECT_EQ(search("alpha", {}, &first).front().vector_rank, 0);
  EXPECT_EQ(library->status()->embedding_model, "second");
  HashingEmbedder liar(16, "second");
  EXPECT_EQ(library->ingest({}, extractor, &liar, sink, {}).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(IngestTest, CancelKeepsWhatWasCommitted) {
  for (int i = 0; i < 20; ++i) scratch.write("d/" + std::to_string(10 + i) + ".txt", "text " + std::to_string(i));
  std::stop_source source;
  extractor.on_extract = [&](const fs::path& file) {
    if (file.filename() == "15.txt") source.request_stop();
  };
  const IngestReport report = ingest({scratch / "d"}, nullptr, source.get_token());
  EXPECT_TRUE(report.cancelled);
  EXPECT_EQ(report.added, 5);
  EXPECT_EQ(report.failed, 0);
  reopen();
  EXPECT_EQ(library->status()->documents, 5);
  extractor.on_extract = nullptr;
  EXPECT_EQ(ingest({scratch / "d"}).added, 15);
}

// The promise: every long operation ends within 200 ms of being asked, wherever it is.
TEST_F(IngestTest, CancelInsideALargeTextEndsAtOnceAndStoresNothingOfIt) {
  std::string text;
  while (text.size() < 8'000'000) text += "Line " + std::to_string(text.size()) + " tells of the cold sea.\nAnd more. ";
  scratch.write("large.txt", text);
  for (const int milliseconds : {1, 60, 150, 400}) {
    std::stop_source source;
    std::chrono::steady_clock::time_point asked;
    std::jthread canceller;
    extractor.on_extract = [&](const fs::path&) {
      canceller = std::jthread([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
        asked = std::chrono::steady_clock::now();
        source.request_stop();
      });
    };
    const IngestReport report = ingest({scratch / "large.txt"}, nullptr, source.get_token());
    const auto ended = std::chrono::steady_clock::now();
    canceller.join();
    EXPECT_TRUE(report.cancelled);
    EXPECT_LT(ended - asked, test::kPromptly) << milliseconds << " ms after reading began";
    EXPECT_EQ(library->status()->documents, 0);
    EXPECT_TRUE(search("sea").empty());
  }
}

TEST_F(IngestTest, ProgressCountsAndEstimates) {
  for (int i = 0; i < 10; ++i) scratch.write("d/" + std::to_string(i) + ".txt", "text");
  bool estimated = false;
  sink.each_progress = [&](const IngestProgress& progress) {
    EXPECT_LE(progress.files_done, progress.files_total);
    estimated = estimated || progress.seconds_left >= 0;
  };
  ingest({scratch / "d"});
  EXPECT_TRUE(estimated);
  EXPECT_EQ(sink.last.files_done, 10);
  EXPECT_EQ(sink.last.files_total, 10);
  EXPECT_EQ(sink.last.pages_done, 10);
  EXPECT_NEAR(sink.last.seconds_left, 0, 1e-6);
}

TEST_F(IngestTest, SearchAndRemoveRunBesideIngest) {
  for (int i = 0; i < 200; ++i) {
    scratch.write("d/" + std::to_string(1000 + i) + ".txt", "common word and number " + std::to_string(i));
  }
  HashingEmbedder embedder;
  ingest({scratch / "d"}, &embedder);
  for (int i = 0; i < 200; ++i) scratch.write("d/" + std::to_string(1000 + i) + ".txt", "common word, now changed");
  scratch.write("other.txt", "to be removed");
  ingest({scratch / "other.txt"});
  const DocumentId other = search("removed").front().document;

  std::atomic<bool> done = false;
  std::vector<std::jthread> searchers;
  for (int thread = 0; thread < 2; ++thread) {
    searchers.emplace_back([&] {
      HashingEmbedder own;
      while (!done) {
        const auto hits = library->search("common word", {.limit = 500, .documents = {}}, &own, {});
        ASSERT_TRUE(hits) << hits.error().message;
        ASSERT_EQ(hits->size(), 200U);
      }
    });
  }
  std::jthread remover([&] { EXPECT_TRUE(library->remove(other)); });
  const IngestReport report = ingest({scratch / "d"}, &embedder);
  done = true;
  searchers.clear();
  EXPECT_EQ(report.updated, 200);
  remover.join();
  EXPECT_TRUE(search("removed").empty());
}

}  // namespace
}  // namespace lectern::retrieval
