// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "ops/backend.h"

namespace lectern::engine {

// A pass that is dropped unless it ends.
class Pass {
 public:
  Pass(Backend& backend, std::span<const std::uint64_t> key) : backend_(backend) { backend_.begin_pass(key); }
  ~Pass() {
    if (!ended_) backend_.drop_pass();
  }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  Result<void> end() {
    ended_ = true;
    return backend_.end_pass();
  }

 private:
  Backend& backend_;
  bool ended_ = false;
};

inline Tensor rows_of(const Tensor& all, std::int64_t first, std::int64_t rows) {
  return {all.row(first), rows, all.cols};
}

// For keys of passes.
inline std::uint64_t address_bits(const void* address) { return std::bit_cast<std::uintptr_t>(address); }

}  // namespace lectern::engine
