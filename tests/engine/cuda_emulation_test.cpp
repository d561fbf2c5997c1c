// SPDX-License-Identifier: GPL-3.0-or-later
// The emulation that CUDA kernels are tested with: it must compute what a GPU computes and notice what a GPU would not
// forgive.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cuda/mma.h"
#include "cuda/platform.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

using emulation::Fault;
using emulation::ThreadOrder;

class CudaEmulation : public ::testing::Test {
 protected:
  CudaEmulation() { emulation::reset(); }
  ~CudaEmulation() override { emulation::reset(); }

  // What launch() throws, or nothing.
  template <class... Parameters, class... Arguments>
  static std::string fault_of(const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
    try {
      EXPECT_EQ(launch(nullptr, grid, kernel, arguments...), cudaSuccess);
    } catch (const Fault& fault) {
      return fault.what();
    }
    return {};
  }
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Memory of the device, with access from the host, as the emulation has it.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t count) : count_(count) {
    EXPECT_EQ(cudaMalloc(&memory_, count * sizeof(T)), cudaSuccess);
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) { set(values); }
  ~OnDevice() { cudaFree(memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* data() { return memory_; }
  void set(const std::vector<T>& values) {
    EXPECT_EQ(cudaMemcpy(memory_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  std::vector<T> get() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), memory_, count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  std::size_t count_;
  T* memory_ = nullptr;
};

// --- threads --------------------------------------------------------------------------------------------------------

__global__ void write_indices(unsigned* to) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  to[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      blockIdx.z << 24 | blockIdx.x << 16 | threadIdx.z << 8 | threadIdx.y << 4 | threadIdx.x;
}

TEST_F(CudaEmulation, EveryThreadOfEveryBlockRunsOnce) {
  for (const ThreadOrder order : {ThreadOrder::kForward, ThreadOrder::kReverse, ThreadOrder::kShuffled}) {
    emulation::set_thread_order(order);
    OnDevice<unsigned> numbers(std::size_t{3 * 2 * 5 * 7 * 4 * 2});
    ASSERT_EQ(launch(nullptr, {{3, 2, 5}, {7, 4, 2}}, write_indices, numbers.data()), cudaSuccess);
    const std::vector<unsigned> got = numbers.get();
    std::size_t at = 0;
    for (unsigned bz = 0; bz < 5; ++bz) {
      for (unsigned by = 0; by < 2; ++by) {
        for (unsigned bx = 0; bx < 3; ++bx) {
          for (unsigned thread = 0; thread < 56; ++thread, ++at) {
            const unsigned expected = bz << 24 | bx << 16 | thread / 28 << 8 | thread / 7 % 4 << 4 | thread % 7;
            ASSERT_EQ(got[at], expected);
          }
        }
      }
    }
  }
}

__global__ void sum_block(const float* from, float* to) {
  __shared__ float partial[32];
  const float sum = block_sum(from[threadIdx.x], partial);
  const float largest = block_max(from[threadIdx.x], partial);
  to[2 * threadIdx.x] = sum;
  to[2 * threadIdx.x + 1] = largest;
}

TEST_F(CudaEmulation, ReductionsOverBlocks) {
  for (const ThreadOrder order : {ThreadOrder::kForward, ThreadOrder::kReverse, ThreadOrder::kShuffled}) {
    emulation::set_thread_order(order);
    for (const unsigned threads : {32U, 256U, 1024U}) {
      std::vector<float> values(threads);
      std::iota(values.begin(), values.end(), 1.0F);
      OnDevice<float> from(values);
      OnDevice<float> to(2 * threads);
      ASSERT_EQ(launch(nullptr, {1, threads}, sum_block, from.data(), to.data()), cudaSuccess);
      const auto last = static_cast<float>(threads);
      const std::vector<float> got = to.get();
      for (unsigned i = 0; i < threads; ++i) {
        ASSERT_EQ(got[2 * i], last * (last + 1) / 2);
        ASSERT_EQ(got[2 * i + 1], last);
      }
    }
  }
}

__global__ void shuffle_around(double* to) {
  const int lane = static_cast<int>(threadIdx.x);
  double* mine = to + lane * 8;
  mine[0] = __shfl_sync(kAllLanes, lane * 10, 5);
  mine[1] = __shfl_sync(kAllLanes, lane * 10, 9, 8);
  mine[2] = __shfl_up_sync(kAllLanes, static_cast<float>(lane), 3);
  mine[3] = static_cast<int>(__shfl_down_sync(kAllLanes, static_cast<unsigned long long>(lane) << 40, 2, 16) >> 40);
  mine[4] = __shfl_xor_sync(kAllLanes, lane * 1.5, 4);
  mine[5] = __ballot_sync(kAllLanes, lane % 3 == 0);
  mine[6] = __any_sync(kAllLanes, lane == 31) * 2 + __any_sync(kAllLanes, lane == 32);
  mine[7] = __all_sync(kAllLanes, lane < 32) * 2 + __all_sync(kAllLanes, lane < 31);
}

TEST_F(CudaEmulation, Shuffles) {
  OnDevice<double> to(std::size_t{32 * 8});
  ASSERT_EQ(launch(nullptr, {1, 32}, shuffle_around, to.data()), cudaSuccess);
  const std::vector<double> got = to.get();
  for (int lane = 0; lane < 32; ++lane) {
    const double* mine = got.data() + lane * 8;
    EXPECT_EQ(mine[0], 50);
    EXPECT_EQ(mine[1], (lane / 8 * 8 + 1) * 10);
    EXPECT_EQ(mine[2], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(mine[3], lane % 16 >= 14 ? lane : lane + 2);
    EXPECT_EQ(mine[4], (lane ^ 4) * 1.5);
    EXPECT_EQ(mine[5], 0x49249249);
    EXPECT_EQ(mine[6], 2);
    EXPECT_EQ(mine[7], 2);
  }
}

__global__ void count_votes(int* to) {
  const int thread = static_cast<int>(threadIdx.x);
  to[0] = __syncthreads_count(thread < 70);
  to[1] = __syncthreads_or(thread == 99);
  to[2] = __syncthreads_and(thread != 99);
}

TEST_F(CudaEmulation, BarriersThatCount) {
  OnDevice<int> to(3);
  ASSERT_EQ(launch(nullptr, {1, 100}, count_votes, to.data()), cudaSuccess);
  EXPECT_EQ(to.get(), (std::vector<int>{70, 1, 0}));
}

__global__ void count_with_atomics(unsigned* sum, int* largest, float* total) {
  atomicAdd(sum, threadIdx.x);
  atomicMax(largest, static_cast<int>(threadIdx.x) - 3);
  atomicAdd(total, 0.5F);
}

TEST_F(CudaEmulation, Atomics) {
  OnDevice<unsigned> sum(std::vector<unsigned>{0});
  OnDevice<int> largest(std::vector<int>{-5});
  OnDevice<float> total(std::vector<float>{0});
  ASSERT_EQ(launch(nullptr, {4, 100}, count_with_atomics, sum.data(), largest.data(), total.data()), cudaSuccess);
  EXPECT_EQ(sum.get()[0], 4U * 4950U);
  EXPECT_EQ(largest.get()[0], 96);
  EXPECT_EQ(total.get()[0], 200.0F);
}

TEST_F(CudaEmulation, BitOperations) {
  EXPECT_EQ(__byte_perm(0x33221100U, 0x77665544U, 0x7530U), 0x77553300U);
  EXPECT_EQ(__byte_perm(0x80000000U, 0, 0xfb80U), 0x00ff0000U);
  EXPECT_EQ(__brev(1U), 0x80000000U);
  EXPECT_EQ(__clz(1), 31);
  EXPECT_EQ(__ffs(8), 4);
  EXPECT_EQ(__popc(0xf0f0U), 8);
  EXPECT_EQ(dot_s8(0x01ff0280U, 0x7f02017fU, 3), 127 - 2 + 2 - 128 * 127 + 3);
  EXPECT_EQ(__vsubss4(0x80007f10U, 0x01017f20U), 0x80ff00f0U);
}

// --- mistakes -------------------------------------------------------------------------------------------------------

__global__ void reverse_without_barrier(int* to) {
  __shared__ int numbers[64];
  numbers[threadIdx.x] = static_cast<int>(threadIdx.x) + 1;
  to[threadIdx.x] = numbers[63 - threadIdx.x];
}

TEST_F(CudaEmulation, AMissingBarrierShowsInTheOrderOfThreads) {
  std::vector<std::vector<int>> results;
  for (const ThreadOrder order : {ThreadOrder::kForward, ThreadOrder::kReverse}) {
    emulation::set_thread_order(order);
    OnDevice<int> to(64);
    ASSERT_EQ(launch(nullptr, {1, 64}, reverse_without_barrier, to.data()), cudaSuccess);
    results.push_back(to.get());
  }
  EXPECT_NE(results[0], results[1]);
}

__global__ void half_of_them_wait(int* to) {
  if (threadIdx.x < 40) __syncthreads();
  to[threadIdx.x] = 1;
}

__global__ void some_lanes_shuffle(int* to) {
  if (threadIdx.x % 2 == 0) to[threadIdx.x] = __shfl_sync(kAllLanes, 1, 0);
}

__global__ void different_shuffles(int* to) {
  if (threadIdx.x < 5) {
    to[threadIdx.x] = __shfl_sync(kAllLanes, 1, 0);
  } else {
    to[threadIdx.x] = __shfl_sync(kAllLanes, 2, 0);
  }
}

__global__ void partial_mask(int* to) { to[threadIdx.x] = __shfl_sync(0xffffU, 1, 0); }

TEST_F(CudaEmulation, ThreadsThatWaitForeverAreReported) {
  OnDevice<int> to(64);
  const std::string barrier = fault_of({1, 64}, half_of_them_wait, to.data());
  EXPECT_TRUE(contains(barrier, "40 threads, of which the first is (0, 0, 0), wait at __syncthreads")) << barrier;
  EXPECT_TRUE(contains(barrier, "24 threads, of which the first is (40, 0, 0), have ended")) << barrier;
  const std::string shuffle = fault_of({{3, 1, 1}, 32}, some_lanes_shuffle, to.data());
  EXPECT_TRUE(contains(shuffle, "16 threads, of which the first is (0, 0, 0), wait at __shfl_sync")) << shuffle;
  EXPECT_TRUE(contains(shuffle, "block (0, 0, 0)")) << shuffle;
  const std::string different = fault_of({1, 32}, different_shuffles, to.data());
  EXPECT_TRUE(contains(different, "while other lanes wait at __shfl_sync")) << different;
  const std::string mask = fault_of({1, 32}, partial_mask, to.data());
  EXPECT_TRUE(contains(mask, "mask without some lanes")) << mask;
  // A later kernel is none the worse for it.
  OnDevice<double> again(std::size_t{32 * 8});
  EXPECT_EQ(fault_of({1, 32}, shuffle_around, again.data()), "");
}

__global__ void fill_shared(int bytes, unsigned char* first) {
  unsigned char* memory = dynamic_shared<unsigned char>();
  first[blockIdx.x] = memory[0];
  for (int i = 0; i < bytes; ++i) memory[i] = 7;
}

TEST_F(CudaEmulation, SharedMemoryIsFreshForEveryBlockAndGuarded) {
  OnDevice<unsigned char> first(3);
  EXPECT_EQ(fault_of({3, 1, 100}, fill_shared, 100, first.data()), "");
  EXPECT_EQ(first.get(), (std::vector<unsigned char>{255, 255, 255}));
  const std::string fault = fault_of({3, 1, 100}, fill_shared, 101, first.data());
  EXPECT_TRUE(contains(fault, "wrote 0 bytes behind its 100 bytes of dynamic shared memory")) << fault;
}

__global__ void write_at(int* to, int at) { to[at] = 1; }

TEST_F(CudaEmulation, WritingAroundDeviceMemoryIsNoticed) {
  for (const int at : {-1, 10}) {
    OnDevice<int> memory(10);
    ASSERT_EQ(launch(nullptr, {}, write_at, memory.data(), 9), cudaSuccess);
    EXPECT_EQ(emulation::check_guards(), "");
    ASSERT_EQ(launch(nullptr, {}, write_at, memory.data(), at), cudaSuccess);
    EXPECT_TRUE(contains(emulation::check_guards(), "an allocation of 40 bytes"));
  }
  EXPECT_EQ(emulation::check_guards(), "");
}

// --- matrix units ---------------------------------------------------------------------------------------------------

std::uint32_t bf16(float value) { return std::bit_cast<std::uint32_t>(value) >> 16; }
std::uint32_t byte_of(int value) { return static_cast<std::uint8_t>(value); }

// As the PTX manual draws the fragments, one line for each register.
__global__ void multiply_bf16(const float* a, const float* b, float* d) {  // a [16, 16], b [8, 16], d [16, 8]
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  const auto pair = [](const float* row, unsigned k) { return bf16(row[k]) | bf16(row[k + 1]) << 16; };
  const std::uint32_t a_part[4] = {pair(a + g * 16, t * 2), pair(a + (g + 8) * 16, t * 2), pair(a + g * 16, t * 2 + 8),
                                   pair(a + (g + 8) * 16, t * 2 + 8)};
  const std::uint32_t b_part[2] = {pair(b + g * 16, t * 2), pair(b + g * 16, t * 2 + 8)};
  float sums[4] = {100, 200, 300, 400};
  mma_bf16(sums, a_part, b_part);
  d[g * 8 + t * 2] = sums[0] - 100;
  d[g * 8 + t * 2 + 1] = sums[1] - 200;
  d[(g + 8) * 8 + t * 2] = sums[2] - 300;
  d[(g + 8) * 8 + t * 2 + 1] = sums[3] - 400;
}

__global__ void multiply_tf32(const float* a, const float* b, float* d) {  // a [16, 8], b [8, 8], d [16, 8]
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  const auto bits = [](float value) { return std::bit_cast<std::uint32_t>(value) | 0x1fffU; };  // the tail is ignored
  const std::uint32_t a_part[4] = {bits(a[g * 8 + t]), bits(a[(g + 8) * 8 + t]), bits(a[g * 8 + t + 4]),
                                   bits(a[(g + 8) * 8 + t + 4])};
  const std::uint32_t b_part[2] = {bits(b[g * 8 + t]), bits(b[g * 8 + t + 4])};
  float sums[4] = {};
  mma_tf32(sums, a_part, b_part);
  for (unsigned i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = sums[i];
}

__global__ void multiply_s8(const int* a, const int* b, int* d) {  // a [16, 32], b [8, 32], d [16, 8]
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  const auto four = [](const int* row, unsigned k) {
    return byte_of(row[k]) | byte_of(row[k + 1]) << 8 | byte_of(row[k + 2]) << 16 | byte_of(row[k + 3]) << 24;
  };
  const std::uint32_t a_part[4] = {four(a + g * 32, t * 4), four(a + (g + 8) * 32, t * 4), four(a + g * 32, t * 4 + 16),
                                   four(a + (g + 8) * 32, t * 4 + 16)};
  const std::uint32_t b_part[2] = {four(b + g * 32, t * 4), four(b + g * 32, t * 4 + 16)};
  int sums[4] = {1, 1, 1, 1};
  mma_s8(sums, a_part, b_part);
  for (unsigned i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = sums[i] - 1;
}

// Small whole numbers, so that sums are exact.
template <class T>
void expect_products(std::size_t depth, void (*kernel)(const T*, const T*, T*)) {
  std::mt19937 random(3);
  std::vector<T> a(16 * depth);
  std::vector<T> b(8 * depth);
  for (T& value : a) value = static_cast<T>(static_cast<int>(random() % 255) - 127);
  for (T& value : b) value = static_cast<T>(static_cast<int>(random() % 255) - 127);
  OnDevice<T> a_device(a);
  OnDevice<T> b_device(b);
  OnDevice<T> d_device(std::size_t{16 * 8});
  ASSERT_EQ(launch(nullptr, {1, 32}, kernel, a_device.data(), b_device.data(), d_device.data()), cudaSuccess);
  const std::vector<T> d = d_device.get();
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t column = 0; column < 8; ++column) {
      T expected = 0;
      for (std::size_t k = 0; k < depth; ++k) expected += a[row * depth + k] * b[column * depth + k];
      ASSERT_EQ(d[row * 8 + column], expected) << row << ", " << column;
    }
  }
}

TEST_F(CudaEmulation, MatrixProducts) {
  for (const ThreadOrder order : {ThreadOrder::kForward, ThreadOrder::kReverse, ThreadOrder::kShuffled}) {
    emulation::set_thread_order(order);
    expect_products<float>(16, multiply_bf16);
    expect_products<float>(8, multiply_tf32);
    expect_products<int>(32, multiply_s8);
  }
}

// Matrix m holds 1000 m + 10 row + column; its rows stand 48 bytes apart.
__global__ void load_all(bool transposed, std::uint32_t* to) {
  auto* memory = dynamic_shared<std::uint16_t>();
  const unsigned lane = threadIdx.x;
  for (unsigned column = 0; column < 8; ++column) {
    memory[lane * 24 + column] = static_cast<std::uint16_t>(1000 * (lane / 8) + 10 * (lane % 8) + column);
  }
  __syncwarp();
  std::uint32_t parts[4];
  if (transposed) {
    load_matrices_transposed(parts, memory + lane * 24);
  } else {
    load_matrices(parts, memory + lane * 24);
  }
  for (unsigned i = 0; i < 4; ++i) to[lane * 4 + i] = parts[i];
}

TEST_F(CudaEmulation, MatricesFromSharedMemory) {
  for (const bool transposed : {false, true}) {
    OnDevice<std::uint32_t> to(std::size_t{32 * 4});
    ASSERT_EQ(launch(nullptr, {1, 32, 32 * 48}, load_all, transposed, to.data()), cudaSuccess);
    const std::vector<std::uint32_t> got = to.get();
    for (unsigned lane = 0; lane < 32; ++lane) {
      for (unsigned matrix = 0; matrix < 4; ++matrix) {
        const unsigned first = lane / 4;
        const unsigned second = lane % 4 * 2;
        const unsigned low = 1000 * matrix + (transposed ? 10 * second + first : 10 * first + second);
        const unsigned high = low + (transposed ? 10 : 1);
        ASSERT_EQ(got[lane * 4 + matrix], low | high << 16) << lane << ", " << matrix;
      }
    }
  }
}

// --- asynchronous copies --------------------------------------------------------------------------------------------

// Copies one group after another and looks after waiting for all but `pending` of them.
template <int kPending>
__global__ void copy_groups(const float* from, float* to) {
  auto* memory = dynamic_shared<float>();
  for (int group = 0; group < 3; ++group) {
    copy_async(memory + 4 * group, from + 4 * group, group != 1);
    commit_copies();
  }
  wait_for_copies<kPending>();
  for (int i = 0; i < 12; ++i) to[i] = memory[i];
}

TEST_F(CudaEmulation, CopiesArriveWhenTheyAreWaitedFor) {
  OnDevice<float> from(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  OnDevice<float> to(12);
  ASSERT_EQ(launch(nullptr, {1, 1, 48}, copy_groups<0>, from.data(), to.data()), cudaSuccess);
  EXPECT_EQ(to.get(), (std::vector<float>{1, 2, 3, 4, 0, 0, 0, 0, 9, 10, 11, 12}));
  ASSERT_EQ(launch(nullptr, {1, 1, 48}, copy_groups<1>, from.data(), to.data()), cudaSuccess);
  std::vector<float> got = to.get();
  for (int i = 0; i < 8; ++i) EXPECT_FALSE(std::isnan(got[static_cast<std::size_t>(i)]));
  for (int i = 8; i < 12; ++i) EXPECT_TRUE(std::isnan(got[static_cast<std::size_t>(i)]));
  ASSERT_EQ(launch(nullptr, {1, 1, 48}, copy_groups<3>, from.data(), to.data()), cudaSuccess);
  for (const float value : to.get()) EXPECT_TRUE(std::isnan(value));
}

__global__ void copy_crooked(const float* from) { copy_async(dynamic_shared<float>() + 1, from); }

TEST_F(CudaEmulation, CopiesMustBeAligned) {
  OnDevice<float> from(8);
  EXPECT_TRUE(contains(fault_of({1, 1, 64}, copy_crooked, from.data()), "no multiple of 16"));
}

// --- the host's side ------------------------------------------------------------------------------------------------

__global__ void add_one(const int* from, int* to) { to[threadIdx.x] = from[threadIdx.x] + 1; }

TEST_F(CudaEmulation, GraphsRepeatTheirWorkWithWhatMemoryThenHolds) {
  OnDevice<int> from(std::vector<int>{1, 2, 3});
  OnDevice<int> to(std::vector<int>{0, 0, 0});
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  std::vector<int> host = {7, 8, 9};
  std::vector<int> back(3);
  ASSERT_EQ(cudaHostRegister(host.data(), 12, cudaHostRegisterDefault), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(from.data(), host.data(), 12, cudaMemcpyHostToDevice, stream), cudaSuccess);
  ASSERT_EQ(launch(stream, {1, 3}, add_one, static_cast<const int*>(from.data()), to.data()), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(back.data(), to.data(), 12, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(to.get(), (std::vector<int>{0, 0, 0}));
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  for (const int offset : {0, 10, 20}) {
    host = {offset, offset + 1, offset + 2};
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(back, (std::vector<int>{offset + 1, offset + 2, offset + 3}));
  }
  EXPECT_EQ(emulation::counters().graph_launches, 3);
  EXPECT_EQ(emulation::counters().launches, 3);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaHostUnregister(host.data()), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_F(CudaEmulation, ACaptureForbidsWhatWaitsOrAllocates) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  void* memory = nullptr;
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&memory, 16), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&memory, 16), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_F(CudaEmulation, LateWorkReadsPinnedMemoryWhenItRuns) {
  emulation::set_timing(emulation::Timing::kLate);
  OnDevice<int> from(std::vector<int>{0, 0, 0});
  int* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, 12), cudaSuccess);
  std::fill_n(pinned, 3, 1);
  ASSERT_EQ(cudaMemcpyAsync(from.data(), pinned, 12, cudaMemcpyHostToDevice), cudaSuccess);
  std::fill_n(pinned, 3, 2);  // too early
  EXPECT_EQ(cudaStreamQuery(nullptr), cudaErrorNotReady);
  EXPECT_EQ(from.get(), (std::vector<int>{2, 2, 2}));
  std::vector<int> pageable = {5, 5, 5};
  ASSERT_EQ(cudaMemcpyAsync(from.data(), pageable.data(), 12, cudaMemcpyHostToDevice), cudaSuccess);
  pageable = {6, 6, 6};
  EXPECT_EQ(from.get(), (std::vector<int>{5, 5, 5}));
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(CudaEmulation, StreamsAreAsFarApartAsEventsAllow) {
  using emulation::Timing;
  for (const Timing timing : {Timing::kOthersFirst, Timing::kOthersLast}) {
    for (const bool with_event : {true, false}) {
      emulation::set_timing(timing);
      OnDevice<int> from(std::vector<int>{1, 2, 3});
      OnDevice<int> to(std::vector<int>{0, 0, 0});
      cudaStream_t first = nullptr;
      cudaStream_t second = nullptr;
      cudaEvent_t ready = nullptr;
      ASSERT_EQ(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), cudaSuccess);
      ASSERT_EQ(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), cudaSuccess);
      ASSERT_EQ(cudaEventCreate(&ready), cudaSuccess);
      ASSERT_EQ(cudaMemsetAsync(from.data(), 0, 12, first), cudaSuccess);
      ASSERT_EQ(cudaEventRecord(ready, first), cudaSuccess);
      if (with_event) {
        ASSERT_EQ(cudaStreamWaitEvent(second, ready), cudaSuccess);
      }
      ASSERT_EQ(launch(second, {1, 3}, add_one, static_cast<const int*>(from.data()), to.data()), cudaSuccess);
      // Without the event it depends on who is waited for.
      ASSERT_EQ(cudaStreamSynchronize(second), cudaSuccess);
      const bool cleared = with_event || timing == Timing::kOthersFirst;
      EXPECT_EQ(to.get(), cleared ? (std::vector<int>{1, 1, 1}) : (std::vector<int>{2, 3, 4}));
      EXPECT_EQ(cudaEventDestroy(ready), cudaSuccess);
      EXPECT_EQ(cudaStreamDestroy(first), cudaSuccess);
      EXPECT_EQ(cudaStreamDestroy(second), cudaSuccess);
      emulation::set_timing(Timing::kAtOnce);
    }
  }
}

TEST_F(CudaEmulation, AFailureStays) {
  OnDevice<int> to(1);
  emulation::fail_after(2, cudaErrorLaunchFailure);
  EXPECT_EQ(launch(nullptr, {}, write_at, to.data(), 0), cudaSuccess);
  EXPECT_EQ(launch(nullptr, {}, write_at, to.data(), 0), cudaErrorLaunchFailure);
  EXPECT_EQ(launch(nullptr, {}, write_at, to.data(), 0), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 4), cudaErrorLaunchFailure);
  emulation::reset();
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(launch(nullptr, {}, write_at, to.data(), 0), cudaSuccess);
}

TEST_F(CudaEmulation, ImpossibleLaunchesAreRefused) {
  OnDevice<int> to(1);
  const auto result = [&](const Grid& grid) { return launch(nullptr, grid, write_at, to.data(), 0); };
  EXPECT_EQ(result({1, 1025}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(result({{1, 65536}, 1}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(result({{0, 1}, 1}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(result({1, 1, 48 << 10}), cudaSuccess);
  EXPECT_EQ(result({1, 1, (48 << 10) + 1}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaFuncSetAttribute(write_at, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(write_at, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10), cudaSuccess);
  EXPECT_EQ(result({1, 1, 227 << 10}), cudaSuccess);
}

TEST_F(CudaEmulation, MemoryRunsOutAndCopiesStayInside) {
  emulation::set_device({.memory_bytes = 1 << 20});
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, (1 << 20) + 1), cudaErrorMemoryAllocation);
  ASSERT_EQ(cudaMalloc(&memory, 1 << 19), cudaSuccess);
  std::size_t left = 0;
  std::size_t total = 0;
  EXPECT_EQ(cudaMemGetInfo(&left, &total), cudaSuccess);
  EXPECT_EQ(left, std::size_t{1} << 19);
  EXPECT_EQ(total, std::size_t{1} << 20);
  std::vector<char> host((1 << 19) + 1);
  EXPECT_EQ(cudaMemcpy(memory, host.data(), host.size(), cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(memory, host.data(), 100, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
  emulation::set_device({.count = 0});
  int count = 5;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  EXPECT_EQ(count, 0);
  emulation::set_device({.driver_version = 12040});
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
}

TEST_F(CudaEmulation, EveryDeviceHasItsOwn) {
  emulation::set_device({.count = 2});
  emulation::set_memory(1, 1 << 16);
  OnDevice<int> first(1);
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 1 << 17), cudaErrorMemoryAllocation);
  OnDevice<int> second(1);
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(emulation::allocated_bytes(1), 4);
  EXPECT_EQ(launch(stream, {}, write_at, second.data(), 0), cudaSuccess);
  int number = 1;
  EXPECT_EQ(cudaMemcpyAsync(first.data(), &number, 4, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyPeerAsync(first.data(), 1, second.data(), 0, 4, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyPeerAsync(first.data(), 0, second.data(), 1, 4, stream), cudaSuccess);
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event, stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(launch(stream, {}, write_at, second.data(), 0), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(launch(nullptr, {}, write_at, second.data(), 0), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);  // of the other
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  cudaEventDestroy(event);
}

TEST_F(CudaEmulation, ADeviceWaitsForAnotherOnlyWhenTold) {
  emulation::set_device({.count = 2});
  emulation::set_timing(emulation::Timing::kLate);
  OnDevice<int> from(std::vector<int>{1});
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  OnDevice<int> to(1);
  for (const bool waits : {false, true}) {
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    ASSERT_EQ(cudaMemsetAsync(from.data(), waits ? 3 : 2, 4), cudaSuccess);
    ASSERT_EQ(cudaEventRecord(event), cudaSuccess);
    ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
    const cudaError_t told = waits ? cudaStreamWaitEvent(nullptr, event) : cudaSuccess;
    ASSERT_EQ(told, cudaSuccess);
    ASSERT_EQ(cudaMemcpyPeerAsync(to.data(), 1, from.data(), 0, 4), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    EXPECT_EQ(to.get()[0], waits ? 0x03030303 : 1);
  }
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST_F(CudaEmulation, TwoHostThreadsLaunchAtOnce) {
  const auto work = [] {
    std::vector<float> values(1024, 1.0F);
    OnDevice<float> from(values);
    OnDevice<float> to(std::size_t{2 * 1024});
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(launch(nullptr, {1, 1024}, sum_block, from.data(), to.data()), cudaSuccess);
      EXPECT_EQ(to.get()[0], 1024.0F);
    }
  };
  std::thread other(work);
  work();
  other.join();
}

}  // namespace
}  // namespace lectern::engine::cuda
