// SPDX-License-Identifier: Apache-2.0
#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace lectern::engine {
namespace {

constexpr std::size_t kLargePage = std::size_t{2} << 20;
constexpr std::size_t kPiece = std::size_t{64} << 20;

// `size` bytes at a multiple of kLargePage, given back by munmap() in any parts.
void* map_aligned(std::size_t size, int protection, int flags, int descriptor) {
  const std::size_t room = size + kLargePage;
  void* reserved = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  const auto begin = std::bit_cast<std::uintptr_t>(reserved);
  const std::uintptr_t aligned = (begin + kLargePage - 1) / kLargePage * kLargePage;
  void* address = ::mmap(std::bit_cast<void*>(aligned), size, protection, flags | MAP_FIXED, descriptor, 0);
  const int failure = errno;
  if (address == MAP_FAILED) {
    ::munmap(reserved, room);
    errno = failure;
    return MAP_FAILED;
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t end = aligned + (size + page - 1) / page * page;
  if (aligned > begin) ::munmap(reserved, aligned - begin);
  ::munmap(std::bit_cast<void*>(end), begin + room - end);
  return address;
}

bool read_fully(int descriptor, std::size_t offset, std::byte* to, std::size_t length) {
  while (length > 0) {
    const ssize_t count = ::pread(descriptor, to, length, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    to += count;
    offset += static_cast<std::size_t>(count);
    length -= static_cast<std::size_t>(count);
  }
  return true;
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) {
    const ErrorCode code = errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
    return Error{code, file.string() + " could not be opened: " + std::strerror(errno) + "."};
  }
  struct stat status = {};
  const bool regular = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular || status.st_size == 0) {
    ::close(descriptor);
    return Error{ErrorCode::kCorrupt, file.string() + (regular ? " is empty." : " is not a regular file.")};
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  void* address = map_aligned(size, PROT_READ, MAP_PRIVATE, descriptor);
  const int failure = errno;
  if (address == MAP_FAILED) {
    ::close(descriptor);
    return Error{ErrorCode::kIo, file.string() + " could not be mapped: " + std::strerror(failure) + "."};
  }
  return MappedFile(address, size, descriptor);
}

// The copy is made elsewhere and takes the place of the mapping when it is complete, so that no reader sees less.
Result<void> MappedFile::move_piece(std::size_t first, std::size_t length) {
  void* copy = map_aligned(length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (copy == MAP_FAILED) return Error{ErrorCode::kOutOfMemory, "The system refused memory for the weights."};
  ::madvise(copy, length, MADV_HUGEPAGE);  // a wish
  const bool complete = read_fully(descriptor_, first, static_cast<std::byte*>(copy), length);
  void* place = static_cast<std::byte*>(address_) + first;
  if (complete && ::mprotect(copy, length, PROT_READ) == 0 &&
      ::mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, place) != MAP_FAILED) {
    return {};
  }
  ::munmap(copy, length);
  return Error{ErrorCode::kIo, "The model file could not be read to its end; it was changed while it was opened."};
}

Result<void> MappedFile::move_to_memory(int threads, const std::stop_token& stop) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  Result<void> result;
  const auto move_pieces = [&] {
    for (std::size_t first = next.fetch_add(kPiece); first < size_; first = next.fetch_add(kPiece)) {
      Result<void> moved = Error{ErrorCode::kCancelled, "Copying the weights was stopped."};
      if (!stop.stop_requested()) moved = move_piece(first, std::min(kPiece, size_ - first));
      if (moved.ok()) continue;
      const std::lock_guard lock(mutex);
      result = std::move(moved);
      return;
    }
  };
  const int wanted = threads > 0 ? threads : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  std::vector<std::jthread> team;
  for (int i = 1; i < wanted; ++i) team.emplace_back(move_pieces);
  move_pieces();
  team.clear();
  return result;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : address_(std::exchange(other.address_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(address_, other.address_);
  std::swap(size_, other.size_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

MappedFile::~MappedFile() {
  if (address_ != nullptr) ::munmap(address_, size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace lectern::engine
