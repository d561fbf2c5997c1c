// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/platform.h"

namespace lectern::engine::cuda {

inline constexpr std::int64_t kAlignment = 256;  // of every piece of device memory, in bytes

// cudaMalloc'ed memory, or none.
class DeviceBlock {
 public:
  DeviceBlock() = default;
  static DeviceBlock take(std::int64_t bytes);  // data() is null when the device refuses
  ~DeviceBlock();
  DeviceBlock(DeviceBlock&& other) noexcept;
  DeviceBlock& operator=(DeviceBlock&& other) noexcept;

  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

// Memory whose pieces come and go in any order. With a capacity it is taken once and never grows; without one, every
// piece is taken from the device as it is asked for. Pieces may come and go on any thread: a sequence that ends gives
// back what it had while another is computed.
class HeapMemory {
 public:
  // False when the device refuses.
  bool reserve(std::int64_t bytes);
  std::byte* take(std::int64_t bytes);  // null: does not fit
  void give_back(std::byte* piece);

  std::int64_t capacity() const { return fixed_.bytes(); }
  std::int64_t used() const { return locked(used_); }
  std::int64_t most_used() const { return locked(most_used_); }
  // Grows with every piece given back: addresses may now mean something else.
  std::uint64_t changes() const { return locked(changes_); }

 private:
  std::byte* take_from_fixed(std::int64_t bytes);
  void merge_hole(std::byte* piece, std::int64_t bytes);
  template <class Number>
  Number locked(const Number& number) const {
    const std::lock_guard lock(mutex_);
    return number;
  }

  mutable std::mutex mutex_;  // guards everything but fixed_, which stays as reserve() leaves it
  DeviceBlock fixed_;
  std::map<std::byte*, std::int64_t> holes_;  // of the fixed memory, never adjacent
  std::map<std::byte*, std::int64_t> pieces_;
  std::map<std::byte*, DeviceBlock> single_;  // without a capacity
  std::int64_t used_ = 0;
  std::int64_t most_used_ = 0;
  std::uint64_t changes_ = 0;
};

// Memory taken and released like a stack. Without a capacity it grows by further blocks, and earlier ones stay where
// they are.
class StackMemory {
 public:
  struct Mark {
    std::size_t block = 0;
    std::int64_t used = 0;
  };

  bool reserve(std::int64_t bytes);
  void* take(std::int64_t bytes);  // throws std::bad_alloc
  Mark mark() const { return top_; }
  void release(Mark mark) { top_ = mark; }

  std::int64_t capacity() const;
  std::int64_t most_used() const { return most_used_; }

 private:
  std::vector<DeviceBlock> blocks_;
  Mark top_;
  bool fixed_ = false;
  std::int64_t most_used_ = 0;
};

}  // namespace lectern::engine::cuda
