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
constexpr std::int64_t kRecurrentRows = 8;  // at most this many rows go one by one: the chunked form has no gain there
constexpr float kLengthEpsilon = 1e-6F;

float softplus(float x) { return x > 20.0F ? x : std::log1p(std::exp(x)); }

// One value head: normalised keys and queries, values and gates of up to kChunk rows, and the state.
class DeltaHead {
 public:
  DeltaHead(const Kernels& kernels, const DeltaShape& shape, float* state)
      : kernels_(kernels),
        dk_(shape.key_dim),
        dv_(shape.value_dim),
        state_(state),
        q_(static_cast<std::size_t>(kChunk * dk_)),
        k_(static_cast<std::size_t>(kChunk * dk_)),
        v_(static_cast<std::size_t>(kChunk * dv_)),
        decay_(kChunk),
        beta_(kChunk),
        row_(static_cast<std::size_t>(dv_)) {}

  // Reads row `index` of the chunk.
  void load(std::int64_t index, const float* q, const float* k, const float* v, float g, float beta) {
    normalise(q, 1.0F / std::sqrt(static_cast<float>(dk_)), query(index));
    normalise(k, 1.0F, key(index));
    std::copy_n(v, dv_, value(index));
    decay_[static_cast<std::size_t>(index)] = g;
    beta_[static_cast<std::size_t>(index)] = beta;
  }

  // S = exp(g) S; S += k (beta (v - S^T k))^T; o = S^T q.
  void step(std::int64_t index, float* o) {
    const float* k = key(index);
    const float* q = query(index);
    kernels_.scale(std::exp(decay_[static_cast<std::size_t>(index)]), state_, dk_ * dv_);
    float* change = value(index);
    for (std::int64_t i = 0; i < dk_; ++i) kernels_.add_scaled(-k[i], state_ + i * dv_, change, dv_);
    kernels_.scale(beta_[static_cast<std::size_t>(index)], change, dv_);
    std::fill_n(o, dv_, 0.0F);
    for (std::int64_t i = 0; i < dk_; ++i) {
      kernels_.add_scaled(k[i], change, state_ + i * dv_, dv_);
      kernels_.add_scaled(q[i], state_ + i * dv_, o, dv_);
    }
  }

  // The same for rows 0 .. rows - 1 at once. With G the running sum of g, every exponent below is at most 0.
  void chunk(std::int64_t rows, float* o, std::int64_t o_stride) {
    for (std::int64_t i = 1; i < rows; ++i) {
      decay_[static_cast<std::size_t>(i)] += decay_[static_cast<std::size_t>(i - 1)];
    }
    solve(rows);
    for (std::int64_t i = 0; i < rows; ++i) output(i, o + i * o_stride);
    carry(rows);
  }

 private:
  float* query(std::int64_t i) { return q_.data() + i * dk_; }
  float* key(std::int64_t i) { return k_.data() + i * dk_; }
  float* value(std::int64_t i) { return v_.data() + i * dv_; }
  float sum(std::int64_t i) const { return decay_[static_cast<std::size_t>(i)]; }
  float between(std::int64_t i, std::int64_t j) const { return std::exp(sum(i) - sum(j)); }

  void normalise(const float* x, float scale, float* y) const {
    const float factor = scale / std::sqrt(kernels_.dot(x, x, dk_) + kLengthEpsilon);
    for (std::int64_t i = 0; i < dk_; ++i) y[i] = x[i] * factor;
  }

  // Replaces the values by V', the changes that each row writes, by forward substitution:
  // V'_i = beta_i (v_i - exp(G_i) S^T k_i - sum_{j<i} exp(G_i - G_j) (k_i . k_j) V'_j)
  void solve(std::int64_t rows) {
    for (std::int64_t i = 0; i < rows; ++i) {
      const float* k = key(i);
      float* change = value(i);
      const float from_start = std::exp(sum(i));
      for (std::int64_t c = 0; c < dk_; ++c) kernels_.add_scaled(-from_start * k[c], state_ + c * dv_, change, dv_);
      for (std::int64_t j = 0; j < i; ++j) {
        kernels_.add_scaled(-between(i, j) * kernels_.dot(k, key(j), dk_), value(j), change, dv_);
      }
      kernels_.scale(beta_[static_cast<std::size_t>(i)], change, dv_);
    }
  }

