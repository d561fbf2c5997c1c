// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "search/terms.h"
#include "store/migrations.h"
#include "store/packed.h"
#include "store/rows.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileName = "library.sqlite";
constexpr std::size_t kIdleReaders = 4;

ErrorCode error_code(const SqliteError& error) {
  switch (error.code()) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      return ErrorCode::kCorrupt;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_AUTH:
      return ErrorCode::kPermission;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return ErrorCode::kBusy;
    default:
      return ErrorCode::kStorage;
  }
}

Result<void> make_directory(const fs::path& directory) {
  std::error_code error;
  if (fs::is_directory(directory, error)) return {};
  if (directory.has_parent_path()) fs::create_directories(directory.parent_path(), error);
  if (::mkdir(directory.c_str(), 0700) == 0) return {};
  const ErrorCode code = errno == EACCES || errno == EROFS ? ErrorCode::kPermission : ErrorCode::kStorage;
  return Error{code,
               "The library directory " + directory.string() + " cannot be created: " + std::strerror(errno) + "."};
}

// SQLite gives its journal files the mode of the library file. Called before this process has any connection to it:
// closing a descriptor later would drop SQLite's locks.
Result<void> make_file(const fs::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) {
    const ErrorCode code = errno == EACCES || errno == EROFS ? ErrorCode::kPermission : ErrorCode::kStorage;
    return Error{code, "The library file " + file.string() + " cannot be opened: " + std::strerror(errno) + "."};
  }
  ::close(descriptor);
  return {};
}

std::uintmax_t size_of(const fs::path& file) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(file, error);
  return error ? 0 : size;
}

// Looks at a file without changing a byte of it.
Result<void> inspect(const fs::path& file) {
  if (size_of(file) == 0) return {};
  const Database database(file, Database::Role::kInspect);
  const std::int64_t application = database.integer("PRAGMA application_id");
  const std::int64_t version = database.integer("PRAGMA user_version");
  const bool empty = database.integer("SELECT count(*) FROM sqlite_schema") == 0;
  if (application != kApplicationId && !(empty && application == 0 && version == 0)) {
    return Error{ErrorCode::kCorrupt, "The file " + file.string() + " is not a Lectern library; it was left as it is."};
  }
  if (version > newest_schema() || version < 0) {
    return Error{ErrorCode::kNewerVersion, "The library " + file.parent_path().string() +
                                               " was written by a newer Lectern (format " + std::to_string(version) +
                                               "); update Lectern to open it. Nothing was changed."};
  }
  return {};
}

Error open_error(const fs::path& file, const SqliteError& error) {
  const ErrorCode code = error_code(error);
  const std::string name = "The library file " + file.string();
  if (code == ErrorCode::kCorrupt) {
    return {code, name + " is damaged (" + error.what() +
                      "); it was kept. Restore it from a backup, or move it away "
                      "and add the documents again."};
  }
  return {code, name + " cannot be opened: " + error.what() + "."};
}

// After a crash the last process left its journal behind; SQLite has just replayed it.
void check_after_crash(const Database& database) {
  Statement check = database.prepare("PRAGMA quick_check(1)");
  if (check.step() && check.text(0) != "ok") throw SqliteError(SQLITE_CORRUPT, std::string(check.text(0)));
}

void remove_temporary_files(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("vectors.faiss.")) fs::remove(entry.path(), error);
  }
}

void throw_if_stopped(const std::stop_token& stop) {
  if (stop.stop_requested()) throw StoreFailure({ErrorCode::kCancelled, "Adding the document was cancelled."});
}

void insert_pages(const Database& database, DocumentId document, const std::vector<ExtractedPage>& pages,
                  const std::stop_token& stop) {
  Statement insert = database.prepare(
      "INSERT INTO pages(document_id, page, text, width, height, words, hash) VALUES (?, ?, ?, ?, ?, ?, ?)");
  for (std::size_t i = 0; i < pages.size(); ++i) {
    throw_if_stopped(stop);
    const ExtractedPage& page = pages[i];
    const Packed words = pack_words(page.words);
    const ContentHash hash = page_hash(page.text, words);
    insert.bind(1, document).bind(2, static_cast<std::int64_t>(i)).bind(3, std::string_view(page.text));
    insert.bind(4, static_cast<double>(page.width_points)).bind(5, static_cast<double>(page.height_points));
    insert.bind(6, Bytes(words)).bind(7, Bytes(hash)).run();
  }
}

