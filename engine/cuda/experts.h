// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/routing.h"
#include "cuda/weights.h"
#include "ops/backend.h"

namespace lectern::engine::cuda {

// A matrix in a table on the device.
struct PlacedMatrix {
  DeviceMatrix matrix;
  std::int32_t type = 0;   // DType
  std::int32_t coded = 0;  // kIsCoded
};

struct PlacedExpert {
  PlacedMatrix gate;
  PlacedMatrix up;
  PlacedMatrix down;
};

class ExpertHost;
class HostedExperts;
class PassValues;

// Where the weights of a block are: one entry per expert, the shared one behind the others.
class CudaExperts final : public ExpertPlacement {
 public:
  // `hosted`: the experts that a router chooses, if they stay in the computer's memory; their slots are behind the
  // table.
  CudaExperts(HeapMemory& memory, std::byte* piece, const ExpertWeights& w, std::unique_ptr<HostedExperts> hosted);
  ~CudaExperts() override;
  CudaExperts(const CudaExperts&) = delete;
  CudaExperts& operator=(const CudaExperts&) = delete;

  static std::int64_t bytes(std::int64_t experts);  // with the shared one; without slots
  // The host's side of the memory, slots aside.
  std::vector<std::byte> contents() const;

  HostedExperts* hosted() const { return hosted_.get(); }
  std::byte* slot(std::int64_t index) const;
  // Queues a hosted expert's way to `to`.
  cudaError_t send(std::int64_t expert, std::byte* to, WeightStaging& staging, const TransferStreams& streams) const;
  // From the next send_table() on, which is queued, the expert is at `at`.
  void point_to(std::int64_t expert, std::byte* at);
  cudaError_t send_table(PassValues& values, cudaStream_t stream) const;
  // Who is to know when this goes.
  void served_by(ExpertHost* host) { host_ = host; }

  const PlacedExpert* table() const { return reinterpret_cast<const PlacedExpert*>(piece_); }
  unsigned* counters() const;  // two, 0 between launches

  // The types that occur.
  const std::set<DType>& gate() const { return gate_; }
  const std::set<DType>& up() const { return up_; }
  const std::set<DType>& down() const { return down_; }
  bool fused() const { return fused_; }  // every expert has gate and up of one type

 private:
  HeapMemory& memory_;
  std::byte* piece_;
  std::vector<PlacedExpert> entries_;  // the table, but for experts without a slot
  std::unique_ptr<HostedExperts> hosted_;
  ExpertHost* host_ = nullptr;
  bool fused_ = true;
  std::set<DType> gate_;
  std::set<DType> up_;
  std::set<DType> down_;
};

// Most working memory that mixture_of_experts() takes, whatever the types of the weights.
struct ExpertSizes {
  std::int64_t rows = 0;  // of a pass
  std::int64_t hidden = 0;
  std::int64_t width = 0;   // of an expert
  std::int64_t shared = 0;  // of the shared one; 0: none
  std::int64_t experts = 0;
  std::int64_t chosen = 0;
  bool hosted = false;  // some experts stay in the computer's memory
};
std::int64_t expert_working_bytes(const ExpertSizes& sizes);

}  // namespace lectern::engine::cuda
