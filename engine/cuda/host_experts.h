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
  void set_area(std::byte* area, std::int64_t bytes) { area_ = area, area_bytes_ = bytes; }
  std::byte* area() const { return area_; }
  std::int64_t area_bytes() const { return area_bytes_; }

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
  // What is queued afterwards finds the batch's experts in the table.
  cudaError_t bring(CudaExperts& placed, std::size_t batch, TileRange& tiles);
  cudaError_t end(std::size_t batch);

 private:
  struct Batch {
    std::int64_t first_tile = 0;
    std::int64_t tiles = 0;
    std::vector<std::int64_t> brought;  // experts
  };

  ExpertHost(cudaStream_t stream, PassValues& values, std::shared_ptr<WeightStaging> staging, int threads);
  void plan_batches(const HostedExperts& block, std::span<const std::int64_t> slots_before, std::int64_t tile_rows);
  void sort_pairs_here(const Choices& choices);

  cudaStream_t stream_;
  PassValues& values_;
  std::shared_ptr<WeightStaging> staging_;
  cpu::CpuBackend cpu_;
  std::byte* area_ = nullptr;
  std::int64_t area_bytes_ = 0;
  cudaStream_t transfers_ = nullptr;
  cudaEvent_t begun_ = nullptr;
  std::array<cudaEvent_t, 2> filled_ = {};
  std::array<cudaEvent_t, 2> used_ = {};
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
