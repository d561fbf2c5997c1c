// SPDX-License-Identifier: Apache-2.0
#include "cuda/device_memory.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

namespace lectern::engine::cuda {
namespace {

constexpr std::int64_t kSmallestStackBlock = std::int64_t{16} << 20;

std::int64_t aligned(std::int64_t bytes) {
  return std::max<std::int64_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
}

}  // namespace

DeviceBlock DeviceBlock::take(std::int64_t bytes) {
  DeviceBlock block;
  void* memory = nullptr;
  if (cudaMalloc(&memory, static_cast<std::size_t>(bytes)) != cudaSuccess) {
    cudaGetLastError();  // a refusal is no failure of the device
    return block;
  }
  block.data_ = static_cast<std::byte*>(memory);
  block.bytes_ = bytes;
  return block;
}

DeviceBlock::~DeviceBlock() {
  if (data_ != nullptr) cudaFree(data_);
}

DeviceBlock::DeviceBlock(DeviceBlock&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

DeviceBlock& DeviceBlock::operator=(DeviceBlock&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

bool HeapMemory::reserve(std::int64_t bytes) {
  fixed_ = DeviceBlock::take(aligned(bytes));
  if (fixed_.data() == nullptr) return false;
  holes_[fixed_.data()] = fixed_.bytes();
  return true;
}

std::byte* HeapMemory::take(std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  const std::int64_t size = aligned(bytes);
  std::byte* piece = nullptr;
  if (fixed_.data() != nullptr) {
    piece = take_from_fixed(size);
  } else {
    DeviceBlock block = DeviceBlock::take(size);
    piece = block.data();
    if (piece != nullptr) single_[piece] = std::move(block);
  }
  if (piece == nullptr) return nullptr;
  pieces_[piece] = size;
  used_ += size;
  most_used_ = std::max(most_used_, used_);
  return piece;
}

// The smallest hole that is large enough: sequences take pieces of few sizes, which then fill each other's holes.
std::byte* HeapMemory::take_from_fixed(std::int64_t bytes) {
  auto best = holes_.end();
  for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
    if (hole->second >= bytes && (best == holes_.end() || hole->second < best->second)) best = hole;
  }
  if (best == holes_.end()) return nullptr;
  std::byte* piece = best->first;
  const std::int64_t rest = best->second - bytes;
  holes_.erase(best);
  if (rest > 0) holes_[piece + bytes] = rest;
  return piece;
}

void HeapMemory::give_back(std::byte* piece) {
  const std::lock_guard lock(mutex_);
  const auto found = pieces_.find(piece);
  if (found == pieces_.end()) return;
  const std::int64_t bytes = found->second;
  pieces_.erase(found);
  used_ -= bytes;
  ++changes_;
  if (single_.erase(piece) == 0) merge_hole(piece, bytes);
}

void HeapMemory::merge_hole(std::byte* piece, std::int64_t bytes) {
  auto next = holes_.lower_bound(piece);
  if (next != holes_.end() && piece + bytes == next->first) {
    bytes += next->second;
    next = holes_.erase(next);
  }
  if (next != holes_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == piece) {
      before->second += bytes;
      return;
    }
  }
  holes_[piece] = bytes;
}

bool StackMemory::reserve(std::int64_t bytes) {
  fixed_ = true;
  blocks_.push_back(DeviceBlock::take(aligned(bytes)));
  return blocks_.back().data() != nullptr;
}

void* StackMemory::take(std::int64_t bytes) {
  const std::int64_t size = aligned(bytes);
  while (top_.block < blocks_.size() && top_.used + size > blocks_[top_.block].bytes()) top_ = {top_.block + 1, 0};
  if (top_.block == blocks_.size()) {
    if (fixed_) throw std::bad_alloc();
    DeviceBlock block = DeviceBlock::take(std::max(size, kSmallestStackBlock));
    if (block.data() == nullptr) throw std::bad_alloc();
    blocks_.push_back(std::move(block));
  }
  void* memory = blocks_[top_.block].data() + top_.used;
  top_.used += size;
  std::int64_t used = top_.used;
  for (std::size_t i = 0; i < top_.block; ++i) used += blocks_[i].bytes();
  most_used_ = std::max(most_used_, used);
  return memory;
}

std::int64_t StackMemory::capacity() const {
  std::int64_t total = 0;
  for (const DeviceBlock& block : blocks_) total += block.bytes();
  return total;
}

}  // namespace lectern::engine::cuda
