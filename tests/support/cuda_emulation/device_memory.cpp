// SPDX-License-Identifier: GPL-3.0-or-later
#include "support/cuda_emulation/device_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <utility>

namespace lectern::engine::cuda::emulation {
namespace {

constexpr std::size_t kGuard = 256;  // and the alignment, as on a device
constexpr unsigned char kGuardByte = 0xa5;

std::uintptr_t address(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory); }

}  // namespace

DeviceMemory::~DeviceMemory() {
  for (const auto& [at, allocation] : allocations_) std::free(allocation.block);
}

void* DeviceMemory::allocate(std::size_t bytes) {
  if (bytes > total_ - std::min(used_, total_)) return nullptr;
  const std::size_t whole = (bytes + 3 * kGuard - 1) / kGuard * kGuard;
  void* block = std::aligned_alloc(kGuard, whole);
  if (block == nullptr) return nullptr;
  auto* begin = static_cast<unsigned char*>(block);
  std::memset(begin, kGuardByte, kGuard);
  std::memset(begin + kGuard, 0xff, bytes);
  std::memset(begin + kGuard + bytes, kGuardByte, kGuard);
  allocations_[address(begin + kGuard)] = {block, bytes};
  used_ += bytes;
  return begin + kGuard;
}

void DeviceMemory::check(unsigned char* memory, const Allocation& allocation) {
  for (unsigned char* guard : {memory - kGuard, memory + allocation.bytes}) {
    const unsigned char* wrong =
        std::find_if(guard, guard + kGuard, [](unsigned char byte) { return byte != kGuardByte; });
    if (wrong == guard + kGuard) continue;
    damage_ += "Written at byte " + std::to_string(wrong - memory) + " of an allocation of " +
               std::to_string(allocation.bytes) + " bytes. ";
    std::memset(guard, kGuardByte, kGuard);
  }
}

bool DeviceMemory::release(void* memory) {
  const auto found = allocations_.find(address(memory));
  if (found == allocations_.end()) return false;
  check(static_cast<unsigned char*>(memory), found->second);
  used_ -= found->second.bytes;
  std::free(found->second.block);
  allocations_.erase(found);
  return true;
}

bool DeviceMemory::contains(const void* memory, std::size_t bytes) const {
  auto next = allocations_.upper_bound(address(memory));
  if (next == allocations_.begin()) return false;
  const auto& [begin, allocation] = *std::prev(next);
  const std::size_t offset = address(memory) - begin;
  return offset <= allocation.bytes && bytes <= allocation.bytes - offset;
}

bool DeviceMemory::overruns(const void* memory, std::size_t bytes) const {
  auto next = allocations_.upper_bound(address(memory));
  if (next == allocations_.begin()) return false;
  const auto& [begin, allocation] = *std::prev(next);
  const std::size_t offset = address(memory) - begin;
  return offset < allocation.bytes && bytes > allocation.bytes - offset;
}

std::string DeviceMemory::damage() {
  for (const auto& [at, allocation] : allocations_) {
    check(static_cast<unsigned char*>(allocation.block) + kGuard, allocation);
  }
  return std::exchange(damage_, {});
}

}  // namespace lectern::engine::cuda::emulation
