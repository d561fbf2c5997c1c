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
constexpr std::int64_t kSolveBlock = 8;                   // rows of a chunk that are solved one by one
constexpr std::int64_t kRecurrentRows = kSmallBatchRows;  // go one by one: the chunked form has no gain there
constexpr float kLengthEpsilon = 1e-6F;
constexpr float kStrongestDecay = -1e4F;  // exp() of it is 0; keeps running sums finite

// S = keep S + k change^T
void apply_change(const Kernels& kernels, float keep, const float* k, const float* change, std::int64_t dk,
                  std::int64_t dv, float* state) {
  for (std::int64_t i = 0; i < dk; ++i) kernels.blend(keep, k[i], change, state + i * dv, dv);
}

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
    both_.resize(static_cast<std::size_t>(2 * dk_));
    seen_.resize(static_cast<std::size_t>(2 * dv_));
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
  // o = exp(g) S^T q + (q . k) change, where S is the state before. `record` (optional): [k | change | exp(g)].
  void step(std::int64_t index, float* o, float* record) {
    const float* k = key(index);
    const float* q = query(index);
    const float keep = from_start(index);
    float* change = value(index);
    std::copy_n(k, dk_, both_.data());
    std::copy_n(q, dk_, both_.data() + dk_);
    std::fill(seen_.begin(), seen_.end(), 0.0F);
    kernels_.combine({both_.data(), dk_, 2, dk_, state_, dv_, dv_, seen_.data(), dv_});
    kernels_.add_scaled(-keep, seen_.data(), change, dv_);
    kernels_.scale(beta_[static_cast<std::size_t>(index)], change, dv_);
    std::copy_n(seen_.data() + dv_, dv_, o);
    kernels_.blend(keep, kernels_.dot(q, k, dk_), change, o, dv_);
    apply_change(kernels_, keep, k, change, dk_, dv_, state_);
    if (record == nullptr) return;
    std::copy_n(k, dk_, record);
    std::copy_n(change, dv_, record + dk_);
    record[dk_ + dv_] = keep;
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
  std::vector<float> both_;    // [2, dk]: a key and its query
  std::vector<float> seen_;    // [2, dv]: what the state holds for them
  std::vector<float> turned_;  // scaled keys: [rows, dk], later [dk, rows]
  std::vector<float> pairs_;   // [capacity, capacity]
  std::vector<float> weights_;
};

}  // namespace

void CpuBackend::causal_conv(const Tensor& u, const float* w, std::int64_t taps, const float* state, const Tensor& y) {
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
}

void CpuBackend::advance_conv(const Tensor& u, std::int64_t taps, float* state) {
  const std::int64_t kept = taps - 1;
  const auto row_bytes = static_cast<std::size_t>(u.cols) * sizeof(float);
  for (std::int64_t i = 0; i < kept; ++i) {
    const std::int64_t t = u.rows - kept + i;
    std::memmove(state + i * u.cols, t < 0 ? state + (kept + t) * u.cols : u.row(t), row_bytes);
  }
}

namespace {

// Where the parts of a row of qkv begin for one value head.
struct HeadPlace {
  std::int64_t query, key, value;
};

HeadPlace place_of(const DeltaShape& shape, std::int64_t head) {
  const std::int64_t keys = shape.key_heads * shape.key_dim;
  const std::int64_t query = head / (shape.value_heads / shape.key_heads) * shape.key_dim;
  return {query, keys + query, 2 * keys + head * shape.value_dim};
}

// Rows [first, first + rows) of one head.
void load_head(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape, std::int64_t h,
               std::int64_t first, std::int64_t rows, DeltaHead& head) {
  const HeadPlace at = place_of(shape, h);
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* row = qkv.row(first + i);
    const float* gate = ba.row(first + i);
    const float beta = 1.0F / (1.0F + std::exp(-gate[h]));
    const float g = std::max(kStrongestDecay, gates.rate[h] * softplus(gate[shape.value_heads + h] + gates.dt_bias[h]));
    head.load(i, row + at.query, row + at.key, row + at.value, g, beta);
  }
}

}  // namespace

void CpuBackend::delta_rule(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape,
                            float* state, const Tensor& o) {
  const std::int64_t size = shape.key_dim * shape.value_dim;
  const auto run_head = [&](std::int64_t h) {
    DeltaHead head(kernels_, shape, state + h * size, std::min(kChunk, qkv.rows));
    for (std::int64_t first = 0; first < qkv.rows; first += kChunk) {
      const std::int64_t rows = std::min(kChunk, qkv.rows - first);
      load_head(qkv, ba, gates, shape, h, first, rows, head);
      float* out = o.row(first) + h * shape.value_dim;
      if (rows > kRecurrentRows) {
        head.chunk(rows, out, o.cols);
      } else {
        for (std::int64_t i = 0; i < rows; ++i) head.step(i, out + i * o.cols, nullptr);
      }
    }
  };
  slices(shape.value_heads, 1, 4 * qkv.rows * size, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t h = first; h < last; ++h) run_head(h);
  });
}

void CpuBackend::delta_rule_tentative(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates,
                                      const DeltaShape& shape, const float* state, float* changes, const Tensor& o) {
  const std::int64_t size = shape.key_dim * shape.value_dim;
  const std::int64_t record = shape.key_dim + shape.value_dim + 1;
  const auto run_head = [&](std::int64_t h) {
    std::vector<float> copy(state + h * size, state + (h + 1) * size);
    DeltaHead head(kernels_, shape, copy.data(), qkv.rows);
    load_head(qkv, ba, gates, shape, h, 0, qkv.rows, head);
    for (std::int64_t i = 0; i < qkv.rows; ++i) {
      head.step(i, o.row(i) + h * shape.value_dim, changes + (i * shape.value_heads + h) * record);
    }
  };
  slices(shape.value_heads, 1, 4 * qkv.rows * size, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t h = first; h < last; ++h) run_head(h);
  });
}

void CpuBackend::apply_changes(const float* changes, std::int64_t rows, const DeltaShape& shape, float* state) {
  const std::int64_t size = shape.key_dim * shape.value_dim;
  const std::int64_t record = shape.key_dim + shape.value_dim + 1;
  slices(shape.value_heads, 1, rows * size, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t h = first; h < last; ++h) {
      for (std::int64_t i = 0; i < rows; ++i) {
        const float* change = changes + (i * shape.value_heads + h) * record;
        apply_change(kernels_, change[record - 1], change, change + shape.key_dim, shape.key_dim, shape.value_dim,
                     state + h * size);
      }
    }
  });
}

}  // namespace lectern::engine::cpu
