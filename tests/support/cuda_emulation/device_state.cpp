// SPDX-License-Identifier: GPL-3.0-or-later
#include "support/cuda_emulation/device_state.h"

#include <algorithm>
#include <string>
#include <utility>

#include "support/cuda_emulation/cublas_lt.h"

namespace lectern::engine::cuda::emulation {
namespace {

// The default stream waits for all others but the "non-blocking" ones, which none of those in a capture may be made to.
bool breaks_a_capture(Context& c, cudaStream_t stream) {
  if (stream != nullptr) return false;
  return std::any_of(c.captures.begin(), c.captures.end(), [](const auto& capture) {
    return capture->mode != cudaStreamCaptureModeRelaxed && (capture->origin->flags & cudaStreamNonBlocking) == 0;
  });
}

cudaError_t run_now(Context& c, OneDevice& device, std::unique_lock<std::recursive_mutex>& lock, const Work& work) {
  if (c.timing != Timing::kAtOnce) {
    device.late.push_back(work);
    return cudaSuccess;
  }
  lock.unlock();
  work.run();
  lock.lock();
  return cudaSuccess;
}

bool shape_is_possible(const OneDevice& device, const Shape& shape, const void* kernel) {
  const std::uint64_t threads = std::uint64_t{shape.threads.x} * shape.threads.y * shape.threads.z;
  if (threads == 0 || threads > 1024 || shape.threads.x > 1024 || shape.threads.y > 1024 || shape.threads.z > 64) {
    return false;
  }
  if (shape.blocks.x == 0 || shape.blocks.y == 0 || shape.blocks.z == 0) return false;
  if (shape.blocks.x > 0x7fffffffU || shape.blocks.y > 65535 || shape.blocks.z > 65535) return false;
  const auto allowed = device.shared_allowed.find(kernel);
  return shape.shared_bytes <= (allowed == device.shared_allowed.end()
                                    ? kSharedByDefault
                                    : std::max(kSharedByDefault, static_cast<std::size_t>(allowed->second)));
}

bool points_elsewhere(const Context& c, const Words& arguments, int device) {
  return std::any_of(arguments.begin(), arguments.end(), [&](std::uintptr_t word) {
    const int holder = c.holder(reinterpret_cast<const void*>(word), 1);
    return holder >= 0 && holder != device;
  });
}

}  // namespace

Context::Context() {
  for (std::size_t i = 0; i < devices.size(); ++i) {
    devices[i].memory.set_total(device.memory_bytes);
    devices[i].default_stream.device = static_cast<int>(i);
  }
}

OneDevice& Context::chosen() { return devices[static_cast<std::size_t>(chosen_device())]; }

int Context::holder(const void* memory, std::size_t bytes) const {
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (devices[i].memory.contains(memory, bytes)) return static_cast<int>(i);
  }
  return -1;
}

bool Context::overruns(const void* memory, std::size_t bytes) const {
  return std::any_of(devices.begin(), devices.end(),
                     [&](const OneDevice& one) { return one.memory.overruns(memory, bytes); });
}

int& chosen_device() {
  thread_local int device = 0;
  return device;
}

Context& context() {
  static Context instance;
  return instance;
}

cudaError_t& last_error() {
  thread_local cudaError_t error = cudaSuccess;
  return error;
}

cudaError_t finished(cudaError_t error) {
  if (error != cudaSuccess) last_error() = error;
  return error;
}

