// SPDX-License-Identifier: Apache-2.0
#include "cuda/expert_slots.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "cuda/device_memory.h"
#include "cuda/weights.h"

namespace lectern::engine::cuda {
namespace {

constexpr double kHalfLife = 8192;  // rows after which a choice counts half
constexpr double kLoyalty = 1.25;   // an expert that has a slot keeps it until another is chosen so much more

std::int64_t whole_pieces(std::int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::int64_t number_bytes(const HostMatrix& matrix) { return bytes_of(matrix.dtype, matrix.rows * matrix.cols); }

std::int64_t scale_bytes(const HostMatrix& matrix) {
  if (matrix.dtype != DType::kF8E4M3) return 0;
  return (matrix.rows + 127) / 128 * ((matrix.cols + 127) / 128) * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

std::int64_t expert_bytes(const cpu::HostExpert& expert) {
  return whole_pieces(device_bytes(*expert.gate)) + whole_pieces(device_bytes(*expert.up)) +
         whole_pieces(device_bytes(*expert.down));
}

HostedExperts::HostedExperts(const ExpertWeights& w, std::int64_t slots)
    : chosen_(w.experts_per_token),
      slots_(std::min(slots, static_cast<std::int64_t>(w.gate.size()))),
      slot_of_(w.gate.size(), -1),
      scores_(w.gate.size(), 0.0) {
  for (std::size_t e = 0; e < w.gate.size(); ++e) {
    experts_.push_back({&host_matrix(*w.gate[e]), &host_matrix(*w.up[e]), &host_matrix(*w.down[e])});
    slot_bytes_ = std::max(slot_bytes_, expert_bytes(experts_.back()));
  }
  std::iota(slot_of_.begin(), slot_of_.begin() + slots_, 0);
}

bool HostedExperts::lock(const std::shared_ptr<LockedMemory>& memory) {
  std::vector<std::span<const std::byte>> pieces;
  std::int64_t bytes = 0;
  for (const cpu::HostExpert& expert : experts_) {
    for (const HostMatrix* matrix : {expert.gate, expert.up, expert.down}) {
      const std::int64_t size = number_bytes(*matrix);
      pieces.push_back({static_cast<const std::byte*>(matrix->data), static_cast<std::size_t>(size)});
      bytes += size;
    }
  }
  if (!memory->count(bytes)) return false;
  memory->lock(std::move(pieces));
  if (!move_others(*memory)) {
    memory->uncount(bytes);
    return false;
  }
  locked_ = memory;
  return true;
}

// Copies what is not locked where it is: nothing but the matrices at both ends where pages could be locked, and scales,
// which lie here and there; or everything.
bool HostedExperts::move_others(LockedMemory& memory) {
  const auto each = [&](const auto& body) {
    for (cpu::HostExpert& expert : experts_) {
      for (const HostMatrix** matrix : {&expert.gate, &expert.up, &expert.down}) {
        const std::int64_t numbers = number_bytes(**matrix);
        body(*matrix, memory.holds((*matrix)->data, numbers) ? 0 : numbers, scale_bytes(**matrix));
      }
    }
  };
  std::int64_t bytes = 0;
  each([&](const HostMatrix* /*matrix*/, std::int64_t numbers, std::int64_t scales) {
    bytes += whole_pieces(numbers) + whole_pieces(scales);
  });
  if (bytes == 0) return true;
  std::size_t done = 0;
  std::byte* const copies = memory.take(bytes);
  if (copies == nullptr) return false;
  const auto moved = [&](const void* from, std::int64_t size) {
    std::memcpy(copies + done, from, static_cast<std::size_t>(size));
    return copies + std::exchange(done, done + static_cast<std::size_t>(whole_pieces(size)));
  };
  each([&](const HostMatrix*& matrix, std::int64_t numbers, std::int64_t scales) {
    if (numbers + scales == 0) return;
    HostMatrix& copy = moved_.emplace_back(*matrix);
    if (numbers > 0) copy.data = moved(matrix->data, numbers);
    if (scales > 0) copy.scales = reinterpret_cast<const float*>(moved(matrix->scales, scales));
    matrix = &copy;
  });
  return true;
}

void HostedExperts::count(std::span<const std::int32_t> rows_of, std::int64_t rows) {
  const double fading = std::exp2(-static_cast<double>(rows) / kHalfLife);
  for (std::size_t e = 0; e < scores_.size(); ++e) scores_[e] = fading * scores_[e] + rows_of[e];
}

void HostedExperts::assign(std::span<const std::int32_t> rows_of) {
  const auto worth = [this](std::size_t e) { return scores_[e] * (slot_of_[e] >= 0 ? kLoyalty : 1.0); };
  std::vector<std::size_t> candidates;
  for (std::size_t e = 0; e < slot_of_.size(); ++e) {
    if (slot_of_[e] >= 0 || rows_of[e] > 0) candidates.push_back(e);
  }
  std::stable_sort(candidates.begin(), candidates.end(), [&](std::size_t a, std::size_t b) {
    return worth(a) != worth(b) ? worth(a) > worth(b) : slot_of_[a] >= 0 && slot_of_[b] < 0;
  });
  const std::size_t staying = std::min(candidates.size(), static_cast<std::size_t>(slots_));
  std::vector<std::int64_t> free;
  for (std::size_t i = staying; i < candidates.size(); ++i) {
    const std::int64_t slot = std::exchange(slot_of_[candidates[i]], -1);
    if (slot >= 0) free.push_back(slot);
  }
  for (std::size_t i = 0; i < staying; ++i) {
    std::int64_t& slot = slot_of_[candidates[i]];
    if (slot >= 0) continue;
    slot = free.back();
    free.pop_back();
  }
}

}  // namespace lectern::engine::cuda
