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

// The page-locked piece in which `memory` is.
const std::pair<const std::uintptr_t, Pinned>* pinned_at(const Context& c, const void* memory) {
  const auto at = reinterpret_cast<std::uintptr_t>(memory);
  auto next = c.pinned.upper_bound(at);
  if (next == c.pinned.begin()) return nullptr;
  const auto& piece = *std::prev(next);
  return at - piece.first < piece.second.bytes ? &piece : nullptr;
}

bool is_pinned(const Context& c, const void* memory, std::size_t bytes) {
  const auto* piece = pinned_at(c, memory);
  return piece != nullptr && bytes <= piece->second.bytes - (reinterpret_cast<std::uintptr_t>(memory) - piece->first);
}

// Partly in registered memory, or in two pieces of it, which the driver refuses.
bool crosses_registration(const Context& c, const void* memory, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  const auto* first = pinned_at(c, memory);
  const auto next = c.pinned.upper_bound(begin);
  if (first != nullptr && first->second.registered) return !is_pinned(c, memory, bytes);
  return next != c.pinned.end() && next->second.registered && next->first < begin + bytes;
}

std::size_t locked_bytes(const Context& c) {
  std::size_t sum = 0;
  for (const auto& [begin, piece] : c.pinned) sum += piece.bytes;
  return sum;
}

// Memory of another device than the stream's is for cudaMemcpyPeerAsync(), although CUDA would find its way.
bool sides_are_right(const Context& c, const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                     int device) {
  const int to_holder = c.holder(to, bytes);
  const int from_holder = c.holder(from, bytes);
  const bool to_device = to_holder >= 0;
  const bool from_device = from_holder >= 0;
  if (c.overruns(to, bytes) || c.overruns(from, bytes)) return false;
  if ((to_device && to_holder != device) || (from_device && from_holder != device)) return false;
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
  const bool from_device = c.holder(plane.from, from_bytes) >= 0;
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
  const auto check = [&](Context& c) {
    if (plane.to == nullptr || plane.from == nullptr) return cudaErrorInvalidValue;
    const int device = c.stream(stream).device;
    if (!sides_are_right(c, plane.to, plane.from, std::min(to_bytes, from_bytes), kind, device)) {
      return cudaErrorInvalidValue;
    }
    for (const auto& [side, bytes] :
         {std::pair<const void*, std::size_t>{plane.to, to_bytes}, {plane.from, from_bytes}}) {
      if (crosses_registration(c, side, bytes)) return cudaErrorInvalidValue;
    }
    if (const auto* piece = pinned_at(c, plane.from); piece != nullptr && piece->second.registered) {
      c.counters.copied_registered_bytes += static_cast<std::int64_t>(plane.width * plane.height);
    }
    const bool late = c.timing != Timing::kAtOnce && capture_of(c, stream) == nullptr;
    run = copy_work(c, plane, late);
    to_pageable = c.holder(plane.to, to_bytes) < 0 && !is_pinned(c, plane.to, to_bytes);
    downloads = c.holder(plane.from, from_bytes) >= 0 && c.holder(plane.to, to_bytes) < 0;
    return wait ? forbid_during_captures(c) : cudaSuccess;
  };
  const cudaError_t checked = call(check, stream);
  if (checked != cudaSuccess) return checked;
  Work work = {WorkKind::kCopy, plane.width * plane.height, std::move(run)};
  work.downloads = downloads;
  const cudaError_t submitted = submit(stream, std::move(work));
  if (submitted != cudaSuccess) return submitted;
  return call(
      [&](Context& c) {
        OneDevice& device = c.device_of(stream);
        if (wait) return synchronise(c, device);
        const bool waits = to_pageable && capture_of(c, stream) == nullptr;
        return waits ? run_stream(c, device, stream, nullptr) : device.sticky;
      },
      stream);
}

cudaError_t fill(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const cudaError_t checked = call(
      [&](Context& c) {
        const bool known = bytes == 0 || c.device_of(stream).memory.contains(to, bytes);
        return known ? cudaSuccess : cudaErrorInvalidValue;
      },
      stream);
  if (checked != cudaSuccess || bytes == 0) return checked;
  return submit(stream, {WorkKind::kCopy, bytes, [=] { std::memset(to, value, bytes); }});
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
    *memory = c.chosen().memory.allocate(bytes);
    return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}

