// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "support/cuda_emulation/collectives.h"
#include "support/cuda_emulation/execution.h"
#include "support/cuda_emulation/language.h"
#include "support/cuda_emulation/runtime_api.h"

// CUDA on the host, for tests: what cuda/platform.h needs, and what tests turn and read.
namespace lectern::engine::cuda::emulation {

struct Device {
  std::size_t memory_bytes = std::size_t{4} << 30;
  int count = 1;
  int major = 9;
  int minor = 0;
  int multiprocessors = 132;
  int driver_version = CUDART_VERSION;                // 0: none installed
  bool peers = true;                                  // several can read each other's memory
  bool locks_mappings = true;                         // by cudaHostRegister(), which takes all memory for some
  std::size_t lockable_bytes = std::size_t{1} << 46;  // of the host's memory
};
inline constexpr int kMostDevices = 4;

// For machines that have other devices than the default: before the first call of the runtime, or after reset().
void set_device(const Device& device);

// Of one of several devices, which then differs from the others.
void set_memory(int device, std::size_t bytes);

// Whether a launch or a copy runs at once, or only when something waits for it, as late as a device may. kLate keeps
// the order of the calls. With the others, streams of a device are as far apart as their events allow: while one is
// waited for, the others get as far as they can before each of its steps, or do nothing but what it waits for.
enum class Timing { kAtOnce, kLate, kOthersFirst, kOthersLast };
void set_timing(Timing timing);

// The n-th launch or copy from now on (1: the next one), of those on `device` (-1: any), fails, and from then on every
// call that concerns its device, until reset().
void fail_after(std::int64_t operations, cudaError_t error, int device = -1);

// Forgets errors, settings and counters; memory, streams and events stay.
void reset();

struct Counters {
  std::int64_t launches = 0;  // of kernels, those of graphs included
  std::int64_t graph_launches = 0;
  std::int64_t copies = 0;  // fills included
  std::int64_t copied_bytes = 0;
  std::int64_t downloaded_bytes = 0;  // of these, from the device to the host
  std::int64_t allocations = 0;       // of device memory
  std::int64_t allocated_bytes = 0;   // now
  std::int64_t synchronisations = 0;
  std::int64_t peer_copies = 0;
  std::int64_t host_allocations = 0;         // page-locked, or made so
  std::int64_t registered_bytes = 0;         // of the host's memory, now
  std::int64_t copied_registered_bytes = 0;  // straight out of it
};
Counters counters();
std::int64_t allocated_bytes(int device);  // now

// Empty when no memory around an allocation was written to, since the last call of this; else what was hit.
std::string check_guards();

// What may be addresses among a kernel's arguments.
using Words = std::vector<std::uintptr_t>;
static_assert(alignof(std::uintptr_t) == sizeof(std::uintptr_t));
template <class Argument>
void add_words(Words& words, const Argument& argument) {
  if constexpr (alignof(Argument) % alignof(std::uintptr_t) == 0) {
    const std::size_t first = words.size();
    words.resize(first + sizeof argument / alignof(std::uintptr_t));
    std::memcpy(words.data() + first, &argument, sizeof argument);
  }
}

// Errors: cudaErrorInvalidResourceHandle (another device than the stream's is chosen), cudaErrorIllegalAddress (an
// argument points to another device's memory; CUDA would allow it between peers, but slowly).
cudaError_t launch_body(cudaStream_t stream, const Shape& shape, const void* kernel, const Words& arguments,
                        std::function<void()> body);

template <class... Parameters>
cudaError_t launch(cudaStream_t stream, dim3 blocks, dim3 threads, std::size_t shared_bytes,
                   void (*kernel)(Parameters...), std::type_identity_t<Parameters>... arguments) {
  Words words;
  (add_words(words, arguments), ...);
  return launch_body(stream, {blocks, threads, shared_bytes}, reinterpret_cast<const void*>(kernel), words,
                     [kernel, arguments...] { kernel(arguments...); });
}

}  // namespace lectern::engine::cuda::emulation