  // O_i = exp(G_i) S^T q_i + sum_{j<=i} exp(G_i - G_j) (q_i . k_j) V'_j
  void output(std::int64_t i, float* o) {
    const float* q = query(i);
    std::fill_n(row_.data(), dv_, 0.0F);
    for (std::int64_t c = 0; c < dk_; ++c) kernels_.add_scaled(q[c], state_ + c * dv_, row_.data(), dv_);
    kernels_.scale(std::exp(sum(i)), row_.data(), dv_);
    for (std::int64_t j = 0; j <= i; ++j) {
      kernels_.add_scaled(between(i, j) * kernels_.dot(q, key(j), dk_), value(j), row_.data(), dv_);
    }
    std::copy_n(row_.data(), dv_, o);
  }

  // S = exp(G_C) S + sum_j exp(G_C - G_j) k_j V'_j^T
  void carry(std::int64_t rows) {
    kernels_.scale(std::exp(sum(rows - 1)), state_, dk_ * dv_);
    for (std::int64_t j = 0; j < rows; ++j) {
      const float* k = key(j);
      const float weight = between(rows - 1, j);
      for (std::int64_t c = 0; c < dk_; ++c) kernels_.add_scaled(weight * k[c], value(j), state_ + c * dv_, dv_);
    }
  }

  const Kernels& kernels_;
  std::int64_t dk_;
  std::int64_t dv_;
  float* state_;  // [dk, dv]
  std::vector<float> q_, k_, v_;
  std::vector<float> decay_;  // g of each row; running sums during chunk()
  std::vector<float> beta_;
  std::vector<float> row_;
};

}  // namespace

void CpuBackend::causal_conv(const Tensor& u, const float* w, std::int64_t taps, float* state, const Tensor& y) {
  const std::int64_t channels = u.cols;
  const std::int64_t kept = taps - 1;
  const auto input = [&](std::int64_t t) { return t < 0 ? state + (kept + t) * channels : u.row(t); };
  slices(channels, 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = 0; t < u.rows; ++t) {
      float* out = y.row(t);
      std::fill(out + first, out + last, 0.0F);
      for (std::int64_t j = 0; j < taps; ++j) {
        const float* in = input(t - kept + j);
        for (std::int64_t c = first; c < last; ++c) out[c] += w[c * taps + j] * in[c];
      }
      kernels_.silu(out + first, last - first);
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
  team_.parallel_for(shape.value_heads, [&](std::int64_t h) {
    DeltaHead head(kernels_, shape, state + h * shape.key_dim * shape.value_dim);
    const std::int64_t q_at = h / per_key * shape.key_dim;
    const std::int64_t v_at = 2 * keys + h * shape.value_dim;
    const float rate = -std::exp(a_log[h]);
    for (std::int64_t first = 0; first < qkv.rows; first += kChunk) {
      const std::int64_t rows = std::min(kChunk, qkv.rows - first);
      for (std::int64_t i = 0; i < rows; ++i) {
        const float* row = qkv.row(first + i);
        const float* gates = ba.row(first + i);
        const float beta = 1.0F / (1.0F + std::exp(-gates[h]));
        const float g = rate * softplus(gates[shape.value_heads + h] + dt_bias[h]);
        head.load(i, row + q_at, row + keys + q_at, row + v_at, g, beta);
      }
      float* out = o.row(first) + h * shape.value_dim;
      if (rows > kRecurrentRows) {
        head.chunk(rows, out, o.cols);
      } else {
        for (std::int64_t i = 0; i < rows; ++i) head.step(i, out + i * o.cols);
      }
    }
  });
}

}  // namespace lectern::engine::cpu
