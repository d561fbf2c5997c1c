// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "cuda/pass_values.h"
#include "cuda/platform.h"

namespace lectern::engine::cuda {

// Page-locked memory of the computer that holds weights: a copy from there goes straight to the device, while the
// processor does something else. Taken when a model is opened and kept until it is closed.
class LockedMemory {
 public:
  // `most`: bytes of weights that may be locked; 0: none.
  explicit LockedMemory(std::int64_t most) : most_(most) {}
  ~LockedMemory();
  LockedMemory(const LockedMemory&) = delete;
  LockedMemory& operator=(const LockedMemory&) = delete;

  // Counts weights that are about to be locked. False: they would be too many.
  bool count(std::int64_t bytes);
  void uncount(std::int64_t bytes) { bytes_ -= bytes; }
  std::int64_t bytes() const { return bytes_; }

  // Locks the pages that hold nothing but these pieces, where they are, until this goes: other memory that shared a
  // page with them could not be copied any more, because the driver refuses copies out of memory that is locked in
  // part. False, and nothing has changed: the system refuses.
  bool lock(std::vector<std::span<const std::byte>> pieces);
  // Locked memory for a copy. Null: there is none.
  std::byte* take(std::int64_t bytes);

  bool holds(const void* at, std::int64_t bytes) const;  // one copy can take it

 private:
  using Pages = std::map<std::uintptr_t, std::uintptr_t>;  // end by beginning

  std::int64_t most_;
  std::int64_t bytes_ = 0;
  bool refused_ = false;
  Pages pieces_;  // all that is locked, as the driver knows it
  Pages registered_;
  std::vector<PinnedBlock> copies_;
};

}  // namespace lectern::engine::cuda
