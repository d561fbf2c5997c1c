// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <stop_token>
#include <string>

#include "retrieval/result.h"
#include "retrieval/types.h"

namespace lectern::retrieval {

struct ExtractLimits {
  std::uint64_t file_bytes = 256ULL << 20;
  std::uint64_t text_file_bytes = 8ULL << 20;  // text and code; larger files are refused, not cut
  std::uint32_t pages = 50'000;
  std::uint64_t page_text_bytes = 4ULL << 20;
  std::uint64_t document_text_bytes = 64ULL << 20;
};

// Recognises the type by content and name, and reads the file in this process. Used by lectern-extract (untrusted
// files) and by tests. Throws nothing. Errors: kNotFound, kPermission, kUnreadable (empty, binary, damaged),
// kEncrypted, kTooLarge, kCancelled; each message names the file.
Result<ExtractedDocument> extract_file(const std::filesystem::path& file, const ExtractLimits& limits,
                                       std::stop_token stop);

// Why a path is not offered to the extractor at all when a directory is walked ("binary", "secret", "ignored", ...);
// empty when it should be read.
std::string skip_reason(const std::filesystem::path& file);

// Flat little-endian message of an extraction result, for the pipe between lectern-extract and its parent.
// decode treats its input as hostile: every count is checked against the bytes left before anything is allocated.
std::string encode_extraction(const Result<ExtractedDocument>& result);
Result<ExtractedDocument> decode_extraction(std::string_view bytes);

}  // namespace lectern::retrieval