void insert_chunks(const Database& database, DocumentId document, const std::vector<Chunk>& chunks,
                   const std::stop_token& stop) {
  Statement insert = database.prepare(
      "INSERT INTO chunks(document_id, text, heading, terms, runs, first_line, last_line, hash) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
  Statement index = database.prepare("INSERT INTO chunks_fts(rowid, text, heading, terms) VALUES (?, ?, ?, ?)");
  for (const Chunk& chunk : chunks) {
    throw_if_stopped(stop);
    const Packed runs = pack_runs(chunk.runs);
    const ContentHash hash = chunk_hash(chunk.text, runs);
    const std::string terms = index_terms(chunk.text);
    insert.bind(1, document).bind(2, std::string_view(chunk.text)).bind(3, std::string_view(chunk.heading));
    insert.bind(4, std::string_view(terms)).bind(5, Bytes(runs));
    insert.bind(6, static_cast<std::int64_t>(chunk.first_line)).bind(7, static_cast<std::int64_t>(chunk.last_line));
    insert.bind(8, Bytes(hash)).run();
    index.bind(1, database.last_row_id()).bind(2, std::string_view(chunk.text));
    index.bind(3, std::string_view(chunk.heading)).bind(4, std::string_view(terms)).run();
  }
}

// Chunk by chunk, because a document has up to a million of them and a single statement cannot be stopped.
std::vector<ChunkId> remove_content(const Database& database, DocumentId document, const std::stop_token& stop) {
  std::vector<ChunkId> removed;
  Statement ids = database.prepare("SELECT id FROM chunks WHERE document_id = ? ORDER BY id");
  ids.bind(1, document);
  while (ids.step()) removed.push_back(ids.integer(0));
  Statement unindex = database.prepare(
      "INSERT INTO chunks_fts(chunks_fts, rowid, text, heading, terms) "
      "SELECT 'delete', id, text, heading, terms FROM chunks WHERE id = ?");
  Statement remove = database.prepare("DELETE FROM chunks WHERE id = ?");
  for (const ChunkId chunk : removed) {
    throw_if_stopped(stop);
    unindex.bind(1, chunk).run();
    remove.bind(1, chunk).run();
  }
  database.prepare("DELETE FROM pages WHERE document_id = ?").bind(1, document).run();
  return removed;
}

std::optional<DocumentId> find_id(const Database& database, const fs::path& path) {
  Statement find = database.prepare("SELECT id FROM documents WHERE path = ?");
  find.bind(1, path_bytes(path));
  if (!find.step()) return std::nullopt;
  return find.integer(0);
}

DocumentId put_row(const Database& database, const DocumentRecord& record, std::size_t pages, std::size_t chunks) {
  Statement put = database.prepare(
      "INSERT INTO documents(path, title, kind, language, state, note, content_hash, pipeline, bytes, modified_ns, "
      "changed_ns, inode, checked_ns, page_count, chunk_count) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
      "ON CONFLICT(path) DO UPDATE SET title = excluded.title, kind = excluded.kind, language = excluded.language, "
      "state = excluded.state, note = excluded.note, content_hash = excluded.content_hash, "
      "pipeline = excluded.pipeline, bytes = excluded.bytes, modified_ns = excluded.modified_ns, "
      "changed_ns = excluded.changed_ns, inode = excluded.inode, checked_ns = excluded.checked_ns, "
      "page_count = excluded.page_count, chunk_count = excluded.chunk_count RETURNING id");
  put.bind(1, path_bytes(record.path)).bind(2, std::string_view(record.title));
  put.bind(3, static_cast<std::int64_t>(record.kind)).bind(4, std::string_view(record.language));
  put.bind(5, static_cast<std::int64_t>(record.state)).bind(6, std::string_view(record.note));
  put.bind(7, record.content ? Bytes(*record.content) : Bytes()).bind(8, std::int64_t{record.pipeline});
  put.bind(9, record.file.bytes).bind(10, record.file.modified_ns).bind(11, record.file.changed_ns);
  put.bind(12, record.file.inode).bind(13, record.checked_ns);
  put.bind(14, static_cast<std::int64_t>(pages)).bind(15, static_cast<std::int64_t>(chunks));
  put.step();
  const DocumentId id = put.integer(0);
  put.run();
  return id;
}

}  // namespace

Result<std::unique_ptr<Store>> Store::open(const fs::path& path) {
  const fs::path directory = path.has_filename() ? path : path.parent_path();  // "library/" is "library"
  const fs::path file = directory / kFileName;
  RETRIEVAL_CHECK(make_directory(directory));
  RETRIEVAL_TRY(FileLock lock, FileLock::acquire(directory / "library.lock"));
  RETRIEVAL_CHECK(make_file(file));
  try {
    RETRIEVAL_CHECK(inspect(file));
    const bool crashed = size_of(file.string() + "-wal") > 0;
    auto writer = std::make_unique<Database>(file, Database::Role::kWriter);
    if (crashed) check_after_crash(*writer);
    migrate(*writer, schema_ladder());
    remove_temporary_files(directory);
    return std::unique_ptr<Store>(new Store(directory, std::move(lock), std::move(writer)));
  } catch (const SqliteError& error) {
    return open_error(file, error);
  }
}

