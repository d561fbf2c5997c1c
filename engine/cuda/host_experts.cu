// SPDX-License-Identifier: Apache-2.0
#include "cuda/host_experts.h"

#include <algorithm>
#include <cmath>
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

void CudaBackend::lock_experts(HostedExperts& block) {
  std::shared_ptr<LockedMemory> locked = locked_.lock();
  if (locked == nullptr) locked_ = locked = std::make_shared<LockedMemory>(budget_.locked_bytes);
  if (staging_ == nullptr) staging_ = WeightStaging::make();
  if (staging_ != nullptr) staging_->use(locked);
  block.lock(locked);  // without, the way through the buffers remains
}

std::int64_t CudaBackend::locked_bytes() const {
  const std::shared_ptr<LockedMemory> locked = locked_.lock();
  return locked == nullptr ? 0 : locked->bytes();
}

Result<void> CudaBackend::fill_slots(CudaExperts& placed, const ExpertWeights& w) {
  const HostedExperts& block = *placed.hosted();
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
  if (!expert_host_->reserve(kSmallBatchRows * w.experts_per_token, kSmallBatchRows * w.gate.front()->cols())) {
    return Error{ErrorCode::kOutOfMemory,
                 "The system refused page-locked memory for rows on their way; close other programs."};
  }
  expert_host_->enlist(placed);
  for (std::int64_t expert = 0; expert < block.slots() && !failure_; ++expert) {
    std::byte* const slot = placed.slot(block.slot_of(expert));
    note(placed.send(expert, slot, *staging_, {stream_, stream_}), "Copying weights to it");
    placed.point_to(expert, slot);
  }
  return {};
}

// --- a few rows -----------------------------------------------------------------------------------------------------

std::unique_ptr<ExpertHost> ExpertHost::make(cudaStream_t stream, PassValues& values,
                                             std::shared_ptr<WeightStaging> staging, int threads) {
  std::unique_ptr<ExpertHost> host(new ExpertHost(stream, values, std::move(staging), threads));
  for (cudaStream_t* each : {&host->transfers_.copies, &host->transfers_.layouts}) {
    if (cudaStreamCreateWithFlags(each, cudaStreamNonBlocking) != cudaSuccess) return nullptr;
  }
  std::vector<cudaEvent_t*> events = {&host->begun_, &host->copied_};
  for (Half& half : host->halves_) events.insert(events.end(), {&half.filled, &half.used});
  for (cudaEvent_t* event : events) {
    if (cudaEventCreateWithFlags(event, cudaEventDisableTiming) != cudaSuccess) return nullptr;
  }
  return host;
}

ExpertHost::ExpertHost(cudaStream_t stream, PassValues& values, std::shared_ptr<WeightStaging> staging, int threads)
    : stream_(stream), values_(values), staging_(std::move(staging)), cpu_(threads, *cpu::usable_kernels().back()) {}

