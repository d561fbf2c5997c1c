// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <span>
#include <vector>

#include "ops/backend.h"

// Every operation of the backend contract, in double precision and in the plainest form. No backend uses this.
namespace lectern::engine::oracle {

// Largest difference from the oracle, relative to the largest number of the expected result.
inline constexpr double kPointwise = 2e-6;
inline constexpr double kProduct = 5e-6;         // sums of up to some thousand products
inline constexpr double kRoundedProduct = 1e-2;  // activations and weights rounded to BF16
inline constexpr double kAttention = 5e-6;
inline constexpr double kRoundedAttention = 2e-2;  // queries and weights rounded to BF16, scores of about 10
inline constexpr double kRecurrence = 3e-5;        // errors of a state that lives through all tokens

struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(std::int64_t r, std::int64_t c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c)) {}
  double& operator()(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * cols + c)]; }
  double operator()(std::int64_t r, std::int64_t c) const { return values[static_cast<std::size_t>(r * cols + c)]; }
};

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }

inline Matrix linear(const Matrix& x, const Matrix& w) {
  Matrix y(x.rows, w.rows);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      for (std::int64_t k = 0; k < x.cols; ++k) y(t, n) += x(t, k) * w(n, k);
    }
  }
  return y;
}

inline Matrix rms_norm(const Matrix& x, std::span<const double> gain, double eps) {
  Matrix y = x;
  const auto width = static_cast<std::int64_t>(gain.size());
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t group = 0; group < x.cols; group += width) {
      double square = 0;
      for (std::int64_t i = 0; i < width; ++i) square += x(t, group + i) * x(t, group + i);
      const double factor = 1 / std::sqrt(square / static_cast<double>(width) + eps);
      for (std::int64_t i = 0; i < width; ++i) y(t, group + i) *= factor * gain[static_cast<std::size_t>(i)];
    }
  }
  return y;
}

inline Matrix gated_rms_norm(const Matrix& o, const Matrix& z, std::span<const double> gain, double eps) {
  Matrix y = rms_norm(o, gain, eps);
  for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] *= silu(z.values[i]);
  return y;
}

inline Matrix layer_norm(const Matrix& x, std::span<const double> gain, std::span<const double> bias, double eps) {
  Matrix y = x;
  const auto width = static_cast<double>(x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double mean = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) mean += x(t, i) / width;
    double variance = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) variance += (x(t, i) - mean) * (x(t, i) - mean) / width;
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const auto at = static_cast<std::size_t>(i);
      y(t, i) = (x(t, i) - mean) / std::sqrt(variance + eps) * gain[at] + bias[at];
    }
  }
  return y;
}

inline double gelu(double x) { return x / 2 * (1 + std::erf(x / std::numbers::sqrt2)); }

inline Matrix rotate(const Matrix& x, const RotaryTable& table, std::int64_t first, std::int64_t head_dim) {
  Matrix y = x;
  const auto pairs = static_cast<std::int64_t>(table.inverse_frequency.size());
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t head = 0; head < x.cols; head += head_dim) {
      for (std::int64_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(first + t) * table.inverse_frequency[static_cast<std::size_t>(i)];
        const double c = std::cos(angle) * table.magnitude;
        const double s = std::sin(angle) * table.magnitude;
        y(t, head + i) = x(t, head + i) * c - x(t, head + i + pairs) * s;
        y(t, head + i + pairs) = x(t, head + i + pairs) * c + x(t, head + i) * s;
      }
    }
  }
  return y;
}

