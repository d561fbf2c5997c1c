// SPDX-License-Identifier: GPL-3.0-or-later
// What ingest needs to know of a file and of what an extractor made of it.
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>
#include <string_view>

#include "retrieval/result.h"
#include "retrieval/types.h"
#include "store/content_hash.h"
#include "store/store.h"

namespace lectern::retrieval {

// Errors: kNotFound, kPermission, kUnreadable (no regular file), kStorage, kCancelled.
Result<ContentHash> hash_file(const std::filesystem::path& file, const std::stop_token& stop);

// The extractor ran on hostile input: text must be valid UTF-8, words are kept only where they are ordered, disjoint
// and inside the page's text. Error: kUnreadable.
Result<ExtractedDocument> checked(ExtractedDocument document, const std::filesystem::path& file);

// One line of valid UTF-8; the file name when `title` holds nothing to show.
std::string shown_title(std::string_view title, const std::filesystem::path& file);

// A guess for files that could not be read.
DocumentKind kind_by_name(const std::filesystem::path& file);

// Fills title, kind, language, state and note.
void describe(const ExtractedDocument& document, DocumentRecord& record);

}  // namespace lectern::retrieval
