// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "ops/backend.h"
#include "ops/placement.h"

namespace lectern::engine {

// A pass that is dropped unless it ends. It begins on the first device and goes on from one to the next.
class Pass {
 public:
  Pass(Placement placement, std::span<const std::uint64_t> key)
      : placement_(std::move(placement)), key_(key.begin(), key.end()) {
    backend().begin_pass(key_);
  }
  ~Pass() {
    if (ended_) return;
    backend().drop_pass();
    static_cast<void>(status_of_earlier());  // waits: the next pass finds them idle
  }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  std::size_t device() const { return device_; }

  // With `rows`, which become `to` there.
  void move_to(std::size_t device, const Tensor& rows, const Tensor& to) {
    backend().pass_on(rows, placement_.device(device), to);
    device_ = device;
    backend().begin_pass(key_);
  }

  // Where several failed, the first of them is the cause.
  Result<void> end() {
    ended_ = true;
    Result<void> last = backend().end_pass();
    ENGINE_CHECK(status_of_earlier());
    return last;
  }

 private:
  Backend& backend() const { return placement_.device(device_); }
  Result<void> status_of_earlier() const {
    Result<void> first;
    for (std::size_t i = 0; i < device_; ++i) {
      Result<void> status = placement_.device(i).status();
      if (first.ok()) first = std::move(status);
    }
    return first;
  }

  Placement placement_;
  std::vector<std::uint64_t> key_;
  std::size_t device_ = 0;
  bool ended_ = false;
};

inline Tensor rows_of(const Tensor& all, std::int64_t first, std::int64_t rows) {
  return {all.row(first), rows, all.cols};
}

// For keys of passes.
inline std::uint64_t address_bits(const void* address) { return std::bit_cast<std::uintptr_t>(address); }

}  // namespace lectern::engine
