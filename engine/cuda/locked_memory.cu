// SPDX-License-Identifier: Apache-2.0
#include "cuda/locked_memory.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace lectern::engine::cuda {
namespace {

// Pages of a mapped file can only be read, which not every driver locks.
unsigned register_flags() {
  int device = 0;
  int read_only = 0;
  const bool known =
      cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&read_only, cudaDevAttrHostRegisterReadOnlySupported, device) == cudaSuccess;
  if (!known) cudaGetLastError();  // an older driver; no failure of the device
  return cudaHostRegisterPortable | (known && read_only != 0 ? cudaHostRegisterReadOnly : cudaHostRegisterDefault);
}

// End by beginning, of pages that are full of pieces.
std::map<std::uintptr_t, std::uintptr_t> whole_pages(std::vector<std::span<const std::byte>> pieces) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = [](const std::byte* at) { return reinterpret_cast<std::uintptr_t>(at); };
  std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  std::map<std::uintptr_t, std::uintptr_t> pages;
  for (std::size_t i = 0; i < pieces.size();) {
    const std::uintptr_t begin = address(pieces[i].data());
    std::uintptr_t end = begin;
    for (; i < pieces.size() && address(pieces[i].data()) <= end; ++i) {
      end = std::max(end, address(pieces[i].data()) + pieces[i].size());
    }
    const std::uintptr_t first = (begin + page - 1) / page * page;
    if (first < end / page * page) pages[first] = end / page * page;
  }
  return pages;
}

}  // namespace

LockedMemory::~LockedMemory() {
  if (registered_.empty() && copies_.empty()) return;
  cudaDeviceSynchronize();  // nothing is on its way from here any more
  for (const auto& [begin, end] : registered_) cudaHostUnregister(reinterpret_cast<void*>(begin));
}

bool LockedMemory::count(std::int64_t bytes) {
  if (bytes > most_ - bytes_) return false;
  bytes_ += bytes;
  return true;
}

bool LockedMemory::lock(std::vector<std::span<const std::byte>> pieces) {
  if (refused_) return false;
  const unsigned flags = register_flags();
  Pages locked;
  for (const auto& [begin, end] : whole_pages(std::move(pieces))) {
    if (cudaHostRegister(reinterpret_cast<void*>(begin), end - begin, flags) == cudaSuccess) {
      locked[begin] = end;
      continue;
    }
    cudaGetLastError();  // a refusal is no failure of the device
    refused_ = true;     // and will be repeated
    for (const auto& [first, last] : locked) cudaHostUnregister(reinterpret_cast<void*>(first));
    return false;
  }
  pieces_.insert(locked.begin(), locked.end());
  registered_.merge(locked);
  return true;
}

std::byte* LockedMemory::take(std::int64_t bytes) {
  PinnedBlock block = PinnedBlock::take(bytes);
  if (block.data() == nullptr) {
    most_ = 0;  // nor will there be more
    return nullptr;
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(block.data());
  pieces_[begin] = begin + static_cast<std::uintptr_t>(bytes);
  return copies_.emplace_back(std::move(block)).data();
}

bool LockedMemory::holds(const void* at, std::int64_t bytes) const {
  const auto begin = reinterpret_cast<std::uintptr_t>(at);
  const auto next = pieces_.upper_bound(begin);
  return next != pieces_.begin() && begin + static_cast<std::uintptr_t>(bytes) <= std::prev(next)->second;
}

}  // namespace lectern::engine::cuda