cudaError_t state_of_driver(const Context& c) {
  if (c.device.driver_version == 0 || c.device.driver_version / 1000 < CUDART_VERSION / 1000) {
    return cudaErrorInsufficientDriver;
  }
  return c.device.count == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t state_of_device(const Context& c, const OneDevice& device) {
  const cudaError_t state = state_of_driver(c);
  return state != cudaSuccess ? state : device.sticky;
}

// --- work -----------------------------------------------------------------------------------------------------------

void count(Context& c, const Work& work) {
  if (work.kind == WorkKind::kLaunch) ++c.counters.launches;
  if (work.kind == WorkKind::kCopy) {
    ++c.counters.copies;
    c.counters.copied_bytes += static_cast<std::int64_t>(work.bytes);
    if (work.downloads) c.counters.downloaded_bytes += static_cast<std::int64_t>(work.bytes);
  }
}

bool fails(Context& c, cudaStream_t stream) {
  if (c.failing_device >= 0 && c.failing_device != c.stream(stream).device) return false;
  if (c.operations_left == 0 || --c.operations_left > 0) return false;
  c.device_of(stream).sticky = c.failure;
  return true;
}

void run_late(OneDevice& device) {
  while (!device.late.empty() && device.sticky == cudaSuccess) {
    const Work work = std::move(device.late.front());
    device.late.pop_front();
    work.run();
  }
  if (device.sticky != cudaSuccess) device.late.clear();
}

void run_all_late(Context& c) {
  for (OneDevice& device : c.devices) run_late(device);
}

Capture* capture_of(Context& c, cudaStream_t stream) {
  Capture* capture = c.stream(stream).capture.get();
  return capture != nullptr && capture->graph != nullptr ? capture : nullptr;
}

cudaError_t submit(cudaStream_t stream, Work work) {
  Context& c = context();
  std::unique_lock lock(c.mutex);
  OneDevice& device = c.device_of(stream);
  if (const cudaError_t state = state_of_device(c, device); state != cudaSuccess) return finished(state);
  if (Capture* capture = capture_of(c, stream)) {
    if (capture->invalid) return finished(cudaErrorStreamCaptureInvalidated);
    capture->graph->work.push_back(std::move(work));
    return cudaSuccess;
  }
  if (breaks_a_capture(c, stream)) return finished(cudaErrorStreamCaptureImplicit);
  work.stream = stream;
  if (work.kind != WorkKind::kMark && fails(c, stream)) return finished(device.sticky);
  count(c, work);
  return finished(run_now(c, device, lock, work));
}

// --- what must not be done during a capture -------------------------------------------------------------------------

cudaError_t forbid_during_captures(Context& c) {
  for (const auto& capture : c.captures) {
    const bool concerns =
        capture->mode == cudaStreamCaptureModeGlobal ||
        (capture->mode == cudaStreamCaptureModeThreadLocal && capture->thread == std::this_thread::get_id());
    if (!concerns) continue;
    capture->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  return cudaSuccess;
}

cudaError_t forbid_in_capture(Context& c, cudaStream_t stream) {
  Capture* capture = capture_of(c, stream);
  if (capture == nullptr) return cudaSuccess;
  capture->invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t synchronise(Context& c, OneDevice& device) {
  ++c.counters.synchronisations;
  run_late(device);
  return device.sticky;
}

namespace {

using Late = std::deque<Work>::iterator;

Late first_of(OneDevice& device, cudaStream_t stream) {
  return std::find_if(device.late.begin(), device.late.end(),
                      [stream](const Work& work) { return work.stream == stream; });
}

bool is_blocked(const Work& work) { return work.waits_for != nullptr && !*work.waits_for; }

void run_at(OneDevice& device, Late at) {
  const Work work = std::move(*at);
  device.late.erase(at);
  work.run();
}

// A stream's next work, and before it what that waits for.
void run_first_of(OneDevice& device, cudaStream_t stream) {
  Late at = first_of(device, stream);
  while (is_blocked(*at)) {
    const auto sets = std::find_if(device.late.begin(), device.late.end(),
                                   [&at](const Work& work) { return work.sets == at->waits_for; });
    run_first_of(device, sets->stream);
    at = first_of(device, stream);
  }
  run_at(device, at);
}

// Whatever the other streams can do without this one, each as much as it can before the next.
void run_others(OneDevice& device, cudaStream_t stream) {
  std::deque<Work>& late = device.late;
  for (Late at = late.begin(); at != late.end();) {
    const cudaStream_t other = at->stream;
    if (other == stream || first_of(device, other) != at || is_blocked(*at)) {
      ++at;
      continue;
    }
    for (; at != late.end() && !is_blocked(*at); at = first_of(device, other)) run_at(device, at);
    at = late.begin();  // others may have waited for what has been done
  }
}

}  // namespace

bool streams_are_apart(const Context& c) { return c.timing == Timing::kOthersFirst || c.timing == Timing::kOthersLast; }

cudaError_t run_stream(Context& c, OneDevice& device, cudaStream_t stream, const std::shared_ptr<const bool>& mark) {
  if (!streams_are_apart(c)) {
    run_late(device);
    return device.sticky;
  }
  while (device.sticky == cudaSuccess && (mark == nullptr || !*mark) && first_of(device, stream) != device.late.end()) {
    if (c.timing == Timing::kOthersFirst) run_others(device, stream);
    run_first_of(device, stream);
  }
  if (device.sticky != cudaSuccess) device.late.clear();
  return device.sticky;
}

cudaError_t synchronise(Context& c, OneDevice& device, cudaStream_t stream, const std::shared_ptr<const bool>& mark) {
  ++c.counters.synchronisations;
  return run_stream(c, device, stream, mark);
}

// --- what tests turn and read ---------------------------------------------------------------------------------------

void set_device(const Device& device) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  c.device = device;
  for (OneDevice& one : c.devices) one.memory.set_total(device.memory_bytes);
}

void set_memory(int device, std::size_t bytes) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  c.devices[static_cast<std::size_t>(device)].memory.set_total(bytes);
}

void set_timing(Timing timing) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  run_all_late(c);
  c.timing = timing;
}

