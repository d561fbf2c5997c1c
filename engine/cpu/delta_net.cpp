// SPDX-License-Identifier: Apache-2.0
// Causal convolution and the gated delta rule (Yang et al. 2024, "Gated Delta Networks").
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/cpu_backend.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kChunk = 64;
constexpr std::int64_t kSolveBlock = 8;     // rows of a chunk that are solved one by one
constexpr std::int64_t kRecurrentRows = 8;  // at most this many rows go one by one: the chunked form has no gain there
constexpr float kLengthEpsilon = 1e-6F;
constexpr float kStrongestDecay = -1e4F;  // exp() of it is 0; keeps running sums finite

float softplus(float x) { return x > 20.0F ? x : std::log1p(std::exp(x)); }

// One value head: normalised keys and queries, values and gates of up to `capacity` rows, and the state.
class DeltaHead {
 public:
  DeltaHead(const Kernels& kernels, const DeltaShape& shape, float* state, std::int64_t capacity)
      : kernels_(kernels),
        dk_(shape.key_dim),
        dv_(shape.value_dim),
        capacity_(capacity),
        state_(state),
        q_(static_cast<std::size_t>(capacity * dk_)),
        k_(static_cast<std::size_t>(capacity * dk_)),
        v_(static_cast<std::size_t>(capacity * dv_)),
        out_(static_cast<std::size_t>(capacity * dv_)),
        decay_(static_cast<std::size_t>(capacity)),
        beta_(static_cast<std::size_t>(capacity)) {
    if (capacity <= kRecurrentRows) return;
    turned_.resize(k_.size());
    pairs_.resize(static_cast<std::size_t>(capacity * capacity));
    weights_.resize(pairs_.size());
  }

  // Reads row `index` of the chunk.
  void load(std::int64_t index, const float* q, const float* k, const float* v, float g, float beta) {
    normalise(q, 1.0F / std::sqrt(static_cast<float>(dk_)), query(index));
    normalise(k, 1.0F, key(index));
    std::copy_n(v, dv_, value(index));
    decay_[static_cast<std::size_t>(index)] = g;
    beta_[static_cast<std::size_t>(index)] = beta;
  }

  // S = exp(g) S; S += k (beta (v - S^T k))^T; o = S^T q, with one pass to read S and one to write it:
  // o = exp(g) S^T q + (q . k) change, where S is the state before.
  void step(std::int64_t index, float* o) {
    const float* k = key(index);
    const float* q = query(index);
    const float keep = from_start(index);
    float* change = value(index);
    float* memory = out_.data();
    std::fill_n(memory, dv_, 0.0F);
    std::fill_n(o, dv_, 0.0F);
    kernels_.combine({k, dk_, 1, dk_, state_, dv_, dv_, memory, dv_});
    kernels_.combine({q, dk_, 1, dk_, state_, dv_, dv_, o, dv_});
    kernels_.add_scaled(-keep, memory, change, dv_);
    kernels_.scale(beta_[static_cast<std::size_t>(index)], change, dv_);
    kernels_.blend(keep, kernels_.dot(q, k, dk_), change, o, dv_);
    for (std::int64_t i = 0; i < dk_; ++i) kernels_.blend(keep, k[i], change, state_ + i * dv_, dv_);
  }

  // The same for rows 0 .. rows - 1 at once. With G the running sum of g, every exponent below is at most 0.
  void chunk(std::int64_t rows, float* o, std::int64_t o_stride) {
    for (std::int64_t i = 1; i < rows; ++i) {
      decay_[static_cast<std::size_t>(i)] += decay_[static_cast<std::size_t>(i - 1)];
    }
    weigh_pairs(rows);
    multiply_rows(key(0), rows);
    solve(rows);
    give_output(rows, o, o_stride);
    carry(rows);
  }

 private:
  float* query(std::int64_t i) { return q_.data() + i * dk_; }
  float* key(std::int64_t i) { return k_.data() + i * dk_; }
  float* value(std::int64_t i) { return v_.data() + i * dv_; }
  double sum(std::int64_t i) const { return decay_[static_cast<std::size_t>(i)]; }
  float from_start(std::int64_t i) const { return static_cast<float>(std::exp(sum(i))); }

