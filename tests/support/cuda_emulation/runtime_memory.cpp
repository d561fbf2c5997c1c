// SPDX-License-Identifier: GPL-3.0-or-later
// Memory of the device, of the host, and copies between them.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <utility>
#include <vector>

#include "support/cuda_emulation/device_state.h"

namespace lectern::engine::cuda::emulation {
namespace {

bool is_pinned(const Context& c, const void* memory, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(memory);
  auto next = c.pinned.upper_bound(at);
  if (next == c.pinned.begin()) return false;
  const auto& [begin, size] = *std::prev(next);
  return at - begin <= size && bytes <= size - (at - begin);
}

bool sides_are_right(const Context& c, const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = c.memory.contains(to, bytes);
  const bool from_device = c.memory.contains(from, bytes);
  if (c.memory.overruns(to, bytes) || c.memory.overruns(from, bytes)) return false;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    default:
      return true;
  }
}

struct Plane {
  void* to;
  std::size_t to_pitch;
  const void* from;
  std::size_t from_pitch;
  std::size_t width;
  std::size_t height;
};

void copy_plane(const Plane& plane) {
  for (std::size_t row = 0; row < plane.height; ++row) {
    std::memmove(static_cast<unsigned char*>(plane.to) + row * plane.to_pitch,
                 static_cast<const unsigned char*>(plane.from) + row * plane.from_pitch, plane.width);
  }
}

// Host memory that is not pinned is read before the call returns, except in a capture.
std::function<void()> copy_work(const Context& c, const Plane& plane, bool keep) {
  const std::size_t from_bytes = (plane.height - 1) * plane.from_pitch + plane.width;
  const bool from_device = c.memory.contains(plane.from, from_bytes);
  if (!keep || from_device || is_pinned(c, plane.from, from_bytes)) return [plane] { copy_plane(plane); };
  const auto* begin = static_cast<const unsigned char*>(plane.from);
  return [plane, staged = std::vector<unsigned char>(begin, begin + from_bytes)] {
    Plane from_staged = plane;
    from_staged.from = staged.data();
    copy_plane(from_staged);
  };
}

cudaError_t copy(const Plane& plane, cudaMemcpyKind kind, cudaStream_t stream, bool wait) {
  if (plane.width == 0 || plane.height == 0) return call([](Context&) { return cudaSuccess; });
  if (plane.to_pitch < plane.width || plane.from_pitch < plane.width) return finished(cudaErrorInvalidValue);
  std::function<void()> run;
  bool to_pageable = false;
  bool downloads = false;
  const std::size_t to_bytes = (plane.height - 1) * plane.to_pitch + plane.width;
  const std::size_t from_bytes = (plane.height - 1) * plane.from_pitch + plane.width;
  const cudaError_t checked = call([&](Context& c) {
    if (plane.to == nullptr || plane.from == nullptr) return cudaErrorInvalidValue;
    if (!sides_are_right(c, plane.to, plane.from, std::min(to_bytes, from_bytes), kind)) return cudaErrorInvalidValue;
    const bool late = c.timing == Timing::kLate && capture_of(c, stream) == nullptr;
    run = copy_work(c, plane, late);
    to_pageable = !c.memory.contains(plane.to, to_bytes) && !is_pinned(c, plane.to, to_bytes);
    downloads = c.memory.contains(plane.from, from_bytes) && !c.memory.contains(plane.to, to_bytes);
    return wait ? forbid_during_captures(c) : cudaSuccess;
  });
  if (checked != cudaSuccess) return checked;
  const cudaError_t submitted =
      submit(stream, {WorkKind::kCopy, plane.width * plane.height, std::move(run), downloads});
  if (submitted != cudaSuccess) return submitted;
  return call([&](Context& c) {
    if (wait) return synchronise(c);
    if (to_pageable && capture_of(c, stream) == nullptr) run_late(c);
    return c.sticky;
  });
}

cudaError_t fill(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const cudaError_t checked = call(
      [&](Context& c) { return bytes == 0 || c.memory.contains(to, bytes) ? cudaSuccess : cudaErrorInvalidValue; });
  if (checked != cudaSuccess || bytes == 0) return checked;
  return submit(stream, {WorkKind::kCopy, bytes, [=] { std::memset(to, value, bytes); }, false});
}

}  // namespace

}  // namespace lectern::engine::cuda::emulation

// NOLINTBEGIN(readability-identifier-naming): CUDA's own names
using namespace lectern::engine::cuda::emulation;

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  return call([&](Context& c) {
    if (memory == nullptr) return cudaErrorInvalidValue;
    *memory = nullptr;
    if (const cudaError_t error = forbid_during_captures(c); error != cudaSuccess) return error;
    if (bytes == 0) return cudaSuccess;
    ++c.counters.allocations;
    *memory = c.memory.allocate(bytes);
    return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}

// Gives the memory back even when the device is in an error state, as the end of the process would.
cudaError_t cudaFree(void* memory) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  if (memory == nullptr) return finished(state_of_device(c));
  if (const cudaError_t error = forbid_during_captures(c); error != cudaSuccess) return finished(error);
  run_late(c);
  const bool known = c.memory.release(memory);
  if (c.sticky != cudaSuccess) return finished(c.sticky);
  return finished(known ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned /*flags*/) {
  return call([&](Context& c) {
    if (memory == nullptr) return cudaErrorInvalidValue;
    *memory = nullptr;
    if (const cudaError_t error = forbid_during_captures(c); error != cudaSuccess) return error;
    if (bytes == 0) return cudaSuccess;
    *memory = bytes > std::size_t{1} << 46 ? nullptr : std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (*memory == nullptr) return cudaErrorMemoryAllocation;
    std::memset(*memory, 0xff, bytes);
    c.pinned[reinterpret_cast<std::uintptr_t>(*memory)] = bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes, unsigned flags) {
  return cudaHostAlloc(memory, bytes, flags);
}

cudaError_t cudaFreeHost(void* memory) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  if (memory == nullptr) return finished(state_of_device(c));
  run_late(c);
  if (c.pinned.erase(reinterpret_cast<std::uintptr_t>(memory)) == 0) return finished(cudaErrorInvalidValue);
  std::free(memory);
  return finished(c.sticky);
}

cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned /*flags*/) {
  return call([&](Context& c) {
    if (memory == nullptr || bytes == 0) return cudaErrorInvalidValue;
    if (const cudaError_t error = forbid_during_captures(c); error != cudaSuccess) return error;
    if (is_pinned(c, memory, 1)) return cudaErrorHostMemoryAlreadyRegistered;
    c.pinned[reinterpret_cast<std::uintptr_t>(memory)] = bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaHostUnregister(void* memory) {
  return call([&](Context& c) {
    run_late(c);
    const bool known = c.pinned.erase(reinterpret_cast<std::uintptr_t>(memory)) > 0;
    return known ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return copy({to, bytes, from, bytes, bytes, 1}, kind, nullptr, true);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy({to, bytes, from, bytes, bytes, 1}, kind, stream, false);
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy({to, to_pitch, from, from_pitch, width, height}, kind, stream, false);
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) { return fill(to, value, bytes, nullptr); }

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return fill(to, value, bytes, stream);
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  return call([&](Context& c) {
    *total_bytes = c.memory.total();
    *free_bytes = c.memory.total() - std::min(c.memory.used(), c.memory.total());
    return cudaSuccess;
  });
}
// NOLINTEND(readability-identifier-naming)
