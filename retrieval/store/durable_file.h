// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>

#include "retrieval/result.h"

namespace lectern::retrieval {

// Replaces `file` with the concatenation of `parts`, mode 0600: temporary file in the same directory, fsync, rename,
// fsync of the directory. After a crash at any instant either the old or the new content is there, whole.
// Error: kStorage; the old content stays.
Result<void> write_durably(const std::filesystem::path& file, std::initializer_list<std::string_view> parts);

// The content of a regular file of at most `limit` bytes; links are not followed.
// Errors: kNotFound, kTooLarge, kStorage.
Result<std::string> read_bounded(const std::filesystem::path& file, std::uint64_t limit);

}  // namespace lectern::retrieval
