// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>

#include "support/cuda_emulation/language.h"

// Runs grids: every thread of a block is a fiber that runs until it waits for others or ends. Blocks follow one another
// on the calling host thread, so no block may wait for another one.
namespace lectern::engine::cuda::emulation {

// A mistake of a kernel, such as threads that wait for others that never come. Leaves launch().
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class ThreadOrder { kForward, kReverse, kShuffled };

// In which order the lanes of a warp, the warps of a block and the blocks of a grid get their turn; for all host
// threads. What depends on it lacks a barrier.
void set_thread_order(ThreadOrder order, std::uint32_t seed = 1);

struct Shape {
  dim3 blocks;
  dim3 threads;
  std::size_t shared_bytes = 0;
};

// `body` is the kernel with its arguments, called once per thread.
void execute(const Shape& shape, const std::function<void()>& body);

}  // namespace lectern::engine::cuda::emulation
