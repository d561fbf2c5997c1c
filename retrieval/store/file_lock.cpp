// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/file_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lectern::retrieval {

FileLock::~FileLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<FileLock> FileLock::acquire(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) {
    const ErrorCode code = errno == EACCES || errno == EROFS ? ErrorCode::kPermission : ErrorCode::kStorage;
    return Error{code, "The lock file " + file.string() + " cannot be opened: " + std::strerror(errno) + "."};
  }
  FileLock lock(descriptor);
  struct flock request = {};
  request.l_type = F_WRLCK;
  request.l_whence = SEEK_SET;
  if (::fcntl(descriptor, F_OFD_SETLK, &request) == 0) return lock;
  if (errno == EAGAIN || errno == EACCES) {
    return Error{ErrorCode::kBusy,
                 "The library " + file.parent_path().string() + " is open in another Lectern; close it first."};
  }
  return Error{ErrorCode::kStorage, "The lock file " + file.string() + " cannot be locked (" + std::strerror(errno) +
                                        "); keep the library on a local disk."};
}

}  // namespace lectern::retrieval