std::unique_ptr<Database> Store::take_reader() const {
  {
    const std::lock_guard lock(state_mutex_);
    if (!readers_.empty()) {
      auto reader = std::move(readers_.back());
      readers_.pop_back();
      return reader;
    }
  }
  return std::make_unique<Database>(directory_ / kFileName, Database::Role::kReader);
}

void Store::give_reader(std::unique_ptr<Database> reader) const {
  const std::lock_guard lock(state_mutex_);
  if (readers_.size() < kIdleReaders) readers_.push_back(std::move(reader));
}

std::string Store::read_only_reason() const {
  const std::lock_guard lock(state_mutex_);
  return read_only_reason_;
}

Error Store::write_error(const SqliteError& error) {
  std::string message = "The library " + directory_.string() + " cannot be written: " + error.what() + ".";
  if (!error.ends_writing()) return {error_code(error), std::move(message)};
  message +=
      error.code() == SQLITE_FULL ? " Free some disk space and open it again;" : " Check the disk and open it again;";
  message += " until then it can be searched but not changed.";
  turn_read_only(message);
  return {ErrorCode::kStorage, std::move(message)};
}

Error Store::read_error(const SqliteError& error) const {
  std::string message = "The library " + directory_.string() + " cannot be read: " + error.what() + ".";
  if (error_code(error) == ErrorCode::kCorrupt) {
    message +=
        " It is damaged and will not be changed any more; restore it from a backup, or add its documents to a "
        "new one.";
    turn_read_only(message);
  }
  return {error_code(error), std::move(message)};
}

void Store::turn_read_only(const std::string& reason) const {
  const std::lock_guard lock(state_mutex_);
  if (read_only_reason_.empty()) read_only_reason_ = reason;
}

Result<PutOutcome> Store::put(const DocumentRecord& record, const std::vector<ExtractedPage>& pages,
                              const std::vector<Chunk>& chunks, std::stop_token stop) {
  return write([&](const Database& database) {
    PutOutcome outcome;
    if (const auto existing = find_id(database, record.path)) {
      outcome.removed_chunks = remove_content(database, *existing, stop);
    }
    outcome.document = put_row(database, record, pages.size(), chunks.size());
    insert_pages(database, outcome.document, pages, stop);
    insert_chunks(database, outcome.document, chunks, stop);
    return outcome;
  });
}

Result<DocumentId> Store::put_failure(const DocumentRecord& record) {
  return write([&](const Database& database) {
    const auto existing = find_id(database, record.path);
    if (!existing || read_document(database, *existing)->pages == 0) return put_row(database, record, 0, 0);
    Statement update = database.prepare(
        "UPDATE documents SET state = ?, note = ?, content_hash = ?, pipeline = ?, bytes = ?, modified_ns = ?, "
        "changed_ns = ?, inode = ?, checked_ns = ? WHERE id = ?");
    const std::string note =
        "The file has changed and its new version could not be read, so the earlier text is "
        "kept: " +
        record.note;
    update.bind(1, static_cast<std::int64_t>(DocumentState::kPartial)).bind(2, std::string_view(note));
    update.bind(3, record.content ? Bytes(*record.content) : Bytes()).bind(4, std::int64_t{record.pipeline});
    update.bind(5, record.file.bytes).bind(6, record.file.modified_ns).bind(7, record.file.changed_ns);
    update.bind(8, record.file.inode).bind(9, record.checked_ns).bind(10, *existing).run();
    return *existing;
  });
}

Result<void> Store::put_file_state(DocumentId document, const FileState& file, std::int64_t checked_ns) {
  const auto written = write([&](const Database& database) {
    Statement update = database.prepare(
        "UPDATE documents SET bytes = ?, modified_ns = ?, changed_ns = ?, inode = ?, checked_ns = ? WHERE id = ?");
    update.bind(1, file.bytes).bind(2, file.modified_ns).bind(3, file.changed_ns).bind(4, file.inode);
    update.bind(5, checked_ns).bind(6, document).run();
    return true;
  });
  if (!written) return written.error();
  return {};
}

Result<std::vector<ChunkId>> Store::remove(DocumentId document) {
  return write([&](const Database& database) {
    require_document(database, document);
    std::vector<ChunkId> removed = remove_content(database, document, {});
    database.prepare("DELETE FROM documents WHERE id = ?").bind(1, document).run();
    return removed;
  });
}

}  // namespace lectern::retrieval
