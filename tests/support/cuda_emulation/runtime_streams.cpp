// SPDX-License-Identifier: GPL-3.0-or-later
// Streams, events and graphs.
#include <chrono>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "support/cuda_emulation/device_state.h"

// NOLINTBEGIN(readability-identifier-naming): CUDA's own names
using namespace lectern::engine::cuda::emulation;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call([&](Context&) {
    *stream = new CUstream_st{flags, nullptr, chosen_device()};
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return finished(cudaErrorInvalidResourceHandle);
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  run_all_late(c);
  const cudaError_t state = c.device_of(stream).sticky;
  if (stream->capture) std::erase(c.captures, stream->capture);
  delete stream;
  return finished(state);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call(
      [&](Context& c) {
        const cudaError_t error = forbid_in_capture(c, stream);
        return error != cudaSuccess ? error : synchronise(c, c.device_of(stream), stream);
      },
      stream);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return call(
      [&](Context& c) {
        if (const cudaError_t error = forbid_in_capture(c, stream); error != cudaSuccess) return error;
        return c.device_of(stream).late.empty() ? cudaSuccess : cudaErrorNotReady;
      },
      stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  bool elsewhere = false;
  const cudaError_t checked = call(
      [&](Context& c) {
        if (event == nullptr) return cudaErrorInvalidResourceHandle;
        CUstream_st& waiting = c.stream(stream);
        if (event->capture) waiting.capture = event->capture;  // the stream joins the capture
        if (waiting.capture) return cudaSuccess;
        elsewhere = event->device != waiting.device;
        // Otherwise a device does its work in the order in which it was submitted, whatever its stream.
        if (!elsewhere && streams_are_apart(c) && event->mark != nullptr) {
          c.device_of(stream).late.push_back({WorkKind::kMark, 0, [] {}, stream, event->mark});
        }
        return cudaSuccess;
      },
      stream);
  if (checked != cudaSuccess || !elsewhere) return checked;
  return submit(stream, {WorkKind::kMark, 0, [event, record = event->records] {
                           Context& c = context();
                           const std::lock_guard lock(c.mutex);
                           OneDevice& other = c.devices[static_cast<std::size_t>(event->device)];
                           while (event->reached < record && !other.late.empty()) {
                             const Work work = std::move(other.late.front());
                             other.late.pop_front();
                             work.run();
                           }
                         }});
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call([&](Context&) {
    *event = new CUevent_st;
    (*event)->flags = flags;
    (*event)->device = chosen_device();
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const cudaError_t checked = call(
      [&](Context& c) {
        CUstream_st& recording = c.stream(stream);
        if (event == nullptr || event->device != recording.device) return cudaErrorInvalidResourceHandle;
        event->capture = recording.capture;
        ++event->records;
        if (recording.capture != nullptr) event->reached = event->records;
        return cudaSuccess;
      },
      stream);
  if (checked != cudaSuccess || event->capture) return checked;
  const auto reached = std::make_shared<bool>(false);
  event->mark = reached;
  event->recorder = stream;
  Work mark = {WorkKind::kMark, 0, [event, reached, record = event->records] {
                 *reached = true;
                 event->reached = record;
                 event->time = std::chrono::steady_clock::now();
               }};
  mark.sets = reached;
  return submit(stream, std::move(mark));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call([&](Context& c) {
    if (event->capture) return cudaErrorStreamCaptureUnsupported;
    if (event->mark == nullptr) return cudaSuccess;
    return synchronise(c, c.devices[static_cast<std::size_t>(event->device)], event->recorder, event->mark);
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call([&](Context&) {
    if (event->capture) return cudaErrorStreamCaptureUnsupported;
    return event->reached == event->records ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return call([&](Context&) {
    const bool timed = ((start->flags | end->flags) & cudaEventDisableTiming) == 0;
    if (!timed || start->records == 0 || end->records == 0) return cudaErrorInvalidResourceHandle;
    if (start->reached < start->records || end->reached < end->records) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  run_all_late(c);
  delete event;
  return finished(c.chosen().sticky);
}

// --- graphs ---------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call([&](Context& c) {
    if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture) return cudaErrorStreamCaptureUnmatched;
    stream->capture = std::make_shared<Capture>();
    stream->capture->mode = mode;
    stream->capture->origin = stream;
    c.captures.push_back(stream->capture);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  return call([&](Context& c) {
    if (stream == nullptr || !stream->capture || stream->capture->origin != stream) {
      return cudaErrorStreamCaptureUnmatched;
    }
    const std::shared_ptr<Capture> capture = std::exchange(stream->capture, nullptr);
    std::erase(c.captures, capture);
    if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
    *graph = capture->graph.release();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return call([&](Context& c) {
    const Capture* capture = capture_of(c, stream);
    *status = capture == nullptr ? cudaStreamCaptureStatusNone
              : capture->invalid ? cudaStreamCaptureStatusInvalidated
                                 : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long /*flags*/) {
  return call([&](Context&) {
    if (graph == nullptr) return cudaErrorInvalidValue;
    *executable = new CUgraphExec_st{std::make_shared<const std::vector<Work>>(graph->work)};
    return cudaSuccess;
  });
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* result) {
  return call([&](Context&) {
    if (executable == nullptr || graph == nullptr) return cudaErrorInvalidValue;
    executable->work = std::make_shared<const std::vector<Work>>(graph->work);
    if (result != nullptr) result->result = cudaGraphExecUpdateSuccess;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t /*stream*/) {
  return call([&](Context&) { return executable != nullptr ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (executable == nullptr) return finished(cudaErrorInvalidValue);
  const cudaError_t checked = call([&](Context& c) {
    if (c.stream(stream).device != chosen_device()) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = forbid_in_capture(c, stream); error != cudaSuccess) return error;
    ++c.counters.graph_launches;
    return fails(c, stream) ? c.chosen().sticky : cudaSuccess;
  });
  if (checked != cudaSuccess) return checked;
  const std::shared_ptr<const std::vector<Work>> work = executable->work;
  return submit(stream, {WorkKind::kMark, 0, [work] {
                           for (const Work& part : *work) {
                             {
                               Context& c = context();
                               const std::lock_guard lock(c.mutex);
                               count(c, part);
                             }
                             part.run();
                           }
                         }});
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
// NOLINTEND(readability-identifier-naming)
