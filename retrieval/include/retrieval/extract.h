// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "retrieval/result.h"
#include "retrieval/types.h"

namespace lectern::retrieval {

struct ExtractLimits {
  std::uint64_t file_bytes = 256ULL << 20;
  std::uint64_t text_file_bytes = 8ULL << 20;  // text and code; larger files are refused, not cut
  std::uint32_t pages = 50'000;
  std::uint64_t page_text_bytes = 4ULL << 20;
  std::uint64_t document_text_bytes = 64ULL << 20;
  double seconds = 100;  // PDF: pages read by then are kept and the rest is named in a warning
};

// Recognises the type by content and name, and reads the file in this process. Used by lectern-extract (untrusted
// files) and by tests. Throws nothing. Errors: kNotFound, kPermission, kUnreadable (empty, binary, damaged),
// kEncrypted, kTooLarge, kCancelled; each message names the file.
Result<ExtractedDocument> extract_file(const std::filesystem::path& file, const ExtractLimits& limits,
                                       std::stop_token stop);

// The three steps of extract_file, for a host that opens the document in one process and parses it in another. `name`
// appears in messages and its suffix helps to recognise the type.
//
// Opens a regular file for reading and checks its size: never blocks on a FIFO or device, and refuses a symbolic link
// in the last place. The caller closes the descriptor.
Result<int> open_document(const std::filesystem::path& file, const ExtractLimits& limits);
// The whole content from offset 0. Error when the file shrinks, grows or changes meanwhile.
Result<std::string> read_document(int descriptor, const std::filesystem::path& name, const ExtractLimits& limits);
// `on_page` hears of each page of a PDF when it is finished, with the number of pages of the document.
using PageObserver = std::function<void(const ExtractedPage& page, std::size_t page_count)>;
Result<ExtractedDocument> extract_bytes(const std::filesystem::path& name, std::string_view bytes,
                                        const ExtractLimits& limits, std::stop_token stop,
                                        const PageObserver& on_page = {});

// Loads what parsers would otherwise open on first use (character set converters, CMap tables), so that a process may
// give up its right to open files before it parses. `data_directories` lists what must stay readable even then.
struct PreloadedExtraction {
  std::vector<std::filesystem::path> data_directories;
};
PreloadedExtraction preload_extraction();

// The last part of a path as messages show it: valid UTF-8 without control characters, whatever the file is called.
std::string shown_name(const std::filesystem::path& file);

// Why a path is not offered to the extractor at all when a directory is walked ("binary", "secret", "ignored", ...);
// empty when it should be read. Meant for files and directories alike, as the path from the walked directory on: each
// name in it counts. Of an absolute path, hidden directories above the last name do not.
std::string skip_reason(const std::filesystem::path& file);

// Flat little-endian message of an extraction result, for the pipe between lectern-extract and its parent.
// decode treats its input as hostile: every count is checked against the bytes left before anything is allocated.
std::string encode_extraction(const Result<ExtractedDocument>& result);
Result<ExtractedDocument> decode_extraction(std::string_view bytes);

// The same message in two parts, for a sender that must be able to send what it has at any moment: encode_head for
// `page_count` pages (the document's own are not looked at), followed by as many encoded pages.
std::string encode_head(const ExtractedDocument& document, std::size_t page_count);
void append_encoded_page(std::string& message, const ExtractedPage& page);

}  // namespace lectern::retrieval
