// SPDX-License-Identifier: Apache-2.0
#include "cuda/host_experts.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "cpu/kernels.h"
#include "cuda/cuda_backend.h"

namespace lectern::engine::cuda {
namespace {

constexpr unsigned kAddThreads = 256;

}  // namespace

__global__ void __launch_bounds__(kAddThreads) add_numbers(const float* from, float* to, std::int64_t count) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kAddThreads + threadIdx.x;
  if (at < count) to[at] += from[at];
}

// --- memory ---------------------------------------------------------------------------------------------------------

Result<void> CudaBackend::fill_slots(CudaExperts& placed) {
  const HostedExperts& block = *placed.hosted();
  if (staging_ == nullptr) staging_ = WeightStaging::make();
  if (expert_host_ == nullptr && staging_ != nullptr) {
    expert_host_ = ExpertHost::make(stream_, values_, staging_, budget_.threads);
  }
  const std::int64_t least = 2 * block.slot_bytes();
  if (expert_host_ != nullptr && expert_host_->area_bytes() < least) {
    if (expert_host_->area() != nullptr) weights_.give_back(expert_host_->area());
    const std::int64_t bytes = std::max(budget_.staging_bytes, least);
    std::byte* const area = weights_.take(bytes);
    expert_host_->set_area(area, area == nullptr ? 0 : bytes);
  }
  if (expert_host_ == nullptr || expert_host_->area() == nullptr) {
    return Error{ErrorCode::kOutOfMemory,
                 "The GPU has no room for experts on their way from the computer's memory; "
                 "close other programs that use it."};
  }
  for (std::int64_t expert = 0; expert < block.slots() && !failure_; ++expert) {
    note(placed.fill(expert, placed.slot(block.slot_of(expert)), *staging_, stream_), "Copying weights to it");
  }
  return {};
}

// --- a few rows -----------------------------------------------------------------------------------------------------

std::unique_ptr<ExpertHost> ExpertHost::make(cudaStream_t stream, PassValues& values,
                                             std::shared_ptr<WeightStaging> staging, int threads) {
  std::unique_ptr<ExpertHost> host(new ExpertHost(stream, values, std::move(staging), threads));
  if (cudaStreamCreateWithFlags(&host->transfers_, cudaStreamNonBlocking) != cudaSuccess) return nullptr;
  for (cudaEvent_t* event : {&host->begun_, &host->filled_[0], &host->filled_[1], &host->used_[0], &host->used_[1]}) {
    if (cudaEventCreateWithFlags(event, cudaEventDisableTiming) != cudaSuccess) return nullptr;
  }
  return host;
}

ExpertHost::ExpertHost(cudaStream_t stream, PassValues& values, std::shared_ptr<WeightStaging> staging, int threads)
    : stream_(stream), values_(values), staging_(std::move(staging)), cpu_(threads, *cpu::usable_kernels().back()) {}

