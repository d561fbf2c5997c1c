// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <filesystem>

#include "retrieval/result.h"

namespace lectern::retrieval {

// An exclusive open-file-description lock, held for life. It ends with the process, however that ends, and excludes
// a second holder in the same process too.
class FileLock {
 public:
  // Creates `file` with mode 0600 when missing. Errors: kBusy when somebody holds it, kPermission, kStorage.
  static Result<FileLock> acquire(const std::filesystem::path& file);

  FileLock(FileLock&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock();

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}

  int descriptor_;
};

}  // namespace lectern::retrieval
