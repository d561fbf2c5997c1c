// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cuda/locked_memory.h"
#include "ops/backend.h"

// Experts that stay in the computer's memory. Each block has slots on the GPU for some of them. A few rows meet those
// on the GPU there and the others on the CPU, where they lie; many rows have the others brought, some at a time, and
// the experts that were used most take the slots as they pass.
namespace lectern::engine::cuda {

// A matrix that stays where it is.
class HostWeight final : public Weight {
 public:
  explicit HostWeight(const HostMatrix& matrix) : Weight(matrix.rows, matrix.cols), matrix_(matrix) {}
  const HostMatrix& matrix() const { return matrix_; }

 private:
  HostMatrix matrix_;
};

inline const HostMatrix& host_matrix(const Weight& weight) { return static_cast<const HostWeight&>(weight).matrix(); }

// What an expert takes on the GPU.
std::int64_t expert_bytes(const cpu::HostExpert& expert);

// Those of a block.
class HostedExperts {
 public:
  // The first experts have the slots until some are known to be used more.
  HostedExperts(const ExpertWeights& w, std::int64_t slots);

  // Locks the experts' memory where it is, or moves them into memory that is locked. False: neither can be done.
  bool lock(const std::shared_ptr<LockedMemory>& memory);
  bool locked() const { return locked_ != nullptr; }

  std::span<const cpu::HostExpert> experts() const { return experts_; }
  std::int64_t chosen() const { return chosen_; }  // experts of a token
  std::int64_t slots() const { return slots_; }
  std::int64_t slot_bytes() const { return slot_bytes_; }  // of the largest expert
  std::int64_t all_slots_bytes() const { return slots_ * slot_bytes_; }
  std::int64_t slot_of(std::int64_t expert) const { return slot_of_[static_cast<std::size_t>(expert)]; }  // -1: none

  // How often experts were chosen; what is long ago counts less.
  void count(std::span<const std::int32_t> rows_of, std::int64_t rows);
  // Gives the slots to those chosen most, of experts that have one and those that have rows now; the latter have to be
  // brought.
  void assign(std::span<const std::int32_t> rows_of);

 private:
  bool move_others(LockedMemory& memory);

  std::shared_ptr<LockedMemory> locked_;
  std::deque<HostMatrix> moved_;
  std::vector<cpu::HostExpert> experts_;
  std::int64_t chosen_;
  std::int64_t slot_bytes_ = 0;
  std::int64_t slots_;
  std::vector<std::int64_t> slot_of_;
  std::vector<double> scores_;
};

}  // namespace lectern::engine::cuda
