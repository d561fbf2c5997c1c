// SPDX-License-Identifier: Apache-2.0
#include "core/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <system_error>
#include <utility>

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;

fs::path directory_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::path("."); }

constexpr ::mode_t kMode = 0666;  // less what the process's own mask takes away

std::string random_ending() {
  std::random_device device;
  std::string text;
  for (int i = 0; i < 12; ++i) text += static_cast<char>('a' + device() % 26);
  return text;
}

std::string megabytes(std::int64_t bytes) { return std::to_string((bytes + 999'999) / 1'000'000) + " MB"; }

Error exists_already(const fs::path& file) {
  return {ErrorCode::kInvalidArgument,
          file.string() + " exists already; choose another name, or ask for it to be replaced."};
}

// A rename is on the disk when its directory is.
bool sync_directory(const fs::path& directory) {
  const FileHandle handle(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return handle.open() && (::fsync(handle.get()) == 0 || errno == EINVAL);  // not every file system has to do anything
}

}  // namespace

Result<OutputFile> OutputFile::create(const fs::path& file, std::int64_t bytes, bool replace) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(file, error);
  if (fs::exists(status) && !replace) return exists_already(file);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    return Error{ErrorCode::kInvalidArgument, file.string() + " is not a regular file; choose another name."};
  }
  const fs::path directory = directory_of(file);
  const fs::space_info space = fs::space(directory, error);
  if (error) {
    return Error{ErrorCode::kIo, file.string() + " cannot be written: " + error.message() +
                                     "; choose a folder that exists and that you may write to."};
  }
  if (space.available < static_cast<std::uintmax_t>(bytes)) {
    return Error{ErrorCode::kIo, file.string() + " needs " + megabytes(bytes) + ", but its disk has only " +
                                     megabytes(static_cast<std::int64_t>(space.available)) +
                                     " left; make room or choose another disk."};
  }
  const std::string name = (directory / ("." + file.filename().string() + "." + random_ending())).string();
  FileHandle handle(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode));
  if (!handle.open()) {
    return Error{ErrorCode::kIo, file.string() + " cannot be written: " + std::strerror(errno) +
                                     "; choose a folder that you may write to."};
  }
  return OutputFile(file, name, std::move(handle), replace);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : file_(std::move(other.file_)),
      temporary_(std::exchange(other.temporary_, fs::path())),
      handle_(std::move(other.handle_)),
      replace_(other.replace_),
      size_(other.size_) {}

OutputFile::~OutputFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Error OutputFile::failure(const char* what, int number) const {
  return {ErrorCode::kIo,
          file_.string() + " could not be " + what + ": " + std::strerror(number) + "; nothing of it was kept."};
}

Result<void> OutputFile::write(std::span<const std::byte> bytes) {
  if (!write_all(handle_.get(), bytes)) return failure("written", errno);
  size_ += static_cast<std::int64_t>(bytes.size());
  return {};
}

// Unlike a rename, a link never replaces a file; but not every file system has links.
Result<void> OutputFile::take_name() {
  if (!replace_) {
    if (::link(temporary_.c_str(), file_.c_str()) == 0) {
      ::unlink(temporary_.c_str());
      temporary_.clear();
      return {};
    }
    std::error_code error;
    if (errno == EEXIST || fs::exists(file_, error)) return exists_already(file_);
  }
  if (::rename(temporary_.c_str(), file_.c_str()) != 0) return failure("given its name", errno);
  temporary_.clear();
  return {};
}

Result<void> OutputFile::finish() {
  if (::fsync(handle_.get()) != 0) return failure("written", errno);
  handle_ = FileHandle();
  ENGINE_CHECK(take_name());
  if (!sync_directory(directory_of(file_))) return failure("made permanent", errno);
  return {};
}

}  // namespace lectern::engine