ExpertHost::~ExpertHost() {
  for (const cudaStream_t each : {transfers_.copies, transfers_.layouts}) {
    if (each == nullptr) continue;
    cudaStreamSynchronize(each);
    cudaStreamDestroy(each);
  }
  for (const cudaEvent_t event :
       {begun_, copied_, halves_[0].filled, halves_[0].used, halves_[1].filled, halves_[1].used}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

bool ExpertHost::reserve(std::int64_t pairs, std::int64_t numbers) {
  const std::int64_t bytes = 4 * (2 * pairs + numbers);
  if (exchange_.bytes() < bytes) exchange_ = PinnedBlock::take(bytes);
  return exchange_.data() != nullptr;
}

cudaError_t ExpertHost::read(const Choices& choices, const Tensor& x, HostedExperts& block) {
  const std::int64_t pairs = std::int64_t{choices.rows} * choices.chosen;
  const std::int64_t numbers = x.rows * x.cols;
  if (exchange_.bytes() < 4 * (2 * pairs + numbers)) return cudaErrorMemoryAllocation;
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
  if (code == cudaSuccess)
    code = cudaStreamWaitEvent(transfers_.copies, begun_, 0);  // what was in the slots has been used
  if (code != cudaSuccess) return code;
  rows_of_.resize(starts.size() - 1);
  for (std::size_t e = 0; e < rows_of_.size(); ++e) rows_of_[e] = starts[e + 1] - starts[e];
  std::vector<std::int64_t> slots_before;
  for (std::int64_t e = 0; e < sorted.experts; ++e) slots_before.push_back(block.slot_of(e));
  block.count(rows_of_, rows);
  block.assign(rows_of_);
  tiles_ = sorted.tiles;
  learn_order(placed);
  plan_batches(placed, slots_before, sorted.tile_rows);
  return cudaSuccess;
}

// By number, as many together as half of the area holds. What has been brought ahead is in the halves by number too, so
// that a batch ends where its half does.
void ExpertHost::plan_batches(const CudaExperts& placed, std::span<const std::int64_t> slots_before,
                              std::int64_t tile_rows) {
  const HostedExperts& block = *placed.hosted();
  const std::size_t most = places(block);
  const auto last_ahead = [&](std::size_t batch) {
    const Half& ahead = half(batch);
    std::int64_t last = -1;
    if (batch < halves_.size() && ahead.block == &placed) {
      for (const std::int64_t expert : ahead.experts) last = std::max(last, expert);
    }
    return last < 0 ? static_cast<std::int64_t>(block.experts().size()) : last;
  };
  batches_.assign(1, {});
  std::int64_t tile = 0;
  for (std::size_t e = 0; e < rows_of_.size(); ++e) {
    if (rows_of_[e] == 0) continue;
    const bool shared = e == slots_before.size();
    const auto expert = static_cast<std::int64_t>(e);
    if (!shared && (slots_before[e] < 0 || block.slot_of(expert) < 0)) {
      const std::vector<std::int64_t>& brought = batches_.back().brought;
      const bool behind = !brought.empty() && expert > last_ahead(batches_.size() - 1);
      if (brought.size() == most || behind) batches_.push_back({tile, 0, {}});
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
  Half& here = half(0);
  if (!batch.brought.empty()) give_to(here, placed);
  std::vector<std::int64_t> kept;  // experts that are here and have been given a slot
  bool sent = false;
  cudaError_t code = cudaStreamWaitEvent(transfers_.copies, here.used, 0);
  for (const std::int64_t expert : batch.brought) {
    const std::int64_t slot = block.slot_of(expert);
    std::int64_t place = place_of(here, expert);
    if (place >= 0 && slot >= 0) kept.push_back(expert);
    if (place < 0) {
      if (slot < 0) {
        place = free_place(here, batch.brought);
        here.experts[static_cast<std::size_t>(place)] = expert;
      }
      sent = true;
      std::byte* const to = slot >= 0 ? placed.slot(slot) : place_in(here, place, block);
      if (code == cudaSuccess) code = placed.send(expert, to, *staging_, transfers_);
    }
    placed.point_to(expert, slot >= 0 ? placed.slot(slot) : place_in(here, place, block));
  }
  if (sent && code == cudaSuccess) code = record_filled(here);
  if (code == cudaSuccess) code = cudaStreamWaitEvent(stream_, here.filled, 0);
  for (const std::int64_t expert : kept) {
    if (code != cudaSuccess) break;
    code = cudaMemcpyAsync(placed.slot(block.slot_of(expert)), place_in(here, place_of(here, expert), block),
                           static_cast<std::size_t>(block.slot_bytes()), cudaMemcpyDeviceToDevice, stream_);
  }
  if (code == cudaSuccess && !batch.brought.empty()) code = placed.send_table(values_, stream_);
  tiles.tiles = tiles_ + batch.first_tile;
  tiles.count = values_.add(static_cast<std::int32_t>(batch.tiles));
  tiles.most = batch.tiles;
  return code;
}

cudaError_t ExpertHost::end() {
  const cudaError_t code = cudaEventRecord(half(0).used, stream_);
  next_half_ = 1 - next_half_;
  return code;
}

// What need not be laid out is there with its copy.
cudaError_t ExpertHost::record_filled(Half& half) {
  cudaError_t code = cudaEventRecord(copied_, transfers_.copies);
  if (code == cudaSuccess) code = cudaStreamWaitEvent(transfers_.layouts, copied_, 0);
  return code != cudaSuccess ? code : cudaEventRecord(half.filled, transfers_.layouts);
}

// --- places ---------------------------------------------------------------------------------------------------------

void ExpertHost::set_area(std::byte* area, std::int64_t bytes) {
  area_ = area;
  area_bytes_ = bytes;
  for (Half& each : halves_) each = {nullptr, {}, each.filled, each.used};
}

std::int64_t ExpertHost::half_bytes() const { return area_bytes_ / 2 / kAlignment * kAlignment; }

std::size_t ExpertHost::places(const HostedExperts& block) const {
  return static_cast<std::size_t>(half_bytes() / block.slot_bytes());
}

std::byte* ExpertHost::place_in(const Half& half, std::int64_t place, const HostedExperts& block) const {
  return area_ + (&half - halves_.data()) * half_bytes() + place * block.slot_bytes();
}

void ExpertHost::give_to(Half& half, const CudaExperts& placed) {
  if (half.block == &placed) return;
  half.block = &placed;
  half.experts.assign(places(*placed.hosted()), -1);
}

std::int64_t ExpertHost::place_of(const Half& half, std::int64_t expert) {
  const auto found = std::find(half.experts.begin(), half.experts.end(), expert);
  return found == half.experts.end() ? -1 : found - half.experts.begin();
}

std::int64_t ExpertHost::free_place(const Half& half, std::span<const std::int64_t> needed) {
  const auto found = std::find_if(half.experts.begin(), half.experts.end(), [needed](std::int64_t expert) {
    return !std::binary_search(needed.begin(), needed.end(), expert);
  });
  return found - half.experts.begin();
}

// --- the next block -------------------------------------------------------------------------------------------------

void ExpertHost::enlist(CudaExperts& block) {
  block.served_by(this);
  if (!enlisted_.empty()) enlisted_.back().next = enlisted_.size();
  enlisted_.push_back({&block, 0});
}

void ExpertHost::forget(const CudaExperts& block) {
  for (const cudaStream_t each : {transfers_.copies, transfers_.layouts}) cudaStreamSynchronize(each);
  for (Half& each : halves_) {
    if (each.block == &block) each = {nullptr, {}, each.filled, each.used};
  }
  // Models go as a whole; what order is left is of no use.
  std::erase_if(enlisted_, [&block](const Enlisted& each) { return each.block == &block; });
  for (std::size_t i = 0; i < enlisted_.size(); ++i) enlisted_[i].next = (i + 1) % enlisted_.size();
  last_ = kNone;
}

void ExpertHost::learn_order(const CudaExperts& placed) {
  const auto found = std::find_if(enlisted_.begin(), enlisted_.end(),
                                  [&placed](const Enlisted& each) { return each.block == &placed; });
  const auto now = static_cast<std::size_t>(found - enlisted_.begin());
  if (last_ != kNone && last_ != now) enlisted_[last_].next = now;
  last_ = now;
}

// Rows that choose k of E experts evenly touch 1 - (1 - k/E)^rows of them: nine in ten from 36 rows on for 8 of 128,
// and from 117 on for 10 of 512. Before the choice is known, all are brought in order of their numbers; of fewer rows
// too many would be brought for nothing. Only out of locked memory, from which copies need nobody.
cudaError_t ExpertHost::look_ahead(CudaExperts& placed, std::int64_t rows, bool again) {
  constexpr double kMostOfThem = 0.9;
  const CudaExperts& next = again ? placed : *enlisted_[enlisted_[last_].next].block;
  const HostedExperts& block = *next.hosted();
  const double share = static_cast<double>(block.chosen()) / static_cast<double>(block.experts().size());
  if (!block.locked() || 1 - std::pow(1 - share, static_cast<double>(rows)) < kMostOfThem) return cudaSuccess;
  std::int64_t expert = 0;
  cudaError_t code = fill_ahead(half(0), next, expert);
  if (code == cudaSuccess) code = fill_ahead(half(1), next, expert);
  return code;
}

cudaError_t ExpertHost::fill_ahead(Half& half, const CudaExperts& next, std::int64_t& expert) {
  const HostedExperts& block = *next.hosted();
  const auto count = static_cast<std::int64_t>(block.experts().size());
  cudaError_t code = cudaStreamWaitEvent(transfers_.copies, half.used, 0);
  half.block = &next;
  half.experts.assign(places(block), -1);
  for (std::size_t place = 0; place < half.experts.size(); ++place) {
    while (expert < count && block.slot_of(expert) >= 0) ++expert;
    if (expert == count || code != cudaSuccess) break;
    code = next.send(expert, place_in(half, static_cast<std::int64_t>(place), block), *staging_, transfers_);
    half.experts[place] = expert++;
  }
  return code != cudaSuccess ? code : record_filled(half);
}

}  // namespace lectern::engine::cuda
