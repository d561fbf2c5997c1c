// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cuda/expert_slots.h"
#include "cuda/experts.h"
#include "cuda/pass_values.h"
#include "cuda/platform.h"
#include "cuda/routing.h"
#include "cuda/weights.h"

namespace lectern::engine::cuda {

// Tiles of experts that are on the GPU at the same time.
struct TileRange {
  const ExpertTile* tiles = nullptr;
  const std::int32_t* count = nullptr;
  std::int64_t most = 0;
};

// The way of experts to the GPU, and of rows to the CPU. Errors are those of the device.
class ExpertHost {
 public:
  // Null when there is no memory for it. `staging` may be used by nobody else while experts are brought.
  static std::unique_ptr<ExpertHost> make(cudaStream_t stream, PassValues& values,
                                          std::shared_ptr<WeightStaging> staging, int threads);
  ~ExpertHost();
  ExpertHost(const ExpertHost&) = delete;
  ExpertHost& operator=(const ExpertHost&) = delete;

  // Memory for experts on their way, on the device; both halves hold at least one.
  void set_area(std::byte* area, std::int64_t bytes);
  std::byte* area() const { return area_; }
  std::int64_t area_bytes() const { return area_bytes_; }

  // Memory for what read() fetches, so that it takes none. False: there is none.
  bool reserve(std::int64_t pairs, std::int64_t numbers);

  // Blocks are expected to follow each other as they were enlisted, until another order has been seen.
  void enlist(CudaExperts& block);
  void forget(const CudaExperts& block);  // nothing is on its way for it any more

  // --- a few rows
  // Waits for the choice and the rows.
  cudaError_t read(const Choices& choices, const Tensor& x, HostedExperts& block);
  // After read(): those of the shared expert and of experts on the GPU, in the order of group_rows().
  std::vector<ExpertGroup> groups_on_gpu(const Choices& choices, const HostedExperts& block) const;
  // After read(): y += the other experts' part, computed here.
  cudaError_t add_others(const Choices& choices, const HostedExperts& block, const Tensor& y);

  // --- many rows
  // Waits for the order of the rows and decides which experts have the slots, and which are together on the GPU.
  cudaError_t begin(CudaExperts& placed, const SortedPairs& sorted, std::int64_t rows);
  std::size_t batches() const { return batches_.size(); }
  // What is queued until end() finds the batch's experts in the table. One batch after the other.
  cudaError_t bring(CudaExperts& placed, std::size_t batch, TileRange& tiles);
  cudaError_t end();
  // After the last batch, all of which may still be waiting: queues the way of the first experts of the block that
  // comes next (`again`: the same once more), as many as the area holds, if `rows` rows are likely to choose most of
  // them.
  cudaError_t look_ahead(CudaExperts& placed, std::int64_t rows, bool again);

 private:
  struct Batch {
    std::int64_t first_tile = 0;
    std::int64_t tiles = 0;
    std::vector<std::int64_t> brought;  // experts
  };

  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  // A half of the area: places for experts of one block, which stay until others need them.
  struct Half {
    const CudaExperts* block = nullptr;
    std::vector<std::int64_t> experts;  // of each place; -1: none
    cudaEvent_t filled = nullptr;
    cudaEvent_t used = nullptr;
  };
  struct Enlisted {
    CudaExperts* block = nullptr;
    std::size_t next = 0;
  };

  ExpertHost(cudaStream_t stream, PassValues& values, std::shared_ptr<WeightStaging> staging, int threads);
  Half& half(std::size_t after_next) { return halves_[(next_half_ + after_next) % 2]; }
  std::int64_t half_bytes() const;
  std::size_t places(const HostedExperts& block) const;
  std::byte* place_in(const Half& half, std::int64_t place, const HostedExperts& block) const;
  static std::int64_t place_of(const Half& half, std::int64_t expert);  // -1: it is not there
  void give_to(Half& half, const CudaExperts& placed);
  // One that holds none of the needed experts.
  static std::int64_t free_place(const Half& half, std::span<const std::int64_t> needed);
  void plan_batches(const CudaExperts& placed, std::span<const std::int64_t> slots_before, std::int64_t tile_rows);
  void learn_order(const CudaExperts& placed);
  cudaError_t record_filled(Half& half);
  cudaError_t fill_ahead(Half& half, const CudaExperts& next, std::int64_t& expert);

  cudaStream_t stream_;
  PassValues& values_;
  std::shared_ptr<WeightStaging> staging_;
  cpu::CpuBackend cpu_;
  std::byte* area_ = nullptr;
  std::int64_t area_bytes_ = 0;
  TransferStreams transfers_;  // every layout waits for its copy, and so for what that waits for
  cudaEvent_t begun_ = nullptr;
  cudaEvent_t copied_ = nullptr;
  std::array<Half, 2> halves_;
  std::size_t next_half_ = 0;  // of the next batch; batches take turns
  std::vector<Enlisted> enlisted_;
  std::size_t last_ = kNone;  // of these, that had many rows
  PinnedBlock exchange_;
  const std::int32_t* experts_of_ = nullptr;  // in exchange_, as `weights_` and `x_`
  const float* weights_ = nullptr;
  Tensor x_;
  std::vector<std::int32_t> order_;  // pairs by expert, and by number for each
  std::vector<float> results_;
  std::vector<std::int32_t> rows_of_;  // of each expert, the shared one last
  const ExpertTile* tiles_ = nullptr;
  std::vector<Batch> batches_;
};

__global__ void add_numbers(const float* from, float* to, std::int64_t count);

}  // namespace lectern::engine::cuda
