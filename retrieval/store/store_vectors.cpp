// SPDX-License-Identifier: GPL-3.0-or-later
// Embeddings in the store: float32, little-endian, one row per chunk and model.
#include <algorithm>
#include <cstring>
#include <string>

#include "store/rows.h"
#include "store/store.h"

namespace lectern::retrieval {
namespace {

std::optional<EmbeddingModel> find_model(const Database& database, const std::string& name) {
  Statement row = database.prepare(
      "SELECT id, name, dimension FROM embedding_models WHERE name = "
      "CASE ?1 WHEN '' THEN (SELECT value FROM meta WHERE key = 'embedding_model') ELSE ?1 END");
  row.bind(1, std::string_view(name));
  if (!row.step()) return std::nullopt;
  return EmbeddingModel{row.integer(0), std::string(row.text(1)), static_cast<int>(row.integer(2))};
}

StoreVersion read_version(const Database& database) {
  StoreVersion version;
  Statement id = database.prepare("SELECT value FROM meta WHERE key = 'library_id'");
  if (id.step()) version.library = hash_of(id.text(0));
  version.generation = database.integer("SELECT value FROM meta WHERE key = 'generation'");
  return version;
}

}  // namespace

Result<EmbeddingModel> Store::use_model(const std::string& name, int dimension) {
  const auto existing = model(name);
  if (!existing) return existing.error();
  if (*existing && (*existing)->dimension != dimension) {
    return Error{ErrorCode::kInvalidArgument, "The embedding model " + name + " gives vectors of length " +
                                                  std::to_string(dimension) +
                                                  ", but the library holds vectors of length " +
                                                  std::to_string((*existing)->dimension) + " of that name."};
  }
  const auto current = model("");
  if (current && *current && (*current)->name == name) return **current;
  return write([&](const Database& database) {
    Statement insert =
        database.prepare("INSERT INTO embedding_models(name, dimension) VALUES (?, ?) ON CONFLICT(name) DO NOTHING");
    insert.bind(1, std::string_view(name)).bind(2, std::int64_t{dimension}).run();
    Statement choose = database.prepare("UPDATE meta SET value = ? WHERE key = 'embedding_model'");
    choose.bind(1, std::string_view(name)).run();
    return *find_model(database, name);
  });
}

Result<std::vector<ChunkId>> Store::put_vectors(const EmbeddingModel& model, std::span<const ChunkId> chunks,
                                                std::span<const std::vector<float>> vectors) {
  return write([&](const Database& database) {
    std::vector<ChunkId> written;
    Statement insert = database.prepare(
        "INSERT OR IGNORE INTO embeddings(chunk_id, model_id, vector) SELECT id, ?2, ?3 FROM chunks WHERE id = ?1");
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const auto* data = reinterpret_cast<const std::uint8_t*>(vectors[i].data());
      insert.bind(1, chunks[i]).bind(2, model.id).bind(3, Bytes(data, vectors[i].size() * sizeof(float))).run();
      if (database.rows_changed() == 1) written.push_back(chunks[i]);
    }
    return written;
  });
}

Result<void> Store::drop_other_models(const EmbeddingModel& model) {
  const auto others = read([&](const Database& database) {
    Statement count = database.prepare("SELECT count(*) FROM embedding_models WHERE id <> ?");
    count.bind(1, model.id).step();
    return count.integer(0);
  });
  if (!others) return others.error();
  if (*others == 0) return {};
  const auto dropped = write([&](const Database& database) {
    database.prepare("DELETE FROM embeddings WHERE model_id <> ?").bind(1, model.id).run();
    database.prepare("DELETE FROM embedding_models WHERE id <> ?").bind(1, model.id).run();
    return true;
  });
  if (!dropped) return dropped.error();
  return {};
}

Result<StoreVersion> Store::version() const { return read(read_version); }

Result<std::optional<EmbeddingModel>> Store::model(const std::string& name) const {
  return read([&](const Database& database) { return find_model(database, name); });
}

Result<std::vector<PendingChunk>> Store::chunks_without_vector(const EmbeddingModel& model, ChunkId after,
                                                               int limit) const {
  return read([&](const Database& database) {
    std::vector<PendingChunk> pending;
    Statement rows = database.prepare(
        "SELECT c.id, c.heading, c.text FROM chunks c WHERE c.id > ?2 AND NOT EXISTS "
        "(SELECT 1 FROM embeddings e WHERE e.chunk_id = c.id AND e.model_id = ?1) ORDER BY c.id LIMIT ?3");
    rows.bind(1, model.id).bind(2, after).bind(3, std::int64_t{limit});
    while (rows.step()) {
      std::string text(rows.text(1));
      if (!text.empty()) text += '\n';
      text += rows.text(2);
      pending.push_back({rows.integer(0), std::move(text)});
    }
    return pending;
  });
}

Result<std::int64_t> Store::count_without_vector(const EmbeddingModel& model) const {
  return read([&](const Database& database) {
    Statement count =
        database.prepare("SELECT (SELECT count(*) FROM chunks) - (SELECT count(*) FROM embeddings WHERE model_id = ?)");
    count.bind(1, model.id).step();
    return count.integer(0);
  });
}

Result<std::vector<ChunkId>> Store::vector_ids(const EmbeddingModel& model) const {
  return read([&](const Database& database) {
    std::vector<ChunkId> ids;
    Statement rows = database.prepare("SELECT chunk_id FROM embeddings WHERE model_id = ? ORDER BY chunk_id");
    rows.bind(1, model.id);
    while (rows.step()) ids.push_back(rows.integer(0));
    return ids;
  });
}

Result<StoreVersion> Store::each_vector(const EmbeddingModel& model,
                                        const std::function<void(ChunkId, std::span<const float>)>& take) const {
  return read([&](const Database& database) {
    const StoreVersion version = read_version(database);
    std::vector<float> vector(static_cast<std::size_t>(model.dimension));
    Statement rows = database.prepare("SELECT chunk_id, vector FROM embeddings WHERE model_id = ? ORDER BY chunk_id");
    rows.bind(1, model.id);
    while (rows.step()) {
      const Bytes bytes = rows.bytes(1);
      if (bytes.size() != vector.size() * sizeof(float)) {
        throw StoreFailure({ErrorCode::kCorrupt, "An embedding in the library " + directory_.string() +
                                                     " has the wrong length; search works on words alone."});
      }
      std::memcpy(vector.data(), bytes.data(), bytes.size());
      take(rows.integer(0), vector);
    }
    return version;
  });
}

}  // namespace lectern::retrieval
