// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

namespace lectern::engine::cuda::emulation {

inline constexpr std::size_t kStackBytes = 64 << 10;

// The memory of one fiber's stack, with a page below it that nobody may touch.
class Stack {
 public:
  Stack() {
    guard_bytes_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, guard_bytes_ + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(memory);
    mprotect(memory_, guard_bytes_, PROT_NONE);
  }
  ~Stack() { munmap(memory_, guard_bytes_ + kStackBytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  unsigned char* bottom() const { return memory_ + guard_bytes_; }
  unsigned char* top() const { return bottom() + kStackBytes; }

 private:
  std::size_t guard_bytes_ = 0;
  unsigned char* memory_ = nullptr;
};

}  // namespace lectern::engine::cuda::emulation
