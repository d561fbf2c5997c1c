// SPDX-License-Identifier: GPL-3.0-or-later
// What Store reads: documents, pages, chunks, counts.
#include <algorithm>
#include <string>

#include "store/migrations.h"
#include "store/packed.h"
#include "store/rows.h"
#include "store/store.h"

namespace lectern::retrieval {
namespace {

[[noreturn]] void throw_damaged(const std::string& what) {
  throw StoreFailure({ErrorCode::kCorrupt, what + " is damaged in the library; remove the document and add it again."});
}

void check_hash(Bytes stored, const ContentHash& actual, const std::string& what) {
  if (!std::equal(stored.begin(), stored.end(), actual.begin(), actual.end())) throw_damaged(what);
}

Packed packed_of(Bytes bytes) { return {bytes.begin(), bytes.end()}; }

StoredChunk chunk_of(const Statement& row) {
  StoredChunk stored;
  stored.document = row.integer(6);
  stored.title = row.text(7);
  stored.path = std::string(row.text(8));
  stored.kind = static_cast<DocumentKind>(std::clamp<std::int64_t>(row.integer(9), 0, 3));
  Chunk& chunk = stored.chunk;
  chunk.text = row.text(0);
  chunk.heading = row.text(1);
  const Packed packed = packed_of(row.bytes(2));
  const std::string what = "A passage of " + stored.path.string();
  check_hash(row.bytes(5), chunk_hash(chunk.text, packed), what);
  auto runs = unpack_runs(packed, chunk.text.size());
  if (!runs) throw_damaged(what);
  chunk.runs = *std::move(runs);
  chunk.first_line = static_cast<std::uint32_t>(row.integer(3));
  chunk.last_line = static_cast<std::uint32_t>(row.integer(4));
  return stored;
}

}  // namespace

Result<std::vector<StoredDocument>> Store::documents() const {
  return read([](const Database& database) {
    std::vector<StoredDocument> all;
    Statement rows = database.prepare("SELECT " + std::string(kDocumentColumns) + " FROM documents ORDER BY id");
    while (rows.step()) all.push_back(document_of(rows));
    return all;
  });
}

Result<StoredDocument> Store::document(DocumentId document) const {
  return read([&](const Database& database) { return require_document(database, document); });
}

Result<std::optional<StoredDocument>> Store::find(const std::filesystem::path& path) const {
  return read([&](const Database& database) -> std::optional<StoredDocument> {
    Statement row = database.prepare("SELECT " + std::string(kDocumentColumns) + " FROM documents WHERE path = ?");
    row.bind(1, path_bytes(path));
    if (!row.step()) return std::nullopt;
    return document_of(row);
  });
}

Result<ExtractedPage> Store::page(DocumentId document, std::uint32_t page) const {
  return read([&](const Database& database) {
    const StoredDocument owner = require_document(database, document);
    Statement row =
        database.prepare("SELECT text, width, height, words, hash FROM pages WHERE document_id = ? AND page = ?");
    row.bind(1, document).bind(2, std::int64_t{page});
    const std::string what = "Page " + std::to_string(std::int64_t{page} + 1) + " of " + owner.record.path.string();
    if (!row.step()) throw StoreFailure({ErrorCode::kNotFound, what + " is not in this library."});
    ExtractedPage result;
    result.text = row.text(0);
    result.width_points = static_cast<float>(row.real(1));
    result.height_points = static_cast<float>(row.real(2));
    const Packed packed = packed_of(row.bytes(3));
    check_hash(row.bytes(4), page_hash(result.text, packed), what);
    auto words = unpack_words(packed, result.text.size());
    if (!words) throw_damaged(what);
    result.words = *std::move(words);
    return result;
  });
}

std::vector<std::pair<ChunkId, StoredChunk>> read_chunks(const Database& database, std::span<const ChunkId> ids) {
  std::vector<std::pair<ChunkId, StoredChunk>> found;
  found.reserve(ids.size());
  Statement row = database.prepare(
      "SELECT c.text, c.heading, c.runs, c.first_line, c.last_line, c.hash, d.id, d.title, d.path, d.kind "
      "FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ?");
  for (const ChunkId id : ids) {
    row.bind(1, id);
    if (row.step()) found.emplace_back(id, chunk_of(row));
    row.run();
  }
  return found;
}

Result<std::vector<std::pair<ChunkId, StoredChunk>>> Store::chunks(std::span<const ChunkId> ids) const {
  return read([&](const Database& database) { return read_chunks(database, ids); });
}

Result<std::vector<ChunkId>> Store::chunk_ids(std::span<const DocumentId> documents) const {
  return read([&](const Database& database) {
    std::vector<ChunkId> ids;
    Statement rows = database.prepare("SELECT id FROM chunks WHERE document_id = ?");
    for (const DocumentId document : documents) {
      rows.bind(1, document);
      while (rows.step()) ids.push_back(rows.integer(0));
      rows.run();
    }
    std::sort(ids.begin(), ids.end());
    return ids;
  });
}

Result<LibraryStatus> Store::status() const {
  auto status = read([](const Database& database) {
    LibraryStatus counts;
    counts.documents = database.integer("SELECT count(*) FROM documents");
    counts.chunks = database.integer("SELECT count(*) FROM chunks");
    counts.embedded_chunks = database.integer(
        "SELECT count(*) FROM embeddings WHERE model_id = (SELECT id FROM embedding_models WHERE name = "
        "(SELECT value FROM meta WHERE key = 'embedding_model'))");
    Statement model = database.prepare("SELECT value FROM meta WHERE key = 'embedding_model'");
    if (model.step()) counts.embedding_model = model.text(0);
    counts.schema_version = static_cast<int>(database.integer("PRAGMA user_version"));
    return counts;
  });
  if (status) status->read_only_reason = read_only_reason();
  return status;
}

}  // namespace lectern::retrieval
