// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/rows.h"

#include <algorithm>
#include <string>

namespace lectern::retrieval {
namespace {

ContentHash hash_of_both(std::string_view text, const Packed& positions) {
  const std::uint64_t size = text.size();
  Hasher hasher;
  hasher.add(&size, sizeof(size));
  hasher.add(text.data(), text.size());
  hasher.add(positions.data(), positions.size());
  return hasher.finish();
}

template <class Enum>
Enum enum_of(std::int64_t value, Enum last) {
  return value >= 0 && value <= static_cast<std::int64_t>(last) ? static_cast<Enum>(value) : last;
}

}  // namespace

Bytes path_bytes(const std::filesystem::path& path) {
  const std::string& native = path.native();
  return {reinterpret_cast<const std::uint8_t*>(native.data()), native.size()};
}

ContentHash page_hash(std::string_view text, const Packed& words) { return hash_of_both(text, words); }

ContentHash chunk_hash(std::string_view text, const Packed& runs) { return hash_of_both(text, runs); }

StoredDocument document_of(const Statement& row) {
  StoredDocument document;
  DocumentRecord& record = document.record;
  document.id = row.integer(0);
  record.path = std::string(row.text(1));
  record.title = row.text(2);
  record.kind = enum_of(row.integer(3), DocumentKind::kCode);
  record.language = row.text(4);
  record.state = enum_of(row.integer(5), DocumentState::kFailed);
  record.note = row.text(6);
  if (const Bytes hash = row.bytes(7); hash.size() == ContentHash().size()) {
    std::copy(hash.begin(), hash.end(), record.content.emplace().begin());
  }
  record.pipeline = static_cast<int>(row.integer(8));
  record.file = {row.integer(9), row.integer(10), row.integer(11), row.integer(12)};
  record.checked_ns = row.integer(13);
  document.pages = row.integer(14);
  document.chunks = row.integer(15);
  return document;
}

std::optional<StoredDocument> read_document(const Database& database, DocumentId document) {
  Statement read = database.prepare("SELECT " + std::string(kDocumentColumns) + " FROM documents WHERE id = ?");
  read.bind(1, document);
  if (!read.step()) return std::nullopt;
  return document_of(read);
}

StoredDocument require_document(const Database& database, DocumentId document) {
  auto found = read_document(database, document);
  if (!found) {
    throw StoreFailure({ErrorCode::kNotFound, "Document " + std::to_string(document) + " is not in this library."});
  }
  return *std::move(found);
}

}  // namespace lectern::retrieval
