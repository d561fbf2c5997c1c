// SPDX-License-Identifier: GPL-3.0-or-later
// The library file. One connection writes and checkpoints; readers are query-only connections of this process. The
// format and its reasons are in retrieval/README.md.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "retrieval/library.h"
#include "retrieval/result.h"
#include "retrieval/types.h"
#include "store/content_hash.h"
#include "store/database.h"
#include "store/file_lock.h"

namespace lectern::retrieval {

// Carries an Error out of a read or write function through its transaction, which rolls back.
struct StoreFailure : std::exception {
  explicit StoreFailure(Error failure) : error(std::move(failure)) {}
  const char* what() const noexcept override { return error.message.c_str(); }
  Error error;
};

// What the file system says of a file; equal values mean that its content need not be read again.
struct FileState {
  std::int64_t bytes = 0;
  std::int64_t modified_ns = 0;
  std::int64_t changed_ns = 0;
  std::int64_t inode = 0;
  bool operator==(const FileState&) const = default;
};

struct DocumentRecord {
  std::filesystem::path path;  // absolute
  std::string title;
  DocumentKind kind = DocumentKind::kText;
  std::string language;
  DocumentState state = DocumentState::kReady;
  std::string note;
  std::optional<ContentHash> content;  // nothing when the file could not be read
  int pipeline = 0;                    // version of extraction and chunking
  FileState file;
  std::int64_t checked_ns = 0;  // when `file` was taken, before reading; wall clock
};

struct StoredDocument {
  DocumentRecord record;
  DocumentId id = 0;
  std::int64_t pages = 0;
  std::int64_t chunks = 0;
};

struct PutOutcome {
  DocumentId document = 0;
  std::vector<ChunkId> removed_chunks;
};

struct StoredChunk {
  Chunk chunk;
  DocumentId document = 0;
  std::string title;
  std::filesystem::path path;
  DocumentKind kind = DocumentKind::kText;
};

struct EmbeddingModel {
  std::int64_t id = 0;
  std::string name;
  int dimension = 0;
};

struct PendingChunk {
  ChunkId id = 0;
  std::string text;  // what the embedder reads: heading and text
};

// Identifies one content of one library, for derived files.
struct StoreVersion {
  ContentHash library{};
  std::int64_t generation = 0;
};

class Store {
 public:
  static Result<std::unique_ptr<Store>> open(const std::filesystem::path& path);  // of the directory

  // Writing calls wait for each other. Each is one transaction; an error leaves the library as it was.

  // Adds the document, or replaces the content of the one with the same path, whose id stays. Stopping: kCancelled.
  Result<PutOutcome> put(const DocumentRecord& record, const std::vector<ExtractedPage>& pages,
                         const std::vector<Chunk>& chunks, std::stop_token stop);
  // Records that a file could not be read. Earlier content of the same path is kept and marked as partial.
  Result<DocumentId> put_failure(const DocumentRecord& record);
  Result<void> put_file_state(DocumentId document, const FileState& file, std::int64_t checked_ns);
  Result<std::vector<ChunkId>> remove(DocumentId document);

  // Makes `name` the library's model; its vectors may still be missing.
  Result<EmbeddingModel> use_model(const std::string& name, int dimension);
  // Vectors of chunks that were removed meanwhile are left out; returns the ids of those written.
  Result<std::vector<ChunkId>> put_vectors(const EmbeddingModel& model, std::span<const ChunkId> chunks,
                                           std::span<const std::vector<float>> vectors);
  Result<void> drop_other_models(const EmbeddingModel& model);

  // Reading calls see one committed state each and run beside writing.

