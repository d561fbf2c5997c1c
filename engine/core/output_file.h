// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

#include "core/durable_file.h"
#include "engine/result.h"

namespace lectern::engine {

// A new file of the user's, which appears under its name when it is complete, or not at all: it grows under a temporary
// name beside it, which goes when the object does. Move-only.
class OutputFile {
 public:
  // `bytes`: what will be written, which the disk must have room for. Errors: kInvalidArgument (there is such a file
  // already, and `replace` is false), kIo.
  static Result<OutputFile> create(const std::filesystem::path& file, std::int64_t bytes, bool replace);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) = delete;
  ~OutputFile();

  Result<void> write(std::span<const std::byte> bytes);
  std::int64_t size() const { return size_; }

  // All bytes are on the disk when this returns, under the file's own name.
  Result<void> finish();

 private:
  OutputFile(std::filesystem::path file, std::filesystem::path temporary, FileHandle handle, bool replace)
      : file_(std::move(file)), temporary_(std::move(temporary)), handle_(std::move(handle)), replace_(replace) {}
  Result<void> take_name();
  Error failure(const char* what, int number) const;

  std::filesystem::path file_;
  std::filesystem::path temporary_;  // empty once it has its name
  FileHandle handle_;
  bool replace_ = false;
  std::int64_t size_ = 0;
};

}  // namespace lectern::engine
