// SPDX-License-Identifier: Apache-2.0
#include "core/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <utility>

namespace lectern::engine {
namespace {

constexpr std::size_t kMostAtOnce = std::size_t{1} << 30;  // the system transfers at most 2 GiB
constexpr int kMostTries = 100;

}  // namespace

FileHandle::FileHandle(FileHandle&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

FileHandle::~FileHandle() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool write_all(int descriptor, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor, bytes.data(), std::min(bytes.size(), kMostAtOnce));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return true;
}

bool read_all(int descriptor, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::read(descriptor, bytes.data(), std::min(bytes.size(), kMostAtOnce));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = 0;
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return true;
}

DurableFile::DurableFile(int directory, std::string name, const std::string& temporary)
    : directory_(directory), name_(std::move(name)) {
  static std::atomic<unsigned> files = 0;  // with the process id, a name nobody else uses
  for (int i = 0; i < kMostTries && !file_.open(); ++i) {
    temporary_name_ = temporary + name_ + "." + std::to_string(::getpid()) + "." + std::to_string(files++);
    constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    file_ = FileHandle(::openat(directory_, temporary_name_.c_str(), kFlags, S_IRUSR | S_IWUSR));
    if (!file_.open() && errno != EEXIST) break;
  }
  if (!file_.open()) temporary_name_.clear();
}

DurableFile::~DurableFile() {
  if (!temporary_name_.empty()) ::unlinkat(directory_, temporary_name_.c_str(), 0);
}

bool DurableFile::commit() {
  // A failed fsync is not repeated: the system may have dropped what it could not write.
  if (::fsync(file_.get()) != 0) return false;
  if (::renameat(directory_, temporary_name_.c_str(), directory_, name_.c_str()) != 0) return false;
  temporary_name_.clear();
  return ::fsync(directory_) == 0;
}

}  // namespace lectern::engine