// Query row t sees keys [begin(t), end(t)) of `k`, `v` [tokens, kv_heads * head_dim].
template <class Begin, class End>
Matrix attend(const Matrix& q, const Matrix& k, const Matrix& v, const AttentionShape& shape, const Begin& begin,
              const End& end) {
  Matrix y(q.rows, q.cols);
  const std::int64_t group = shape.query_heads / shape.kv_heads;
  for (std::int64_t t = 0; t < q.rows; ++t) {
    for (std::int64_t h = 0; h < shape.query_heads; ++h) {
      const std::int64_t q_at = h * shape.head_dim;
      const std::int64_t k_at = h / group * shape.head_dim;
      std::vector<double> scores;
      for (std::int64_t p = begin(t); p < end(t); ++p) {
        double score = 0;
        for (std::int64_t i = 0; i < shape.head_dim; ++i) score += q(t, q_at + i) * k(p, k_at + i);
        scores.push_back(score / std::sqrt(static_cast<double>(shape.head_dim)));
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (double& score : scores) sum += score = std::exp(score - largest);
      for (std::int64_t p = begin(t); p < end(t); ++p) {
        const double weight = scores[static_cast<std::size_t>(p - begin(t))] / sum;
        for (std::int64_t i = 0; i < shape.head_dim; ++i) y(t, q_at + i) += weight * v(p, k_at + i);
      }
    }
  }
  return y;
}

// `state` [taps - 1, channels] is updated.
inline Matrix causal_conv(const Matrix& u, const Matrix& w, Matrix& state) {
  Matrix y(u.rows, u.cols);
  const std::int64_t kept = w.cols - 1;
  Matrix all(kept + u.rows, u.cols);
  std::copy(state.values.begin(), state.values.end(), all.values.begin());
  std::copy(u.values.begin(), u.values.end(), all.values.begin() + kept * u.cols);
  for (std::int64_t t = 0; t < u.rows; ++t) {
    for (std::int64_t c = 0; c < u.cols; ++c) {
      for (std::int64_t j = 0; j < w.cols; ++j) y(t, c) += w(c, j) * all(t + j, c);
      y(t, c) = silu(y(t, c));
    }
  }
  std::copy(all.values.end() - kept * u.cols, all.values.end(), state.values.begin());
  return y;
}

// The recurrence, token by token; `state` [value_heads * key_dim, value_dim] is updated.
inline Matrix delta_rule(const Matrix& qkv, const Matrix& ba, std::span<const double> a_log,
                         std::span<const double> dt_bias, const DeltaShape& shape, Matrix& state) {
  const std::int64_t keys = shape.key_heads * shape.key_dim;
  Matrix y(qkv.rows, shape.value_heads * shape.value_dim);
  for (std::int64_t t = 0; t < qkv.rows; ++t) {
    for (std::int64_t h = 0; h < shape.value_heads; ++h) {
      const std::int64_t q_at = h / (shape.value_heads / shape.key_heads) * shape.key_dim;
      const std::int64_t v_at = 2 * keys + h * shape.value_dim;
      double q_square = 0;
      double k_square = 0;
      for (std::int64_t i = 0; i < shape.key_dim; ++i) {
        q_square += qkv(t, q_at + i) * qkv(t, q_at + i);
        k_square += qkv(t, keys + q_at + i) * qkv(t, keys + q_at + i);
      }
      const double q_scale = 1 / std::sqrt(q_square + 1e-6) / std::sqrt(static_cast<double>(shape.key_dim));
      const double k_scale = 1 / std::sqrt(k_square + 1e-6);
      const double beta = sigmoid(ba(t, h));
      const double step = ba(t, shape.value_heads + h) + dt_bias[static_cast<std::size_t>(h)];
      const double softplus = step > 20 ? step : std::log1p(std::exp(step));
      const double keep = std::exp(-std::exp(a_log[static_cast<std::size_t>(h)]) * softplus);
      for (std::int64_t j = 0; j < shape.value_dim; ++j) {
        double memory = 0;
        for (std::int64_t i = 0; i < shape.key_dim; ++i) {
          double& s = state(h * shape.key_dim + i, j);
          s *= keep;
          memory += s * qkv(t, keys + q_at + i) * k_scale;
        }
        const double change = beta * (qkv(t, v_at + j) - memory);
        for (std::int64_t i = 0; i < shape.key_dim; ++i) {
          double& s = state(h * shape.key_dim + i, j);
          s += qkv(t, keys + q_at + i) * k_scale * change;
          y(t, h * shape.value_dim + j) += s * qkv(t, q_at + i) * q_scale;
        }
      }
    }
  }
  return y;
}

struct Mlp {
  Matrix gate, up, down;
};

inline void add_mlp(const Matrix& x, std::int64_t t, const Mlp& mlp, double weight, Matrix& y) {
  std::vector<double> inner(static_cast<std::size_t>(mlp.gate.rows));
  for (std::int64_t n = 0; n < mlp.gate.rows; ++n) {
    double gate = 0;
    double up = 0;
    for (std::int64_t k = 0; k < x.cols; ++k) {
      gate += mlp.gate(n, k) * x(t, k);
      up += mlp.up(n, k) * x(t, k);
    }
    inner[static_cast<std::size_t>(n)] = silu(gate) * up;
  }
  for (std::int64_t n = 0; n < x.cols; ++n) {
    double sum = 0;
    for (std::int64_t k = 0; k < mlp.down.cols; ++k) sum += mlp.down(n, k) * inner[static_cast<std::size_t>(k)];
    y(t, n) += weight * sum;
  }
}

// Added to `y`.
inline void mixture_of_experts(const Matrix& x, const Matrix& router, const std::vector<Mlp>& experts,
                               const Matrix& shared_router, const Mlp& shared, std::int64_t per_token, bool normalise,
                               Matrix& y) {
  const Matrix logits = linear(x, router);
  const Matrix shared_gate = linear(x, shared_router);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    std::vector<std::int64_t> order(experts.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return logits(t, a) > logits(t, b); });
    double all = 0;
    double chosen = 0;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const double p = std::exp(logits(t, order[i]) - logits(t, order[0]));
      all += p;
      if (static_cast<std::int64_t>(i) < per_token) chosen += p;
    }
    for (std::int64_t i = 0; i < per_token; ++i) {
      const std::int64_t e = order[static_cast<std::size_t>(i)];
      const double p = std::exp(logits(t, e) - logits(t, order[0]));
      add_mlp(x, t, experts[static_cast<std::size_t>(e)], p / (normalise ? chosen : all), y);
    }
    add_mlp(x, t, shared, sigmoid(shared_gate(t, 0)), y);
  }
}

// Means of the sequences, each divided by its length.
inline Matrix mean_pool(const Matrix& x, std::span<const std::int64_t> starts) {
  Matrix y(static_cast<std::int64_t>(starts.size()) - 1, x.cols);
  for (std::int64_t s = 0; s < y.rows; ++s) {
    double square = 0;
    for (std::int64_t c = 0; c < x.cols; ++c) {
      for (std::int64_t t = starts[static_cast<std::size_t>(s)]; t < starts[static_cast<std::size_t>(s) + 1]; ++t) {
        y(s, c) += x(t, c);
      }
      square += y(s, c) * y(s, c);
    }
    for (std::int64_t c = 0; c < x.cols; ++c) y(s, c) /= std::sqrt(square);
  }
  return y;
}

}  // namespace lectern::engine::oracle
