// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace lectern::engine::cuda {
class CudaBackend;
}

namespace lectern::engine::bench {

// How the experts of one block were chosen.
struct RoutingCounts {
  std::int64_t blocks = 0;               // observed
  std::int64_t distinct = 0;             // experts that some row chose, summed over the blocks
  std::vector<std::int64_t> popularity;  // choices of each expert rank, the most chosen of a block first, summed
};

// Time of all calls of one kind: an operation, with the shape of its weights where that matters.
struct OperationTime {
  std::string name;
  std::int64_t calls = 0;
  double seconds = 0;
  double bytes = 0;  // that had to be moved; 0: not counted
};

// Hands every call on to the CUDA backend and, when asked to, watches: each operation's time on the device, or which
// experts its rows choose.
class ObservedBackend final : public Backend {
 public:
  enum class Mode : std::uint8_t {
    kOff,
    kTimedQueued,   // passes are not remembered: operations are queued one by one behind a waiting device
    kTimedInGraph,  // passes are captured with a time stamp behind each operation
    kRouting,       // of mixture_of_experts(); not remembered
  };

  explicit ObservedBackend(cuda::CudaBackend& inner);
  ~ObservedBackend() override;

  void set_mode(Mode mode);
  // Passes since set_mode(), and what they took; sorted by time.
  std::int64_t timed_passes() const { return timed_passes_; }
  std::vector<OperationTime> operation_times() const;
  const RoutingCounts& routing() const { return routing_; }
  // Counts what mixture_of_experts() moves; until the routing is known nothing is counted for it.
  void set_experts_touched(double experts) { experts_touched_ = experts; }

  Result<WeightHandle> take_weight(const HostMatrix& matrix) override;
  Result<void> place_experts(ExpertWeights& w) override;
  Result<std::unique_ptr<Buffer>> make_buffer(std::int64_t floats, MemoryUse use) override;
  void copy(const float* from, float* to, std::int64_t floats) override;
  void copy_columns(const Tensor& from, const Tensor& to, std::int64_t first) override;
  void copy_rows(const Tensor& from, const Tensor& to, std::int64_t first) override;
  void upload(std::span<const float> from, float* to) override;
  void download(const float* from, std::span<float> to) override;
  DeviceMemory most_memory() const override;
  std::int64_t locked_bytes() const override;
  void begin_pass(std::span<const std::uint64_t> key) override;
  Result<void> end_pass() override;
  void drop_pass() override;
  Result<void> status() override;
  void embed(const Weight& table, std::span<const TokenId> tokens, const Tensor& y) override;
  void linear(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) override;
  void add_bias(const float* bias, const Tensor& y) override;
  void silu_gate(const Tensor& gate, const Tensor& y) override;
  void rms_norm(const Tensor& x, const float* gain, std::int64_t width, float eps, const Tensor& y) override;
  Result<std::unique_ptr<KvCache>> make_kv_cache(const AttentionShape& shape, KvType type) override;
  Result<void> reserve_kv(KvCache& cache, std::int64_t rows) override;
  void append_kv(const Tensor& k, const Tensor& v, KvCache& cache) override;
  void save_rows(const KvCache& cache, std::int64_t first, std::int64_t rows, std::span<std::byte> to) override;
  void load_rows(std::span<const std::byte> from, KvCache& cache) override;
  void rotate(const RotaryTable& table, std::int64_t first, std::int64_t head_dim, const Tensor& x) override;
  void attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) override;
  void sigmoid_gate(const Tensor& gate, const Tensor& y) override;
  void causal_conv(const Tensor& u, const float* w, std::int64_t taps, const float* state, const Tensor& y) override;
  void advance_conv(const Tensor& u, std::int64_t taps, float* state) override;
  void delta_rule(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape, float* state,
                  const Tensor& o) override;
  void delta_rule_tentative(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape,
                            const float* state, float* changes, const Tensor& o) override;
  void apply_changes(const float* changes, std::int64_t rows, const DeltaShape& shape, float* state) override;
  void gated_rms_norm(const Tensor& z, const float* gain, std::int64_t width, float eps, const Tensor& o) override;
  void mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) override;
  bool chooses_tokens(std::int64_t vocabulary) const override;
  void choose_tokens(const Tensor& logits, std::span<const TokenChoice> choices, TokenId* chosen) override;
  void download_tokens(const TokenId* from, std::span<TokenId> to) override;
  void embed_chosen(const Weight& table, const TokenId* chosen, const Tensor& y) override;
  void layer_norm(const Tensor& x, const float* gain, const float* bias, float eps, const Tensor& y) override;
  void gelu(const Tensor& x) override;
  void attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                            std::span<const std::int64_t> starts, const Tensor& y) override;
  void mean_pool(const Tensor& x, std::span<const std::int64_t> starts, const Tensor& y) override;

 private:
  class TimeStamps;

  bool timing() const { return mode_ == Mode::kTimedQueued || mode_ == Mode::kTimedInGraph; }
  // Puts a time stamp behind what `call` queues.
  template <class Call>
  void observe(const char* name, double bytes, const Call& call);
  void observe_routing(const Tensor& x, const ExpertWeights& w);

  cuda::CudaBackend& inner_;
  Mode mode_ = Mode::kOff;
  std::unique_ptr<TimeStamps> stamps_;
  std::int64_t timed_passes_ = 0;
  std::map<std::string, OperationTime> times_;
  RoutingCounts routing_;
  double experts_touched_ = 0;
};

}  // namespace lectern::engine::bench
