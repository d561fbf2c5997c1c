// SPDX-License-Identifier: GPL-3.0-or-later
#include "device_rates.h"

#include <algorithm>
#include <string>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/mma.h"
#include "cuda/pass_values.h"
#include "cuda/platform.h"
#include "random_bits.h"
#include "synthetic_weights.h"

namespace lectern::engine::bench {
namespace {

using cuda::DeviceBlock;
using cuda::Grid;

constexpr unsigned kThreads = 256;
constexpr int kRepeats = 9;
constexpr int kInFlight = 4;      // 16-byte loads of a thread
constexpr int kAccumulators = 8;  // independent products of a warp
constexpr int kEmptyKernels = 512;

// Piece `first` of a thread's next kInFlight ones; a block reads whole lines.
__device__ std::int64_t piece_index(std::int64_t step, int i) {
  return (step * kInFlight + i) * kThreads + threadIdx.x;
}

__global__ void copy_pieces(const uint4* from, uint4* to, std::int64_t steps) {
  for (std::int64_t step = blockIdx.x; step < steps; step += gridDim.x) {
    uint4 pieces[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) pieces[i] = __ldcs(from + piece_index(step, i));
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) to[piece_index(step, i)] = pieces[i];
  }
}

// `sink` is written if all bits of all pieces cancel out, which random ones do not.
__global__ void read_pieces(const uint4* from, std::uint32_t* sink, std::int64_t steps) {
  std::uint32_t bits = 1;
  for (std::int64_t step = blockIdx.x; step < steps; step += gridDim.x) {
    uint4 pieces[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) pieces[i] = __ldcs(from + piece_index(step, i));
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) bits |= pieces[i].x ^ pieces[i].y ^ pieces[i].z ^ pieces[i].w;
  }
  if (bits == 0) *sink = bits;
}

// BF16 numbers of about 1 with random signs and fractions.
__device__ std::uint32_t random_pair(std::uint64_t index) {
  return (static_cast<std::uint32_t>(random_bits(index)) & 0x807f807fU) | 0x3f003f00U;
}

__global__ void multiply_in_registers(float* sink, int rounds) {
  std::uint32_t a[4];
  std::uint32_t b[2];
  float sums[kAccumulators][4] = {};
  const std::uint64_t seed = (static_cast<std::uint64_t>(blockIdx.x) * kThreads + threadIdx.x) * 6;
  for (int i = 0; i < 4; ++i) a[i] = random_pair(seed + static_cast<std::uint64_t>(i));
  for (int i = 0; i < 2; ++i) b[i] = random_pair(seed + 4 + static_cast<std::uint64_t>(i));
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) cuda::mma_bf16(sums[i], a, b);
  }
  float total = 0;
  for (int i = 0; i < kAccumulators; ++i) total += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  if (total == 12345.678F) *sink = total;
}

__global__ void do_nothing() {}

