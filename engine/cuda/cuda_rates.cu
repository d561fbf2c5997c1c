// SPDX-License-Identifier: Apache-2.0
#include "cuda/cuda_rates.h"

#include <algorithm>
#include <array>
#include <string>

#include "cuda/device_memory.h"
#include "cuda/pass_values.h"
#include "cuda/platform.h"
#include "cuda/usable_device.h"

namespace lectern::engine {
namespace {

constexpr int kRepeats = 5;

// Times copies on a stream of its own.
class Stopwatch {
 public:
  Stopwatch() {
    note(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (cudaEvent_t& event : events_) note(cudaEventCreate(&event));
  }
  ~Stopwatch() {
    for (const cudaEvent_t event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  cudaError_t failure() const { return failure_; }

  // Of the fastest of some copies, the first of which does not count.
  double bytes_per_second(void* to, const void* from, std::int64_t bytes, cudaMemcpyKind kind) {
    float least = 0;
    for (int i = 0; i <= kRepeats && failure_ == cudaSuccess; ++i) {
      float milliseconds = 0;
      note(cudaEventRecord(events_[0], stream_));
      note(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, stream_));
      note(cudaEventRecord(events_[1], stream_));
      note(cudaStreamSynchronize(stream_));
      if (failure_ == cudaSuccess) note(cudaEventElapsedTime(&milliseconds, events_[0], events_[1]));
      if (i > 0 && milliseconds > 0) least = least > 0 ? std::min(least, milliseconds) : milliseconds;
    }
    return least > 0 ? 1000 * static_cast<double>(bytes) / double{least} : 0;
  }

 private:
  void note(cudaError_t code) {
    if (failure_ == cudaSuccess) failure_ = code;
  }

  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, 2> events_ = {};
  cudaError_t failure_ = cudaSuccess;
};

// Operations of dense BF16 products, sums in float, for one multiprocessor and cycle: NVIDIA's architecture papers. On
// 9.0 and 10.0 mma.sync, which the kernels use, gets about 0.6 of what wgmma and its successor do.
double operations_per_cycle(int major, int minor) {
  constexpr double kShareOfMmaSync = 0.6;
  if (major == 8) return minor == 0 ? 2048 : 1024;
  if (major == 9) return kShareOfMmaSync * 4096;
  if (major == 10) return kShareOfMmaSync * 8192;
  return 1024;
}

double peak_operations(const cudaDeviceProp& properties, int device) {
  int kilohertz = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, device) != cudaSuccess) {
    cudaGetLastError();  // not known, and no failure
    return 0;
  }
  return operations_per_cycle(properties.major, properties.minor) * properties.multiProcessorCount * 1e3 * kilohertz;
}

}  // namespace

Result<ExpectedRates> cuda_rates(int device) {
  constexpr std::int64_t kMostBytes = std::int64_t{128} << 20;  // beyond the caches
  ENGINE_TRY(const cudaDeviceProp properties, cuda::usable_device(device));
  const std::int64_t bytes = std::min(kMostBytes, static_cast<std::int64_t>(properties.totalGlobalMem / 256));
  const cuda::DeviceBlock from = cuda::DeviceBlock::take(bytes);
  const cuda::DeviceBlock to = cuda::DeviceBlock::take(bytes);
  const cuda::PinnedBlock host = cuda::PinnedBlock::take(bytes / 4);
  if (from.data() == nullptr || to.data() == nullptr || host.data() == nullptr) {
    return Error{ErrorCode::kOutOfMemory, "The GPU " + std::string(properties.name) +
                                              " has no room for a copy that shows how fast its memory is; close other "
                                              "programs that use it."};
  }
  Stopwatch watch;
  ExpectedRates rates;
  rates.memory_bytes_per_second = 2 * watch.bytes_per_second(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice);
  rates.transfer_bytes_per_second = watch.bytes_per_second(to.data(), host.data(), bytes / 4, cudaMemcpyHostToDevice);
  rates.operations_per_second = peak_operations(properties, device);
  if (watch.failure() != cudaSuccess) {
    return Error{ErrorCode::kDevice, "Measuring the GPU " + std::string(properties.name) + " failed (" +
                                         cudaGetErrorString(watch.failure()) +
                                         "); restart the computer or update the driver."};
  }
  return rates;
}

}  // namespace lectern::engine