ExpertHost::~ExpertHost() {
  if (transfers_ != nullptr) {
    cudaStreamSynchronize(transfers_);
    cudaStreamDestroy(transfers_);
  }
  for (const cudaEvent_t event : {begun_, filled_[0], filled_[1], used_[0], used_[1]}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

cudaError_t ExpertHost::read(const Choices& choices, const Tensor& x, HostedExperts& block) {
  const std::int64_t pairs = std::int64_t{choices.rows} * choices.chosen;
  const std::int64_t numbers = x.rows * x.cols;
  const std::int64_t bytes = 4 * (2 * pairs + numbers);
  if (exchange_.bytes() < bytes) exchange_ = PinnedBlock::take(bytes);
  if (exchange_.data() == nullptr) return cudaErrorMemoryAllocation;
  auto* const experts_of = reinterpret_cast<std::int32_t*>(exchange_.data());
  auto* const weights = reinterpret_cast<float*>(experts_of + pairs);
  x_ = {weights + pairs, x.rows, x.cols};
  const auto fetch = [this](void* to, const void* from, std::int64_t count) {
    return cudaMemcpyAsync(to, from, static_cast<std::size_t>(4 * count), cudaMemcpyDeviceToHost, stream_);
  };
  cudaError_t code = fetch(experts_of, choices.experts_of, pairs);
  if (code == cudaSuccess) code = fetch(weights, choices.weights, pairs);
  if (code == cudaSuccess) code = fetch(x_.data, x.data, numbers);
  if (code == cudaSuccess) code = cudaStreamSynchronize(stream_);
  if (code != cudaSuccess) return code;
  experts_of_ = experts_of;
  weights_ = weights;
  order_.resize(static_cast<std::size_t>(pairs));
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(),
                   [experts_of](std::int32_t a, std::int32_t b) { return experts_of[a] < experts_of[b]; });
  rows_of_.assign(static_cast<std::size_t>(choices.experts), 0);
  for (std::int64_t pair = 0; pair < pairs; ++pair) ++rows_of_[static_cast<std::size_t>(experts_of[pair])];
  block.count(rows_of_, choices.rows);
  return cudaSuccess;
}

std::vector<ExpertGroup> ExpertHost::groups_on_gpu(const Choices& choices, const HostedExperts& block) const {
  std::vector<ExpertGroup> groups;
  if (choices.shared != nullptr) {
    ExpertGroup& shared = groups.emplace_back();
    shared.expert = choices.experts;
    shared.rows = (1U << choices.rows) - 1U;
    for (std::int32_t row = 0; row < choices.rows; ++row) shared.pairs[row] = choices.rows * choices.chosen + row;
  }
  std::int32_t last = -1;
  for (const std::int32_t pair : order_) {
    const std::int32_t expert = experts_of_[pair];
    if (block.slot_of(expert) < 0) continue;
    if (expert != last) groups.push_back({expert, 0, {}});
    last = expert;
    const std::int32_t row = pair / choices.chosen;
    groups.back().rows |= 1U << row;
    groups.back().pairs[row] = pair;
  }
  return groups;
}

cudaError_t ExpertHost::add_others(const Choices& choices, const HostedExperts& block, const Tensor& y) {
  std::vector<cpu::ExpertRow> rows;
  for (const std::int32_t pair : order_) {
    if (block.slot_of(experts_of_[pair]) < 0)
      rows.push_back({experts_of_[pair], pair / choices.chosen, weights_[pair]});
  }
  if (rows.empty()) return cudaSuccess;
  results_.assign(static_cast<std::size_t>(y.rows * y.cols), 0.0F);
  cpu_.add_experts(x_, block.experts(), rows, {results_.data(), y.rows, y.cols});
  const auto blocks = static_cast<unsigned>((y.rows * y.cols + kAddThreads - 1) / kAddThreads);
  return launch(stream_, {blocks, kAddThreads}, add_numbers, values_.add(results_), y.data, y.rows * y.cols);
}

// --- many rows ------------------------------------------------------------------------------------------------------

cudaError_t ExpertHost::begin(CudaExperts& placed, const SortedPairs& sorted, std::int64_t rows) {
  HostedExperts& block = *placed.hosted();
  std::vector<std::int32_t> starts(static_cast<std::size_t>(sorted.experts) + 2);
  cudaError_t code = cudaMemcpyAsync(starts.data(), sorted.starts, starts.size() * sizeof(std::int32_t),
                                     cudaMemcpyDeviceToHost, stream_);
  if (code == cudaSuccess) code = cudaStreamSynchronize(stream_);
  if (code == cudaSuccess) code = cudaEventRecord(begun_, stream_);
  if (code == cudaSuccess) code = cudaStreamWaitEvent(transfers_, begun_, 0);  // what was in the slots has been used
  if (code != cudaSuccess) return code;
  rows_of_.resize(starts.size() - 1);
  for (std::size_t e = 0; e < rows_of_.size(); ++e) rows_of_[e] = starts[e + 1] - starts[e];
  std::vector<std::int64_t> slots_before;
  for (std::int64_t e = 0; e < sorted.experts; ++e) slots_before.push_back(block.slot_of(e));
  block.count(rows_of_, rows);
  block.assign(rows_of_);
  tiles_ = sorted.tiles;
  plan_batches(block, slots_before, sorted.tile_rows);
  return cudaSuccess;
}

// By number, as many together as half of the area holds.
void ExpertHost::plan_batches(const HostedExperts& block, std::span<const std::int64_t> slots_before,
                              std::int64_t tile_rows) {
  const auto most = static_cast<std::size_t>(std::max<std::int64_t>(1, area_bytes_ / 2 / block.slot_bytes()));
  batches_.assign(1, {});
  std::int64_t tile = 0;
  for (std::size_t e = 0; e < rows_of_.size(); ++e) {
    if (rows_of_[e] == 0) continue;
    const bool shared = e == slots_before.size();
    const auto expert = static_cast<std::int64_t>(e);
    if (!shared && (slots_before[e] < 0 || block.slot_of(expert) < 0)) {
      if (batches_.back().brought.size() == most) batches_.push_back({tile, 0, {}});
      batches_.back().brought.push_back(expert);
    }
    const std::int64_t tiles = (rows_of_[e] + tile_rows - 1) / tile_rows;
    batches_.back().tiles += tiles;
    tile += tiles;
  }
}

cudaError_t ExpertHost::bring(CudaExperts& placed, std::size_t index, TileRange& tiles) {
  const Batch& batch = batches_[index];
  const HostedExperts& block = *placed.hosted();
  const std::size_t half = index % 2;
  std::byte* free = area_ + static_cast<std::int64_t>(half) * (area_bytes_ / 2 / kAlignment * kAlignment);
  cudaError_t code = index < 2 ? cudaSuccess : cudaStreamWaitEvent(transfers_, used_[half], 0);
  for (const std::int64_t expert : batch.brought) {
    const std::int64_t slot = block.slot_of(expert);
    std::byte* const to = slot >= 0 ? placed.slot(slot) : std::exchange(free, free + block.slot_bytes());
    if (code == cudaSuccess) code = placed.fill(expert, to, *staging_, transfers_);
  }
  if (code == cudaSuccess) code = cudaEventRecord(filled_[half], transfers_);
  if (code == cudaSuccess) code = cudaStreamWaitEvent(stream_, filled_[half], 0);
  if (code == cudaSuccess && !batch.brought.empty()) code = placed.send_table(values_, stream_);
  tiles.tiles = tiles_ + batch.first_tile;
  tiles.count = values_.add(static_cast<std::int32_t>(batch.tiles));
  tiles.most = batch.tiles;
  return code;
}

cudaError_t ExpertHost::end(std::size_t batch) { return cudaEventRecord(used_[batch % 2], stream_); }

}  // namespace lectern::engine::cuda