  void normalise(const float* x, float scale, float* y) const {
    const float factor = scale / std::sqrt(kernels_.dot(x, x, dk_) + kLengthEpsilon);
    for (std::int64_t i = 0; i < dk_; ++i) y[i] = x[i] * factor;
  }

  // weights_[i, j] = exp(G_i - G_j) for j <= i, else 0.
  void weigh_pairs(std::int64_t rows) {
    for (std::int64_t i = 0; i < rows; ++i) {
      float* row = &weights_[at(i, 0)];
      for (std::int64_t j = 0; j <= i; ++j) row[j] = static_cast<float>(sum(i) - sum(j));
      std::fill(row + i + 1, row + rows, 0.0F);
      kernels_.exponentials(0.0F, row, i + 1);
    }
  }

  // pairs_[i, j] = (x_i . k_j) exp(G_i - G_j) for j <= i, else 0.
  void multiply_rows(const float* x, std::int64_t rows) {
    kernels_.multiply({x, dk_, rows, dk_, k_.data(), DType::kF32, dk_, pairs_.data(), capacity_, 0, rows, false});
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < rows; ++j) pairs_[at(i, j)] *= weights_[at(i, j)];
    }
  }

  // Replaces the values by V', the changes that each row writes, by forward substitution:
  // V'_i = beta_i (v_i - exp(G_i) S^T k_i - sum_{j<i} exp(G_i - G_j) (k_i . k_j) V'_j)
  void solve(std::int64_t rows) {
    kernels_.scale(-1.0F, pairs_.data(), rows * capacity_);
    std::copy_n(k_.data(), rows * dk_, turned_.data());
    for (std::int64_t i = 0; i < rows; ++i) kernels_.scale(-from_start(i), turned_.data() + i * dk_, dk_);
    kernels_.combine({turned_.data(), dk_, rows, dk_, state_, dv_, dv_, v_.data(), dv_});
    for (std::int64_t block = 0; block < rows; block += kSolveBlock) {
      const std::int64_t end = std::min(rows, block + kSolveBlock);
      kernels_.combine({&pairs_[at(block, 0)], capacity_, end - block, block, v_.data(), dv_, dv_, value(block), dv_});
      for (std::int64_t i = block; i < end; ++i) {
        kernels_.combine({&pairs_[at(i, block)], capacity_, 1, i - block, value(block), dv_, dv_, value(i), dv_});
        kernels_.scale(beta_[static_cast<std::size_t>(i)], value(i), dv_);
      }
    }
  }

  // O_i = exp(G_i) S^T q_i + sum_{j<=i} exp(G_i - G_j) (q_i . k_j) V'_j
  void give_output(std::int64_t rows, float* o, std::int64_t o_stride) {
    multiply_rows(query(0), rows);
    for (std::int64_t i = 0; i < rows; ++i) kernels_.scale(from_start(i), query(i), dk_);
    std::fill_n(out_.data(), rows * dv_, 0.0F);
    kernels_.combine({q_.data(), dk_, rows, dk_, state_, dv_, dv_, out_.data(), dv_});
    kernels_.combine({pairs_.data(), capacity_, rows, rows, v_.data(), dv_, dv_, out_.data(), dv_});
    for (std::int64_t i = 0; i < rows; ++i) std::copy_n(out_.data() + i * dv_, dv_, o + i * o_stride);
  }

  // S = exp(G_C) S + sum_j exp(G_C - G_j) k_j V'_j^T
  void carry(std::int64_t rows) {
    const float* weight = &weights_[at(rows - 1, 0)];
    for (std::int64_t j = 0; j < rows; ++j) {
      for (std::int64_t c = 0; c < dk_; ++c)
        turned_[static_cast<std::size_t>(c * capacity_ + j)] = weight[j] * key(j)[c];
    }
    kernels_.scale(from_start(rows - 1), state_, dk_ * dv_);
    kernels_.combine({turned_.data(), capacity_, dk_, rows, v_.data(), dv_, dv_, state_, dv_});
  }

  std::size_t at(std::int64_t row, std::int64_t column) const {
    return static_cast<std::size_t>(row * capacity_ + column);
  }

  const Kernels& kernels_;
  std::int64_t dk_;
  std::int64_t dv_;
  std::int64_t capacity_;
  float* state_;  // [dk, dv]
  std::vector<float> q_, k_, v_, out_;
  std::vector<double> decay_;  // g of each row; running sums during chunk(), whose differences must stay exact
  std::vector<float> beta_;
  std::vector<float> turned_;  // scaled keys: [rows, dk], later [dk, rows]
  std::vector<float> pairs_;   // [capacity, capacity]
  std::vector<float> weights_;
};

}  // namespace

