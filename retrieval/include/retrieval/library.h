// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "retrieval/ports.h"
#include "retrieval/result.h"
#include "retrieval/types.h"

namespace lectern::retrieval {

enum class IngestOutcome { kAdded, kUpdated, kUnchanged, kSkipped, kFailed };

struct IngestProgress {
  std::filesystem::path file;  // being read now
  std::int64_t files_done = 0;
  std::int64_t files_total = 0;  // found so far
  std::int64_t pages_done = 0;
  double seconds = 0;
  double seconds_left = -1;          // negative: not known yet
  std::int64_t chunks_embedded = 0;  // by this call, after the last file was read
  std::int64_t chunks_to_embed = 0;
};

struct IngestItem {
  std::filesystem::path file;
  IngestOutcome outcome = IngestOutcome::kAdded;
  std::string message;  // reason when skipped or failed, warnings otherwise
  DocumentId document = 0;
  std::int64_t pages = 0;
  std::int64_t chunks = 0;
};

// Called on the ingesting thread.
class IngestSink {
 public:
  virtual ~IngestSink() = default;
  virtual void on_progress(const IngestProgress& /*progress*/) {}
  virtual void on_item(const IngestItem& /*item*/) {}
};

struct IngestReport {
  std::int64_t added = 0, updated = 0, unchanged = 0, skipped = 0, failed = 0;
  std::int64_t pages = 0, chunks = 0, embedded = 0;
  double seconds = 0;
  bool cancelled = false;
  std::string embedding_error;  // not empty: the embedder failed; what it left undone is taken up by the next call
};

struct LibraryStatus {
  std::int64_t documents = 0, chunks = 0, embedded_chunks = 0;
  std::string embedding_model;  // empty: search works on words alone
  int schema_version = 0;
  std::string read_only_reason;  // empty: writable
};

// A collection of documents in one SQLite file, `directory`/library.sqlite, with derived index files beside it.
// One process writes: a lock file is held while the library is open. All methods may be called from any thread;
// writing calls wait for each other, searches run beside them.
class Library {
 public:
  // Creates the directory and the file when missing. Errors: kNewerVersion (file untouched), kCorrupt (file kept),
  // kBusy (another process owns it), kPermission, kStorage.
  static Result<std::unique_ptr<Library>> open(const std::filesystem::path& directory);

  virtual ~Library() = default;

  // Walks files and directories, reads what is new or changed, and commits each document in one transaction; then
  // embeds chunks that have no vector when `embedder` is given. Cancelling keeps what was committed. One bad file is
  // one kFailed item and no loss elsewhere. Error only when the library itself fails.
  virtual Result<IngestReport> ingest(std::span<const std::filesystem::path> paths, Extractor& extractor,
                                      Embedder* embedder, IngestSink& sink, std::stop_token stop) = 0;

  virtual Result<void> remove(DocumentId document) = 0;

  virtual Result<std::vector<DocumentInfo>> documents() const = 0;
  virtual Result<DocumentInfo> document(DocumentId document) const = 0;
  virtual Result<ExtractedPage> page(DocumentId document, std::uint32_t page_index) const = 0;
  virtual Result<Chunk> chunk(ChunkId chunk) const = 0;
  virtual Result<LibraryStatus> status() const = 0;

  // BM25 and vectors fused by reciprocal rank (Cormack et al. 2009, k = 60). Without `embedder`, or before its
  // vectors exist, words alone. Any user text is a valid query.
  virtual Result<std::vector<SearchHit>> search(const std::string& query, const SearchOptions& options,
                                                Embedder* embedder, std::stop_token stop) const = 0;
};

}  // namespace lectern::retrieval
