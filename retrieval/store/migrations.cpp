// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/migrations.h"

#include <array>
#include <string>

namespace lectern::retrieval {
namespace {

// Identifiers in `terms` are taken apart (search/terms.h). chunks_fts indexes three columns of chunks and is kept in
// step by the code that inserts and deletes them: SQLite 3.40 refuses FTS5 in triggers when the schema is not trusted.
// A chunk is never updated in place, and never deleted by a cascade.
constexpr const char* kVersion1 = R"sql(
CREATE TABLE meta(
  key TEXT PRIMARY KEY,
  value ANY
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('library_id', randomblob(16)), ('generation', 0), ('embedding_model', '');

CREATE TABLE documents(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  path BLOB NOT NULL UNIQUE,
  title TEXT NOT NULL,
  kind INTEGER NOT NULL,
  language TEXT NOT NULL,
  state INTEGER NOT NULL,
  note TEXT NOT NULL,
  content_hash BLOB NOT NULL,
  pipeline INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  modified_ns INTEGER NOT NULL,
  changed_ns INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  checked_ns INTEGER NOT NULL,
  page_count INTEGER NOT NULL,
  chunk_count INTEGER NOT NULL
) STRICT;

CREATE TABLE pages(
  document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  page INTEGER NOT NULL,
  text TEXT NOT NULL,
  width REAL NOT NULL,
  height REAL NOT NULL,
  words BLOB NOT NULL,
  hash BLOB NOT NULL,
  PRIMARY KEY(document_id, page)
) STRICT;

CREATE TABLE chunks(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  document_id INTEGER NOT NULL REFERENCES documents(id),
  text TEXT NOT NULL,
  heading TEXT NOT NULL,
  terms TEXT NOT NULL,
  runs BLOB NOT NULL,
  first_line INTEGER NOT NULL,
  last_line INTEGER NOT NULL,
  hash BLOB NOT NULL
) STRICT;
CREATE INDEX chunks_by_document ON chunks(document_id);

CREATE VIRTUAL TABLE chunks_fts USING fts5(
  text, heading, terms,
  content='chunks', content_rowid='id',
  tokenize='porter unicode61 remove_diacritics 2'
);

CREATE TABLE embedding_models(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  dimension INTEGER NOT NULL
) STRICT;

CREATE TABLE embeddings(
  chunk_id INTEGER NOT NULL REFERENCES chunks(id) ON DELETE CASCADE,
  model_id INTEGER NOT NULL REFERENCES embedding_models(id) ON DELETE CASCADE,
  vector BLOB NOT NULL,
  PRIMARY KEY(chunk_id, model_id)
) STRICT;
CREATE UNIQUE INDEX embeddings_by_model ON embeddings(model_id, chunk_id);

PRAGMA application_id = 1279607636;
)sql";
static_assert(kApplicationId == 1279607636);

constexpr std::array<const char*, 1> kLadder = {kVersion1};

}  // namespace

std::span<const char* const> schema_ladder() { return kLadder; }

void migrate(const Database& database, std::span<const char* const> ladder) {
  for (auto version = static_cast<std::size_t>(database.integer("PRAGMA user_version")); version < ladder.size();
       ++version) {
    Transaction transaction(database, Transaction::Kind::kExclusive);
    database.run(ladder[version]);
    database.run(("PRAGMA user_version = " + std::to_string(version + 1)).c_str());
    transaction.commit();
  }
}

}  // namespace lectern::retrieval