// Times work on a stream of its own.
class Stopwatch {
 public:
  Stopwatch() {
    note(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    note(cudaEventCreate(&begin_));
    note(cudaEventCreate(&end_));
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  cudaStream_t stream() const { return stream_; }
  void note(cudaError_t code) {
    if (failure_ == cudaSuccess) failure_ = code;
  }
  cudaError_t failure() const { return failure_; }

  // The median time of `work()`, which queues something and gives its code.
  template <class Work>
  double median_seconds(const Work& work) {
    std::vector<float> times;
    note(work());
    for (int i = 0; i < kRepeats && failure_ == cudaSuccess; ++i) {
      float milliseconds = 0;
      note(cudaEventRecord(begin_, stream_));
      note(work());
      note(cudaEventRecord(end_, stream_));
      note(cudaStreamSynchronize(stream_));
      if (failure_ == cudaSuccess) note(cudaEventElapsedTime(&milliseconds, begin_, end_));
      times.push_back(milliseconds);
    }
    if (times.empty()) return 0;
    std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
    return double{times[times.size() / 2]} / 1000;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  cudaError_t failure_ = cudaSuccess;
};

double per_second(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

void measure_memory(Stopwatch& watch, const DeviceBlock& block, unsigned multiprocessors, DeviceRates& rates) {
  const std::int64_t step_bytes = std::int64_t{kThreads} * kInFlight * 16;
  const std::int64_t half_steps = block.bytes() / 2 / step_bytes;
  const Grid grid = {multiprocessors * 8, kThreads};
  const auto* from = reinterpret_cast<const uint4*>(block.data());
  auto* to = reinterpret_cast<uint4*>(block.data() + half_steps * step_bytes);
  const double copying =
      watch.median_seconds([&] { return cuda::launch(watch.stream(), grid, copy_pieces, from, to, half_steps); });
  auto* sink = reinterpret_cast<std::uint32_t*>(block.data());
  const double reading =
      watch.median_seconds([&] { return cuda::launch(watch.stream(), grid, read_pieces, from, sink, 2 * half_steps); });
  const auto bytes = static_cast<double>(2 * half_steps * step_bytes);
  rates.copy_bytes = per_second(bytes, copying);
  rates.read_bytes = per_second(bytes, reading);
}

void measure_products(Stopwatch& watch, const DeviceBlock& block, unsigned multiprocessors, int rounds,
                      DeviceRates& rates) {
  constexpr unsigned kBlocks = 4;  // of a multiprocessor
  const Grid grid = {multiprocessors * kBlocks, kThreads};
  const double seconds = watch.median_seconds([&] {
    return cuda::launch(watch.stream(), grid, multiply_in_registers, reinterpret_cast<float*>(block.data()), rounds);
  });
  const double products = static_cast<double>(grid.blocks.x * kThreads / 32) * kAccumulators * rounds;
  rates.bf16_operations = per_second(products * 2 * 16 * 8 * 16, seconds);
}

void measure_host_copy(Stopwatch& watch, const DeviceBlock& block, DeviceRates& rates) {
  const std::int64_t bytes = std::min<std::int64_t>(block.bytes(), std::int64_t{256} << 20);
  const cuda::PinnedBlock host = cuda::PinnedBlock::take(bytes);
  if (host.data() == nullptr) return;
  const auto size = static_cast<std::size_t>(bytes);
  const double seconds = watch.median_seconds(
      [&] { return cudaMemcpyAsync(block.data(), host.data(), size, cudaMemcpyHostToDevice, watch.stream()); });
  rates.host_to_device_bytes = per_second(static_cast<double>(bytes), seconds);
}

void measure_launches(Stopwatch& watch, DeviceRates& rates) {
  const auto queue = [&] {
    cudaError_t code = cudaSuccess;
    for (int i = 0; i < kEmptyKernels && code == cudaSuccess; ++i) {
      code = cuda::launch(watch.stream(), Grid{1, 32}, do_nothing);
    }
    return code;
  };
  rates.queued_launch_seconds = watch.median_seconds(queue) / kEmptyKernels;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  watch.note(cudaStreamBeginCapture(watch.stream(), cudaStreamCaptureModeRelaxed));
  watch.note(queue());
  watch.note(cudaStreamEndCapture(watch.stream(), &graph));
  if (watch.failure() != cudaSuccess) return;
  watch.note(cudaGraphInstantiate(&executable, graph, 0));
  if (watch.failure() == cudaSuccess) {
    rates.graph_node_seconds =
        watch.median_seconds([&] { return cudaGraphLaunch(executable, watch.stream()); }) / kEmptyKernels;
    cudaGraphExecDestroy(executable);
  }
  cudaGraphDestroy(graph);
}

}  // namespace

Result<DeviceRates> measure_device_rates(std::int64_t bytes) {
  int multiprocessors = 0;
  DeviceRates rates;
  const DeviceBlock block = DeviceBlock::take(bytes);
  if (block.data() == nullptr) {
    return Error{ErrorCode::kOutOfMemory, "The GPU has no room for the memory on which its rates are measured."};
  }
  Stopwatch watch;
  watch.note(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  const auto units = static_cast<unsigned>(multiprocessors);
  if (!fill_with_random_bits(block.data(), block.bytes(), 1, watch.stream())) watch.note(cudaErrorLaunchFailure);
  const bool is_small = bytes < (std::int64_t{64} << 20);  // on the emulation
  measure_memory(watch, block, units, rates);
  measure_products(watch, block, is_small ? 1 : units, is_small ? 2 : 4096, rates);
  measure_host_copy(watch, block, rates);
  measure_launches(watch, rates);
  if (watch.failure() != cudaSuccess) {
    return Error{ErrorCode::kDevice,
                 std::string("Measuring the GPU's rates failed (") + cudaGetErrorString(watch.failure()) + ")."};
  }
  return rates;
}

}  // namespace lectern::engine::bench