  Result<std::vector<StoredDocument>> documents() const;
  Result<StoredDocument> document(DocumentId document) const;
  Result<std::optional<StoredDocument>> find(const std::filesystem::path& path) const;
  Result<ExtractedPage> page(DocumentId document, std::uint32_t page) const;
  // In the order asked for; chunks that are gone are left out. A damaged one is kCorrupt.
  Result<std::vector<std::pair<ChunkId, StoredChunk>>> chunks(std::span<const ChunkId> ids) const;
  Result<std::vector<ChunkId>> chunk_ids(std::span<const DocumentId> documents) const;
  Result<LibraryStatus> status() const;
  Result<StoreVersion> version() const;

  Result<std::optional<EmbeddingModel>> model(const std::string& name) const;  // "": the one in use
  // Chunks with an id above `after` that have no vector, in id order.
  Result<std::vector<PendingChunk>> chunks_without_vector(const EmbeddingModel& model, ChunkId after, int limit) const;
  Result<std::int64_t> count_without_vector(const EmbeddingModel& model) const;
  Result<std::vector<ChunkId>> vector_ids(const EmbeddingModel& model) const;  // ascending
  // Calls `take` once per vector, in ascending chunk order, and returns the version they belong to.
  Result<StoreVersion> each_vector(const EmbeddingModel& model,
                                   const std::function<void(ChunkId, std::span<const float>)>& take) const;

  // Runs `function(const Database&)` inside one read transaction on a connection of its own.
  template <class Function>
  auto read(Function function) const -> Result<std::invoke_result_t<Function, const Database&>>;

  const std::filesystem::path& directory() const { return directory_; }
  std::string read_only_reason() const;

 private:
  Store(std::filesystem::path directory, FileLock lock, std::unique_ptr<Database> writer)
      : directory_(std::move(directory)), lock_(std::move(lock)), writer_(std::move(writer)) {}

  template <class Function>
  auto write(Function function) -> Result<std::invoke_result_t<Function, const Database&>>;

  Error write_error(const SqliteError& error);
  Error read_error(const SqliteError& error) const;
  void turn_read_only(const std::string& reason) const;
  std::unique_ptr<Database> take_reader() const;
  void give_reader(std::unique_ptr<Database> reader) const;

  const std::filesystem::path directory_;
  const FileLock lock_;  // given back last

  mutable std::mutex write_mutex_;
  std::unique_ptr<Database> writer_;  // under write_mutex_; destroyed after the readers: the last to close checkpoints

  mutable std::mutex state_mutex_;
  mutable std::string read_only_reason_;                    // under state_mutex_
  mutable std::vector<std::unique_ptr<Database>> readers_;  // idle ones, under state_mutex_
};

template <class Function>
auto Store::read(Function function) const -> Result<std::invoke_result_t<Function, const Database&>> {
  try {
    auto reader = take_reader();
    Transaction transaction(*reader, Transaction::Kind::kRead);
    auto value = function(std::as_const(*reader));
    transaction.commit();
    give_reader(std::move(reader));
    return value;
  } catch (const StoreFailure& failure) {
    return failure.error;
  } catch (const SqliteError& error) {
    return read_error(error);
  } catch (const std::exception& error) {
    return Error{ErrorCode::kStorage, "The library " + directory_.string() + " cannot be read: " + error.what()};
  }
}

template <class Function>
auto Store::write(Function function) -> Result<std::invoke_result_t<Function, const Database&>> {
  const std::lock_guard lock(write_mutex_);
  if (std::string reason = read_only_reason(); !reason.empty()) return Error{ErrorCode::kStorage, std::move(reason)};
  try {
    Transaction transaction(*writer_, Transaction::Kind::kWrite);
    auto value = function(std::as_const(*writer_));
    writer_->run("UPDATE meta SET value = value + 1 WHERE key = 'generation'");
    transaction.commit();
    return value;
  } catch (const StoreFailure& failure) {
    return failure.error;
  } catch (const SqliteError& error) {
    return write_error(error);
  } catch (const std::exception& error) {
    return Error{ErrorCode::kStorage, "The library " + directory_.string() + " cannot be written: " + error.what()};
  }
}

}  // namespace lectern::retrieval
