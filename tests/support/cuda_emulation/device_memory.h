// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace lectern::engine::cuda::emulation {

// Allocations between guard bytes. Not thread-safe.
class DeviceMemory {
 public:
  ~DeviceMemory();

  // Filled with 0xff. Null when the device's memory does not suffice.
  void* allocate(std::size_t bytes);
  // False when `memory` is no allocation.
  bool release(void* memory);
  bool contains(const void* memory, std::size_t bytes) const;
  // What lies in an allocation but reaches beyond its end.
  bool overruns(const void* memory, std::size_t bytes) const;
  std::string damage();  // since the last call

  void set_total(std::size_t bytes) { total_ = bytes; }
  std::size_t total() const { return total_; }
  std::size_t used() const { return used_; }

 private:
  struct Allocation {
    void* block;
    std::size_t bytes;
  };

  void check(unsigned char* memory, const Allocation& allocation);

  std::map<std::uintptr_t, Allocation> allocations_;
  std::size_t total_ = 0;
  std::size_t used_ = 0;
  std::string damage_;
};

}  // namespace lectern::engine::cuda::emulation