void fail_after(std::int64_t operations, cudaError_t error, int device) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  c.operations_left = operations;
  c.failure = error;
  c.failing_device = device;
}

void reset() {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  run_all_late(c);
  chosen_device() = 0;
  c.operations_left = 0;
  c.timing = Timing::kAtOnce;
  c.device = Device();
  for (OneDevice& one : c.devices) {
    one.sticky = cudaSuccess;
    one.peers.clear();
    one.memory.set_total(c.device.memory_bytes);
  }
  c.counters = Counters();
  last_error() = cudaSuccess;
  set_thread_order(ThreadOrder::kForward);
  set_cublas({});
}

Counters counters() {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  Counters result = c.counters;
  for (const OneDevice& one : c.devices) result.allocated_bytes += static_cast<std::int64_t>(one.memory.used());
  for (const auto& [begin, pinned] : c.pinned) {
    if (pinned.registered) result.registered_bytes += static_cast<std::int64_t>(pinned.bytes);
  }
  return result;
}

std::int64_t allocated_bytes(int device) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  return static_cast<std::int64_t>(c.devices[static_cast<std::size_t>(device)].memory.used());
}

std::string check_guards() {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  std::string damage;
  for (OneDevice& one : c.devices) damage += one.memory.damage();
  return damage;
}

cudaError_t launch_body(cudaStream_t stream, const Shape& shape, const void* kernel, const Words& arguments,
                        std::function<void()> body) {
  const cudaError_t checked = call(
      [&](Context& c) {
        if (c.stream(stream).device != chosen_device()) return cudaErrorInvalidResourceHandle;
        if (!shape_is_possible(c.chosen(), shape, kernel)) return cudaErrorInvalidConfiguration;
        if (!points_elsewhere(c, arguments, chosen_device())) return cudaSuccess;
        return c.chosen().sticky = cudaErrorIllegalAddress;
      },
      stream);
  if (checked != cudaSuccess) return checked;
  return submit(stream, {WorkKind::kLaunch, 0, [shape, body = std::move(body)] { execute(shape, body); }});
}

}  // namespace lectern::engine::cuda::emulation
