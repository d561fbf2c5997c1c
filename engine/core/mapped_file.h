// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <stop_token>

#include "engine/result.h"

namespace lectern::engine {

// A whole regular file mapped read-only. Move-only.
class MappedFile {
 public:
  // Errors: kNotFound, kIo, kCorrupt (empty, or not a regular file).
  static Result<MappedFile> open(const std::filesystem::path& file);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(address_), size_}; }

  // Replaces the mapping by memory of the process with the same bytes at the same addresses, in large pages where the
  // system has them: these are read a fifth faster than the small, scattered pages of a file. Other threads may go on
  // reading. Takes the size of the file and, while it runs, a piece of 64 MiB for each thread (0: one per hardware
  // thread). Errors: kIo (the file has changed), kOutOfMemory, kCancelled; the bytes stay valid.
  Result<void> move_to_memory(int threads, const std::stop_token& stop);

 private:
  MappedFile(void* address, std::size_t size, int descriptor)
      : address_(address), size_(size), descriptor_(descriptor) {}
  Result<void> move_piece(std::size_t first, std::size_t length);

  void* address_ = nullptr;  // at a multiple of kLargePage
  std::size_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace lectern::engine
