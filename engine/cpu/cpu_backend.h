// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/parallel.h"
#include "cpu/formed_rows.h"
#include "cpu/kernels.h"
#include "ops/backend.h"

namespace lectern::engine::cpu {

// Weights are read where they lie, in the mapped file.
class CpuWeight final : public Weight {
 public:
  explicit CpuWeight(const HostMatrix& matrix) : Weight(matrix.rows, matrix.cols), matrix_(matrix) {}
  const HostMatrix& matrix() const { return matrix_; }

 private:
  HostMatrix matrix_;
};

inline const HostMatrix& host_of(const Weight& weight) { return static_cast<const CpuWeight&>(weight).matrix(); }

// Matrices of an expert.
struct HostExpert {
  const HostMatrix* gate = nullptr;
  const HostMatrix* up = nullptr;
  const HostMatrix* down = nullptr;
};

// A row that an expert is computed for.
struct ExpertRow {
  std::int64_t expert = 0;  // place in the list of experts
  std::int64_t row = 0;
  float weight = 0;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, const Kernels& kernels);
  ~CpuBackend() override;

  Result<WeightHandle> take_weight(const HostMatrix& matrix) override;
  Result<void> place_experts(ExpertWeights& w) override;
  Result<std::unique_ptr<Buffer>> make_buffer(std::int64_t floats, MemoryUse use) override;
  void copy(const float* from, float* to, std::int64_t floats) override;
  void copy_columns(const Tensor& from, const Tensor& to, std::int64_t first) override;
  void upload(std::span<const float> from, float* to) override;
  void download(const float* from, std::span<float> to) override;

  void begin_pass(std::span<const std::uint64_t> /*key*/) override {}
  Result<void> end_pass() override { return {}; }
  void drop_pass() override {}
  Result<void> status() override { return {}; }

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
  // y += what the experts give for `rows`, weighted. `rows` by expert, and by row for each.
  void add_experts(const Tensor& x, std::span<const HostExpert> experts, std::span<const ExpertRow> rows,
                   const Tensor& y);

  void layer_norm(const Tensor& x, const float* gain, const float* bias, float eps, const Tensor& y) override;
  void gelu(const Tensor& x) override;
  void attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                            std::span<const std::int64_t> starts, const Tensor& y) override;
  void mean_pool(const Tensor& x, std::span<const std::int64_t> starts, const Tensor& y) override;

 private:
  // Work in multiplications, roughly, below which another thread's help costs more than it gives.
  static constexpr std::int64_t kWorthSharing = 100'000;

  // task(index) for all of [0, count), each as much work as `cost` says.
  template <class Task>
  void each(std::int64_t count, std::int64_t cost, const Task& task) {
    if (count * cost >= 2 * kWorthSharing) {
      team_.parallel_for(count, task);
    } else {
      for (std::int64_t i = 0; i < count; ++i) task(i);
    }
  }

  // body(first, last) for slices of [0, count), multiples of `grain` except at the end, a few per thread; `cost` is the
  // work of one item.
  template <class Body>
  void slices(std::int64_t count, std::int64_t grain, std::int64_t cost, const Body& body) {
    const std::int64_t most = std::min<std::int64_t>(4 * team_.size(), count * cost / kWorthSharing);
    const std::int64_t parts = team_.size() == 1 ? 1 : std::min(most, count / grain);
    if (parts <= 1) {
      body(std::int64_t{0}, count);
      return;
    }
    const std::int64_t step = (count + parts * grain - 1) / (parts * grain) * grain;
    team_.parallel_for((count + step - 1) / step,
                       [&](std::int64_t i) { body(i * step, std::min(count, (i + 1) * step)); });
  }

  // body(first, last) for slices of a product's columns, each a share of the weights that fits the caches.
  template <class Body>
  void weight_slices(const HostMatrix& w, std::int64_t rows, const Body& body) {
    if (w.rows * w.cols * rows < 2 * kWorthSharing) {
      body(std::int64_t{0}, w.rows);
      return;
    }
    const std::int64_t step = rows <= kSmallBatchRows ? slice_of(w.dtype, w.cols, w.rows) : kTileColumns;
    team_.parallel_for((w.rows + step - 1) / step,
                       [&](std::int64_t i) { body(i * step, std::min(w.rows, (i + 1) * step)); });
  }

  static constexpr std::int64_t kTileColumns = 64;  // of a product with many rows, in one task

  // Rows of a weight that one task of a small batch reads: long enough runs of memory, a few tasks for each thread.
  std::int64_t slice_of(DType type, std::int64_t cols, std::int64_t rows) const;
  void form_rows(const Tensor& x, Form form, FormedRows& to);

  struct Experts;
  void route(const Tensor& x, const ExpertWeights& w);
  void add_sorted(const Tensor& x, const Tensor& y);
  void form_inputs(const Tensor& x);
  void expand(std::int64_t rows);
  void form_inner(std::int64_t rows);
  void contract(std::int64_t rows, const Tensor& y);

  void attend_ranges(const Tensor& q, const KvCache& cache, std::int64_t before, const AttentionShape& shape,
                     std::int64_t range, const Tensor& y);
  float* attention_memory(std::int64_t floats);  // on a cache line, kept between calls

  ThreadTeam team_;
  const Kernels& kernels_;
  FormedRows linear_rows_;
  std::unique_ptr<Experts> experts_;  // memory of mixture_of_experts()
  std::vector<float> attention_memory_;
};

}  // namespace lectern::engine::cpu
