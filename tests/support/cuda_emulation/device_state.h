// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "support/cuda_emulation/cuda_emulation.h"
#include "support/cuda_emulation/device_memory.h"

// What stands behind the calls of the runtime, which only they see.
struct CUstream_st;  // NOLINT(readability-identifier-naming)

namespace lectern::engine::cuda::emulation {

enum class WorkKind : std::uint8_t { kLaunch, kCopy, kMark };

struct Work {
  WorkKind kind;
  std::size_t bytes = 0;
  std::function<void()> run;
  CUstream_st* stream = nullptr;
  std::shared_ptr<const bool> waits_for = nullptr;  // until it is true
  std::shared_ptr<const bool> sets = nullptr;       // what it makes true
  bool downloads = false;                           // a copy from the device to the host
};

}  // namespace lectern::engine::cuda::emulation

// NOLINTBEGIN(readability-identifier-naming): CUDA's own names
struct CUgraph_st {
  std::vector<lectern::engine::cuda::emulation::Work> work;
};

struct CUgraphExec_st {
  std::shared_ptr<const std::vector<lectern::engine::cuda::emulation::Work>> work;
};
// NOLINTEND(readability-identifier-naming)

namespace lectern::engine::cuda::emulation {

struct Capture {
  std::unique_ptr<CUgraph_st> graph = std::make_unique<CUgraph_st>();  // null when the capture has ended
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread = std::this_thread::get_id();
  cudaStream_t origin = nullptr;
  bool invalid = false;
};

}  // namespace lectern::engine::cuda::emulation

// NOLINTBEGIN(readability-identifier-naming): CUDA's own names
struct CUstream_st {
  unsigned flags = 0;
  std::shared_ptr<lectern::engine::cuda::emulation::Capture> capture;
  int device = 0;
};

struct CUevent_st {
  unsigned flags = 0;
  int device = 0;
  std::int64_t records = 0;
  std::int64_t reached = 0;          // the last of them that was
  std::shared_ptr<const bool> mark;  // of the last record: whether it has been reached
  CUstream_st* recorder = nullptr;   // its stream
  std::chrono::steady_clock::time_point time;
  std::shared_ptr<lectern::engine::cuda::emulation::Capture> capture;
};
// NOLINTEND(readability-identifier-naming)

namespace lectern::engine::cuda::emulation {

inline constexpr std::size_t kSharedByDefault = 48 << 10;
inline constexpr std::size_t kSharedAtMost = 227 << 10;

// Page-locked memory of the host.
struct Pinned {
  std::size_t bytes = 0;
  bool registered = false;
};

// What each device has of its own.
struct OneDevice {
  DeviceMemory memory;
  std::map<const void*, int> shared_allowed;
  std::set<int> peers;  // whose memory it may read
  CUstream_st default_stream;
  std::deque<Work> late;  // does not wait for other devices' unless told to
  cudaError_t sticky = cudaSuccess;
};

// The devices and their driver: one for all host threads.
struct Context {
  std::recursive_mutex mutex;
  Device device;
  std::array<OneDevice, kMostDevices> devices;
  std::map<std::uintptr_t, Pinned> pinned;
  std::vector<std::shared_ptr<Capture>> captures;
  Counters counters;
  Timing timing = Timing::kAtOnce;
  std::int64_t operations_left = 0;  // 0: none fails
  int failing_device = -1;
  cudaError_t failure = cudaSuccess;

  Context();
  OneDevice& chosen();  // by this host thread
  CUstream_st& stream(cudaStream_t stream) { return stream != nullptr ? *stream : chosen().default_stream; }
  OneDevice& device_of(cudaStream_t of) { return devices[static_cast<std::size_t>(stream(of).device)]; }
  // The device that holds these bytes; -1: none.
  int holder(const void* memory, std::size_t bytes) const;
  bool overruns(const void* memory, std::size_t bytes) const;
};

Context& context();
int& chosen_device();  // by this host thread

// Remembers an error for cudaGetLastError().
cudaError_t finished(cudaError_t error);
cudaError_t& last_error();  // of this host thread

// What every call answers whatever its arguments are.
cudaError_t state_of_driver(const Context& c);
cudaError_t state_of_device(const Context& c, const OneDevice& device);

// A call of the runtime: locks the devices and answers with the state of the chosen one, or of the stream's, when that
// is an error.
template <class Body>
cudaError_t call(Body body, cudaStream_t stream = nullptr) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  const cudaError_t state = state_of_device(c, c.device_of(stream));
  return finished(state != cudaSuccess ? state : body(c));
}

// --- for a context that is locked -----------------------------------------------------------------------------------
void count(Context& c, const Work& work);
bool fails(Context& c, cudaStream_t stream);  // counts down to the planted failure
void run_late(OneDevice& device);
void run_all_late(Context& c);
// What the device has to do; or a stream of it, as far as streams are apart, or the stream up to what sets `mark`.
cudaError_t synchronise(Context& c, OneDevice& device);
cudaError_t synchronise(Context& c, OneDevice& device, cudaStream_t stream,
                        const std::shared_ptr<const bool>& mark = nullptr);
// The same, but no call that is counted.
cudaError_t run_stream(Context& c, OneDevice& device, cudaStream_t stream, const std::shared_ptr<const bool>& mark);
bool streams_are_apart(const Context& c);
Capture* capture_of(Context& c, cudaStream_t stream);
// Calls that may wait or allocate, as far as a capture's mode forbids them; such a call spoils the capture.
cudaError_t forbid_during_captures(Context& c);
cudaError_t forbid_in_capture(Context& c, cudaStream_t stream);

// Runs the work, or keeps it for later or for a graph. The context must not be locked.
cudaError_t submit(cudaStream_t stream, Work work);

}  // namespace lectern::engine::cuda::emulation
