// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <span>
#include <stop_token>
#include <string>

#include "store/store.h"

namespace lectern::retrieval {

struct FoundFile {
  std::filesystem::path path;  // absolute, no links in it
  FileState state;
  bool named = false;       // given by the user, not found in a directory
  std::string skip_reason;  // not empty: it is not to be read
  std::string failure;      // not empty: the system refused to show it
};

// Visits files and, in name order, everything below directories. In directories links are not followed, each file is
// visited once however many names it has, what is no regular file and what ignore files or skip_reason() name is
// reported with a reason, an ignored directory as one. Named files are always offered. Descriptors are used instead
// of paths, so that nothing can be exchanged for a link on the way. Ends early when `stop` is requested.
void walk(std::span<const std::filesystem::path> paths, const std::function<void(const FoundFile&)>& visit,
          const std::stop_token& stop);

FileState file_state(const struct stat& status);

}  // namespace lectern::retrieval
