// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace lectern::engine {

// An open file descriptor, closed at the end. Move-only.
class FileHandle {
 public:
  FileHandle() = default;
  explicit FileHandle(int descriptor) : descriptor_(descriptor) {}
  FileHandle(FileHandle&& other) noexcept;
  FileHandle& operator=(FileHandle&& other) noexcept;
  ~FileHandle();

  int get() const { return descriptor_; }
  bool open() const { return descriptor_ >= 0; }

 private:
  int descriptor_ = -1;
};

// Whole spans or false; errno says why, 0 at the end of the file.
bool write_all(int descriptor, std::span<const std::byte> bytes);
bool read_all(int descriptor, std::span<std::byte> bytes);

// A file that appears under its name whole or not at all, mode 0600: written beside its place, brought to the disk,
// renamed, and the directory brought to the disk. Without commit() it leaves nothing, unless the process dies: then
// what remains has `temporary` in front of its name.
class DurableFile {
 public:
  // `directory`: open, and open as long as this is.
  DurableFile(int directory, std::string name, const std::string& temporary);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  bool open() const { return file_.open(); }
  int descriptor() const { return file_.get(); }
  // Takes the place of a file of that name. False: the old one, if any, is still there.
  bool commit();

 private:
  int directory_;
  std::string name_;
  std::string temporary_name_;  // empty: nothing to remove
  FileHandle file_;
};

}  // namespace lectern::engine
