// SPDX-License-Identifier: GPL-3.0-or-later
// Rows of the library file to values and back; shared by the parts of Store.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

#include "store/content_hash.h"
#include "store/database.h"
#include "store/packed.h"
#include "store/store.h"

namespace lectern::retrieval {

// Paths are bytes, not text: they need not be valid UTF-8. Valid while `path` lives.
Bytes path_bytes(const std::filesystem::path& path);

ContentHash page_hash(std::string_view text, const Packed& words);
ContentHash chunk_hash(std::string_view text, const Packed& runs);

// The columns of a document, in the order in which document_of() reads them.
inline constexpr std::string_view kDocumentColumns =
    "id, path, title, kind, language, state, note, content_hash, pipeline, bytes, modified_ns, changed_ns, inode, "
    "checked_ns, page_count, chunk_count";
StoredDocument document_of(const Statement& row);

std::optional<StoredDocument> read_document(const Database& database, DocumentId document);
// Throws StoreFailure kNotFound.
StoredDocument require_document(const Database& database, DocumentId document);

// As Store::chunks.
std::vector<std::pair<ChunkId, StoredChunk>> read_chunks(const Database& database, std::span<const ChunkId> ids);

}  // namespace lectern::retrieval
