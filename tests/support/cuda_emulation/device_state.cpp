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

cudaError_t run_now(Context& c, std::unique_lock<std::recursive_mutex>& lock, const Work& work) {
  if (c.timing == Timing::kLate) {
    c.late.push_back(work);
    return cudaSuccess;
  }
  lock.unlock();
  work.run();
  lock.lock();
  return cudaSuccess;
}

bool shape_is_possible(const Context& c, const Shape& shape, const void* kernel) {
  const std::uint64_t threads = std::uint64_t{shape.threads.x} * shape.threads.y * shape.threads.z;
  if (threads == 0 || threads > 1024 || shape.threads.x > 1024 || shape.threads.y > 1024 || shape.threads.z > 64) {
    return false;
  }
  if (shape.blocks.x == 0 || shape.blocks.y == 0 || shape.blocks.z == 0) return false;
  if (shape.blocks.x > 0x7fffffffU || shape.blocks.y > 65535 || shape.blocks.z > 65535) return false;
  const auto allowed = c.shared_allowed.find(kernel);
  return shape.shared_bytes <= (allowed == c.shared_allowed.end()
                                    ? kSharedByDefault
                                    : std::max(kSharedByDefault, static_cast<std::size_t>(allowed->second)));
}

}  // namespace

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

cudaError_t state_of_device(const Context& c) {
  if (c.device.driver_version == 0 || c.device.driver_version / 1000 < CUDART_VERSION / 1000) {
    return cudaErrorInsufficientDriver;
  }
  if (c.device.count == 0) return cudaErrorNoDevice;
  return c.sticky;
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

bool fails(Context& c) {
  if (c.operations_left == 0 || --c.operations_left > 0) return false;
  c.sticky = c.failure;
  return true;
}

void run_late(Context& c) {
  while (!c.late.empty() && c.sticky == cudaSuccess) {
    const Work work = std::move(c.late.front());
    c.late.pop_front();
    work.run();
  }
  if (c.sticky != cudaSuccess) c.late.clear();
}

Capture* capture_of(Context& c, cudaStream_t stream) {
  Capture* capture = (stream != nullptr ? stream : &c.default_stream)->capture.get();
  return capture != nullptr && capture->graph != nullptr ? capture : nullptr;
}

cudaError_t submit(cudaStream_t stream, Work work) {
  Context& c = context();
  std::unique_lock lock(c.mutex);
  if (const cudaError_t state = state_of_device(c); state != cudaSuccess) return finished(state);
  if (Capture* capture = capture_of(c, stream)) {
    if (capture->invalid) return finished(cudaErrorStreamCaptureInvalidated);
    capture->graph->work.push_back(std::move(work));
    return cudaSuccess;
  }
  if (breaks_a_capture(c, stream)) return finished(cudaErrorStreamCaptureImplicit);
  if (work.kind != WorkKind::kMark && fails(c)) return finished(c.sticky);
  count(c, work);
  return finished(run_now(c, lock, work));
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

cudaError_t synchronise(Context& c) {
  ++c.counters.synchronisations;
  run_late(c);
  return c.sticky;
}

// --- what tests turn and read ---------------------------------------------------------------------------------------

void set_device(const Device& device) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  c.device = device;
  c.memory.set_total(device.memory_bytes);
}

void set_timing(Timing timing) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  run_late(c);
  c.timing = timing;
}

void fail_after(std::int64_t operations, cudaError_t error) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  c.operations_left = operations;
  c.failure = error;
}

void reset() {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  run_late(c);
  c.sticky = cudaSuccess;
  c.operations_left = 0;
  c.timing = Timing::kAtOnce;
  c.device = Device();
  c.memory.set_total(c.device.memory_bytes);
  c.counters = Counters();
  last_error() = cudaSuccess;
  set_thread_order(ThreadOrder::kForward);
  set_cublas({});
}

Counters counters() {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  Counters result = c.counters;
  result.allocated_bytes = static_cast<std::int64_t>(c.memory.used());
  return result;
}

std::string check_guards() {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  return c.memory.damage();
}

cudaError_t launch_body(cudaStream_t stream, const Shape& shape, const void* kernel, std::function<void()> body) {
  const cudaError_t checked = call(
      [&](Context& c) { return shape_is_possible(c, shape, kernel) ? cudaSuccess : cudaErrorInvalidConfiguration; });
  if (checked != cudaSuccess) return checked;
  return submit(stream, {WorkKind::kLaunch, 0, [shape, body = std::move(body)] { execute(shape, body); }});
}

}  // namespace lectern::engine::cuda::emulation