// Gives the memory back even when the device is in an error state, as the end of the process would.
cudaError_t cudaFree(void* memory) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  if (memory == nullptr) return finished(state_of_device(c, c.chosen()));
  if (const cudaError_t error = forbid_during_captures(c); error != cudaSuccess) return finished(error);
  run_all_late(c);
  const int holder = c.holder(memory, 1);
  OneDevice& device = holder >= 0 ? c.devices[static_cast<std::size_t>(holder)] : c.chosen();
  const bool known = device.memory.release(memory);
  if (device.sticky != cudaSuccess) return finished(device.sticky);
  return finished(known ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned /*flags*/) {
  return call([&](Context& c) {
    if (memory == nullptr) return cudaErrorInvalidValue;
    *memory = nullptr;
    if (const cudaError_t error = forbid_during_captures(c); error != cudaSuccess) return error;
    if (bytes == 0) return cudaSuccess;
    ++c.counters.host_allocations;
    *memory = bytes + locked_bytes(c) > c.device.lockable_bytes
                  ? nullptr
                  : std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (*memory == nullptr) return cudaErrorMemoryAllocation;
    std::memset(*memory, 0xff, bytes);
    c.pinned[reinterpret_cast<std::uintptr_t>(*memory)] = {bytes, false};
    return cudaSuccess;
  });
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes, unsigned flags) {
  return cudaHostAlloc(memory, bytes, flags);
}

cudaError_t cudaFreeHost(void* memory) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  if (memory == nullptr) return finished(state_of_device(c, c.chosen()));
  run_all_late(c);
  if (c.pinned.erase(reinterpret_cast<std::uintptr_t>(memory)) == 0) return finished(cudaErrorInvalidValue);
  std::free(memory);
  return finished(c.chosen().sticky);
}

cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned /*flags*/) {
  return call([&](Context& c) {
    if (memory == nullptr || bytes == 0) return cudaErrorInvalidValue;
    if (const cudaError_t error = forbid_during_captures(c); error != cudaSuccess) return error;
    const auto begin = reinterpret_cast<std::uintptr_t>(memory);
    const auto next = c.pinned.upper_bound(begin);
    const bool overlaps = pinned_at(c, memory) != nullptr || (next != c.pinned.end() && next->first < begin + bytes);
    if (overlaps) return cudaErrorHostMemoryAlreadyRegistered;
    if (!c.device.locks_mappings) return cudaErrorInvalidValue;
    if (bytes + locked_bytes(c) > c.device.lockable_bytes) return cudaErrorMemoryAllocation;
    ++c.counters.host_allocations;
    c.pinned[begin] = {bytes, true};
    return cudaSuccess;
  });
}

// Even when the device is in an error state, as cudaFree().
cudaError_t cudaHostUnregister(void* memory) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  run_all_late(c);
  const auto known = c.pinned.find(reinterpret_cast<std::uintptr_t>(memory));
  const bool registered = known != c.pinned.end() && known->second.registered;
  if (registered) c.pinned.erase(known);
  if (c.chosen().sticky != cudaSuccess) return finished(c.chosen().sticky);
  return finished(registered ? cudaSuccess : cudaErrorHostMemoryNotRegistered);
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

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, std::size_t bytes,
                                cudaStream_t stream) {
  if (bytes == 0) return call([](Context&) { return cudaSuccess; }, stream);
  const cudaError_t checked = call(
      [&](Context& c) {
        const int device = c.stream(stream).device;
        if (device != to_device && device != from_device) return cudaErrorInvalidResourceHandle;
        const bool right = c.holder(to, bytes) == to_device && c.holder(from, bytes) == from_device;
        if (right) ++c.counters.peer_copies;
        return right ? cudaSuccess : cudaErrorInvalidValue;
      },
      stream);
  if (checked != cudaSuccess) return checked;
  return submit(stream, {WorkKind::kCopy, bytes, [=] { std::memcpy(to, from, bytes); }});
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) { return fill(to, value, bytes, nullptr); }

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return fill(to, value, bytes, stream);
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  return call([&](Context& c) {
    const DeviceMemory& memory = c.chosen().memory;
    *total_bytes = memory.total();
    *free_bytes = memory.total() - std::min(memory.used(), memory.total());
    return cudaSuccess;
  });
}
// NOLINTEND(readability-identifier-naming)