void CpuBackend::causal_conv(const Tensor& u, const float* w, std::int64_t taps, float* state, const Tensor& y) {
  const std::int64_t channels = u.cols;
  const std::int64_t kept = taps - 1;
  const auto input = [&](std::int64_t t) { return t < 0 ? state + (kept + t) * channels : u.row(t); };
  slices(channels, 16, u.rows * taps, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t count = last - first;
    std::vector<float> turned(static_cast<std::size_t>(taps * count));  // [taps, count]
    for (std::int64_t j = 0; j < taps; ++j) {
      for (std::int64_t c = 0; c < count; ++c) {
        turned[static_cast<std::size_t>(j * count + c)] = w[(first + c) * taps + j];
      }
    }
    for (std::int64_t t = 0; t < u.rows; ++t) {
      float* out = y.row(t) + first;
      kernels_.norm(1.0F, input(t) + first, &turned[static_cast<std::size_t>(kept * count)], out, count);
      for (std::int64_t j = 0; j < kept; ++j) {
        kernels_.add_product(input(t - kept + j) + first, &turned[static_cast<std::size_t>(j * count)], out, count);
      }
      kernels_.silu(out, count);
    }
  });
  // The last `kept` inputs of (state, u); fewer rows than that leave some of the old ones.
  for (std::int64_t i = 0; i < kept; ++i) {
    std::memmove(state + i * channels, input(u.rows - kept + i), static_cast<std::size_t>(channels) * sizeof(float));
  }
}

void CpuBackend::delta_rule(const Tensor& qkv, const Tensor& ba, const float* a_log, const float* dt_bias,
                            const DeltaShape& shape, float* state, const Tensor& o) {
  const std::int64_t keys = shape.key_heads * shape.key_dim;
  const std::int64_t per_key = shape.value_heads / shape.key_heads;
  const std::int64_t capacity = std::min(kChunk, qkv.rows);
  const auto run_head = [&](std::int64_t h) {
    DeltaHead head(kernels_, shape, state + h * shape.key_dim * shape.value_dim, capacity);
    const std::int64_t q_at = h / per_key * shape.key_dim;
    const std::int64_t v_at = 2 * keys + h * shape.value_dim;
    const float rate = -std::exp(a_log[h]);
    for (std::int64_t first = 0; first < qkv.rows; first += kChunk) {
      const std::int64_t rows = std::min(kChunk, qkv.rows - first);
      for (std::int64_t i = 0; i < rows; ++i) {
        const float* row = qkv.row(first + i);
        const float* gates = ba.row(first + i);
        const float beta = 1.0F / (1.0F + std::exp(-gates[h]));
        const float g = std::max(kStrongestDecay, rate * softplus(gates[shape.value_heads + h] + dt_bias[h]));
        head.load(i, row + q_at, row + keys + q_at, row + v_at, g, beta);
      }
      float* out = o.row(first) + h * shape.value_dim;
      if (rows > kRecurrentRows) {
        head.chunk(rows, out, o.cols);
      } else {
        for (std::int64_t i = 0; i < rows; ++i) head.step(i, out + i * o.cols);
      }
    }
  };
  slices(shape.value_heads, 1, 4 * qkv.rows * shape.key_dim * shape.value_dim,
         [&](std::int64_t first, std::int64_t last) {
           for (std::int64_t h = first; h < last; ++h) run_head(h);
         });
}

}  // namespace lectern::engine::cpu
