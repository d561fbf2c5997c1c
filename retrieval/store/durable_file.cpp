// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace lectern::retrieval {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int descriptor) : descriptor_(descriptor) {}
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return descriptor_; }
  bool open() const { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

Error storage_error(const std::filesystem::path& file, const char* action) {
  return {ErrorCode::kStorage, file.string() + " cannot be " + action + ": " + std::strerror(errno) + "."};
}

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

bool sync_directory(const std::filesystem::path& directory) {
  const Descriptor descriptor(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return descriptor.open() && ::fsync(descriptor.get()) == 0;
}

}  // namespace

Result<void> write_durably(const std::filesystem::path& file, std::initializer_list<std::string_view> parts) {
  std::string temporary = file.string() + ".XXXXXX";
  const Descriptor descriptor(::mkostemp(temporary.data(), O_CLOEXEC));  // created with mode 0600
  if (!descriptor.open()) return storage_error(file, "written");
  bool written = true;
  for (const std::string_view part : parts) written = written && write_all(descriptor.get(), part);
  // A failed fsync is never retried: the kernel may already have dropped the pages it could not write.
  if (!written || ::fsync(descriptor.get()) != 0 || ::rename(temporary.c_str(), file.c_str()) != 0) {
    const Error error = storage_error(file, "written");
    ::unlink(temporary.c_str());
    return error;
  }
  if (!sync_directory(file.parent_path())) return storage_error(file, "written");
  return {};
}

Result<std::string> read_bounded(const std::filesystem::path& file, std::uint64_t limit) {
  const Descriptor descriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  if (!descriptor.open()) {
    if (errno == ENOENT) return Error{ErrorCode::kNotFound, file.string() + " does not exist."};
    return storage_error(file, "read");
  }
  struct stat status = {};
  if (::fstat(descriptor.get(), &status) != 0) return storage_error(file, "read");
  if (!S_ISREG(status.st_mode)) return Error{ErrorCode::kStorage, file.string() + " is not a regular file."};
  if (static_cast<std::uint64_t>(status.st_size) > limit) {
    return Error{ErrorCode::kTooLarge, file.string() + " is larger than " + std::to_string(limit) + " bytes."};
  }
  std::string content(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t filled = 0;
  while (filled < content.size()) {
    const ssize_t count = ::read(descriptor.get(), content.data() + filled, content.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return storage_error(file, "read");
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  content.resize(filled);
  return content;
}

}  // namespace lectern::retrieval
