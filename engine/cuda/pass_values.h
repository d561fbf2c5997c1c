// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/platform.h"

namespace lectern::engine::cuda {

// Page-locked host memory, or none.
class PinnedBlock {
 public:
  PinnedBlock() = default;
  static PinnedBlock take(std::int64_t bytes);  // data() is null when the system refuses
  ~PinnedBlock();
  PinnedBlock(PinnedBlock&& other) noexcept;
  PinnedBlock& operator=(PinnedBlock&& other) noexcept;

  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

// What differs between passes that make the same calls: token ids, positions, lengths, rows to upload; and what comes
// back. Kernels read the values from device memory, so that a pass that was remembered as a graph can be repeated with
// others: the same calls add the same sizes in the same order and get the same addresses.
class PassValues {
 public:
  // False when there is no memory for it.
  bool reserve(cudaStream_t stream);

  // The device address of a copy of `values`, at most kMostBytes, aligned to 16 bytes. In a remembered pass it is there
  // when the pass runs, otherwise for what is queued from now on; until then it may not be kept.
  template <class T>
  const T* add(std::span<const T> values) {
    return reinterpret_cast<const T*>(add_bytes(std::as_bytes(values)));
  }
  template <class T>
  const T* add(const std::vector<T>& values) {
    return add(std::span<const T>(values));
  }
  template <class T>
  requires std::is_trivially_copyable_v<T>
  const T* add(const T& value) { return add(std::span<const T>(&value, 1)); }

  // Host memory for what a remembered pass gives back; copied to `to` by give_results(). Null: no memory.
  std::byte* add_result(std::span<std::byte> to);

  // A remembered pass begins; its values are sent with send(), before it runs, and its results there when it has run.
  void begin_pass();
  cudaError_t send();
  void give_results();
  void end_pass() { in_pass_ = false; }

  static constexpr std::int64_t kMostBytes = std::int64_t{4} << 20;

 private:
  struct Result {
    const std::byte* from;
    std::span<std::byte> to;
  };

  const std::byte* add_bytes(std::span<const std::byte> bytes);

  cudaStream_t stream_ = nullptr;
  PinnedBlock host_;  // the same offsets as on the device: first those of a pass, then a ring for all other calls
  DeviceBlock device_;
  bool in_pass_ = false;
  std::int64_t pass_used_ = 0;
  std::int64_t ring_used_ = 0;
  std::vector<PinnedBlock> result_blocks_;
  std::size_t result_block_ = 0;
  std::int64_t results_used_ = 0;  // of the block
  std::vector<Result> results_;
};

}  // namespace lectern::engine::cuda
