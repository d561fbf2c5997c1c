// SPDX-License-Identifier: GPL-3.0-or-later
#include "synthetic_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "random_bits.h"
#include "runtime/token_work.h"

namespace lectern::engine::bench {
namespace {

constexpr std::array<Format, 3> kFormats = {{
    {"fp8", DType::kF8E4M3, DType::kF8E4M3, DType::kBF16, DType::kBF16, DType::kBF16, DType::kBF16, DType::kBF16},
    {"q4_k", DType::kQ4K, DType::kQ4K, DType::kQ4K, DType::kQ6K, DType::kF32, DType::kQ4K, DType::kF32},
    {"bf16", DType::kBF16, DType::kBF16, DType::kBF16, DType::kBF16, DType::kBF16, DType::kBF16, DType::kBF16},
}};

float deviation_for(std::int64_t cols) { return 1.0F / std::sqrt(static_cast<float>(cols)); }

// z with P(N(0, 1) > z) = p, by halving.
double upper_quantile(double p) {
  double low = 0;
  double high = 8;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(middle / std::sqrt(2.0)) / 2 > p ? low : high) = middle;
  }
  return low;
}

// Lengths of router rows with which expert of rank r is chosen in proportion to (r + 1)^-0.3: a normal score of
// deviation s passes a common threshold with the wanted probability if s times that quantile is the same for all.
std::vector<float> router_lengths(std::int64_t experts, std::int64_t chosen, std::uint64_t seed) {
  constexpr double kSkew = -0.3;
  double sum = 0;
  for (std::int64_t r = 1; r <= experts; ++r) sum += std::pow(static_cast<double>(r), kSkew);
  std::vector<float> lengths;
  for (std::int64_t r = 1; r <= experts; ++r) {
    const double p = static_cast<double>(chosen) * std::pow(static_cast<double>(r), kSkew) / sum;
    lengths.push_back(static_cast<float>(2 / upper_quantile(std::clamp(p, 1e-6, 0.4))));
  }
  for (std::size_t i = lengths.size(); i > 1; --i) std::swap(lengths[i - 1], lengths[random_bits(seed + i) % i]);
  return lengths;
}

class ModelMaker {
 public:
  ModelMaker(const ModelConfig& config, const Format& format, Backend& backend, WeightMaker& maker)
      : config_(config), format_(format), backend_(backend), maker_(maker) {}

  Result<ModelWeights> make() {
    ModelWeights all;
    const std::int64_t d = config_.hidden_size;
    ENGINE_TRY(all.embedding, maker_.make(format_.embedding, config_.vocabulary, d, 1.0F));
    ENGINE_TRY(all.head, maker_.make(format_.head, config_.vocabulary, d, deviation_for(d)));
    ENGINE_TRY(all.norm, gains(d));
    for (const LayerKind kind : config_.layers) {
      ENGINE_TRY(LayerWeights layer, make_layer(kind));
      all.layers.push_back(std::move(layer));
    }
    MtpWeights mtp;
    ENGINE_TRY(mtp.fc, matrix(d, 2 * d));
    ENGINE_TRY(mtp.embedding_norm, gains(d));
    ENGINE_TRY(mtp.hidden_norm, gains(d));
    ENGINE_TRY(mtp.layer, make_layer(LayerKind::kAttention));
    ENGINE_TRY(mtp.norm, gains(d));
    all.mtp = std::move(mtp);
    all.bytes = maker_.used();
    return all;
  }

 private:
  using Numbers = Result<std::unique_ptr<Buffer>>;

  Result<WeightHandle> matrix(std::int64_t rows, std::int64_t cols) {
    return maker_.make(format_.matrices, rows, cols, deviation_for(cols));
  }

  Numbers numbers(const std::vector<float>& list) {
    ENGINE_TRY(std::unique_ptr<Buffer> buffer,
               backend_.make_buffer(static_cast<std::int64_t>(list.size()), MemoryUse::kWeights));
    backend_.upload(list, buffer->data());
    return Numbers(std::move(buffer));
  }

  Numbers random_numbers(std::int64_t count, float mean, float deviation) {
    std::vector<float> list(static_cast<std::size_t>(count));
    seed_ = random_bits(seed_);
    for (std::size_t i = 0; i < list.size(); ++i) list[i] = mean + deviation * random_normal(seed_ + i);
    return numbers(list);
  }

  Numbers gains(std::int64_t count) { return random_numbers(count, 1.0F, 0.05F); }

  // Heads that forget a tenth to a ten-thousandth per token where a is 0, on a logarithmic scale.
  Numbers decay_rates() {
    std::vector<float> rates;
    const auto heads = static_cast<double>(config_.delta.value_heads);
    for (double head = 0; head < heads; ++head) {
      const double decay = std::log(0.9) * std::pow(1e-3, head / std::max(1.0, heads - 1));
      rates.push_back(static_cast<float>(decay / std::numbers::ln2));  // softplus(0) = ln 2
    }
    return numbers(rates);
  }

  Result<DeltaNetWeights> make_delta_net() {
    DeltaNetWeights w;
    const std::int64_t d = config_.hidden_size;
    ENGINE_TRY(w.qkv, matrix(config_.conv_channels(), d));
    ENGINE_TRY(w.z, matrix(config_.value_width(), d));
    ENGINE_TRY(w.ba, maker_.make(format_.gates, 2 * config_.delta.value_heads, d, deviation_for(d)));
    ENGINE_TRY(w.out, matrix(d, config_.value_width()));
    ENGINE_TRY(w.conv, random_numbers(config_.conv_channels() * config_.conv_taps, 0.0F, 0.5F));
    ENGINE_TRY(w.rate, decay_rates());
    ENGINE_TRY(w.dt_bias, random_numbers(config_.delta.value_heads, 0.0F, 0.1F));
    ENGINE_TRY(w.norm, gains(config_.delta.value_dim));
    return w;
  }

  Result<AttentionWeights> make_attention() {
    AttentionWeights w;
    const std::int64_t d = config_.hidden_size;
    ENGINE_TRY(w.query, matrix(config_.query_width(), d));
    ENGINE_TRY(w.gate, matrix(config_.query_width(), d));
    ENGINE_TRY(w.key, matrix(config_.kv_width(), d));
    ENGINE_TRY(w.value, matrix(config_.kv_width(), d));
    ENGINE_TRY(w.out, matrix(d, config_.query_width()));
    ENGINE_TRY(w.q_norm, gains(config_.attention.head_dim));
    ENGINE_TRY(w.k_norm, gains(config_.attention.head_dim));
    return w;
  }

  Result<ExpertWeights> make_experts() {
    ExpertWeights w;
    const std::int64_t d = config_.hidden_size;
    const std::int64_t m = config_.expert_width;
    const std::int64_t s = config_.shared_expert_width;
    seed_ = random_bits(seed_);
    ENGINE_TRY(const std::unique_ptr<Buffer> lengths,
               numbers(router_lengths(config_.experts, config_.experts_per_token, seed_)));
    ENGINE_TRY(w.router, maker_.make(format_.router, config_.experts, d, deviation_for(d), lengths->data()));
    ENGINE_CHECK(backend_.status());  // `lengths` has been read
    for (std::int64_t e = 0; e < config_.experts; ++e) {
      ENGINE_TRY(WeightHandle gate, maker_.make(format_.experts, m, d, deviation_for(d)));
      ENGINE_TRY(WeightHandle up, maker_.make(format_.experts, m, d, deviation_for(d)));
      ENGINE_TRY(WeightHandle down, maker_.make(format_.experts, d, m, deviation_for(m)));
      w.gate.push_back(std::move(gate));
      w.up.push_back(std::move(up));
      w.down.push_back(std::move(down));
    }
    ENGINE_TRY(w.shared_router, maker_.make(format_.shared_gate, 1, d, deviation_for(d)));
    ENGINE_TRY(w.shared_gate, maker_.make(format_.experts, s, d, deviation_for(d)));
    ENGINE_TRY(w.shared_up, maker_.make(format_.experts, s, d, deviation_for(d)));
    ENGINE_TRY(w.shared_down, maker_.make(format_.experts, d, s, deviation_for(s)));
    w.experts_per_token = config_.experts_per_token;
    w.normalise_top_k = config_.normalise_top_k;
    ENGINE_CHECK(backend_.place_experts(w));
    return w;
  }

  Result<LayerWeights> make_layer(LayerKind kind) {
    LayerWeights layer;
    ENGINE_TRY(layer.input_norm, gains(config_.hidden_size));
    ENGINE_TRY(layer.post_norm, gains(config_.hidden_size));
    if (kind == LayerKind::kDeltaNet) {
      ENGINE_TRY(layer.delta, make_delta_net());
    } else {
      ENGINE_TRY(layer.attention, make_attention());
    }
    ENGINE_TRY(layer.experts, make_experts());
    return layer;
  }

  const ModelConfig& config_;
  const Format& format_;
  Backend& backend_;
  WeightMaker& maker_;
  std::uint64_t seed_ = 17;
};

struct Sum {
  double bytes = 0;
  double numbers = 0;
  void add(const WeightHandle& w) {
    if (!w) return;
    bytes += static_cast<double>(matrix_bytes(*w));
    numbers += static_cast<double>(w->rows() * w->cols());
  }
};

// All matrices of a layer that every token meets.
Sum dense_part(const LayerWeights& layer) {
  Sum sum;
  if (layer.delta) {
    for (const WeightHandle* w : {&layer.delta->qkv, &layer.delta->z, &layer.delta->ba, &layer.delta->out}) sum.add(*w);
  }
  if (layer.attention) {
    const AttentionWeights& a = *layer.attention;
    for (const WeightHandle* w : {&a.query, &a.gate, &a.key, &a.value, &a.out}) sum.add(*w);
  }
  const ExpertWeights& e = *layer.experts;
  for (const WeightHandle* w : {&e.router, &e.shared_router, &e.shared_gate, &e.shared_up, &e.shared_down}) sum.add(*w);
  return sum;
}

std::int64_t layer_bytes(const ModelConfig& c, const Format& f, LayerKind kind) {
  const std::int64_t d = c.hidden_size;
  const auto matrix = [&](std::int64_t rows, std::int64_t cols) { return matrix_bytes(f.matrices, rows, cols); };
  const auto expert = [&](std::int64_t m) { return 2 * matrix_bytes(f.experts, m, d) + matrix_bytes(f.experts, d, m); };
  const std::int64_t mixer =
      kind == LayerKind::kDeltaNet
          ? matrix(c.conv_channels(), d) + matrix(c.value_width(), d) +
                matrix_bytes(f.gates, 2 * c.delta.value_heads, d) + matrix(d, c.value_width())
          : 2 * matrix(c.query_width(), d) + 2 * matrix(c.kv_width(), d) + matrix(d, c.query_width());
  return mixer + matrix_bytes(f.router, c.experts, d) + matrix_bytes(f.shared_gate, 1, d) +
         c.experts * expert(c.expert_width) + expert(c.shared_expert_width);
}

}  // namespace

std::optional<Format> find_format(std::string_view name) {
  for (const Format& format : kFormats) {
    if (format.name == name) return format;
  }
  return std::nullopt;
}

ModelConfig large_shape(std::int64_t layers) {
  ModelConfig config;
  config.architecture = "qwen3_next";
  config.hidden_size = 2048;
  config.vocabulary = 151936;
  config.context_tokens = (std::int64_t{1} << 20) + 8192;
  for (std::int64_t i = 0; i < layers; ++i) {
    config.layers.push_back(i % 4 == 3 ? LayerKind::kAttention : LayerKind::kDeltaNet);
  }
  config.attention = {16, 2, 256};
  config.rotary_dims = 64;
  config.delta = {16, 32, 128, 128};
  config.experts = 512;
  config.experts_per_token = 10;
  config.expert_width = 512;
  config.shared_expert_width = 512;
  return config;
}

ModelConfig tiny_shape() {
  ModelConfig config = large_shape(4);
  config.hidden_size = 256;
  config.vocabulary = 512;
  config.attention = {4, 2, 64};
  config.rotary_dims = 16;
  config.delta = {2, 4, 64, 64};
  config.experts = 16;
  config.experts_per_token = 4;
  config.expert_width = 256;
  config.shared_expert_width = 256;
  return config;
}

std::int64_t weights_bytes(const ModelConfig& config, const Format& format) {
  const std::int64_t d = config.hidden_size;
  std::int64_t bytes = matrix_bytes(format.embedding, config.vocabulary, d) +
                       matrix_bytes(format.head, config.vocabulary, d) + matrix_bytes(format.matrices, d, 2 * d) +
                       layer_bytes(config, format, LayerKind::kAttention);
  for (const LayerKind kind : config.layers) bytes += layer_bytes(config, format, kind);
  return bytes;
}

Result<ModelWeights> make_weights(const ModelConfig& config, const Format& format, Backend& backend,
                                  WeightMaker& maker) {
  ENGINE_TRY(ModelWeights weights, ModelMaker(config, format, backend, maker).make());
  ENGINE_CHECK(backend.status());
  return weights;
}

Traffic traffic_of(const ModelConfig& config, const ModelWeights& weights) {
  Traffic t;
  Sum head;
  head.add(weights.head);
  t.head_bytes = head.bytes;
  t.head_numbers = head.numbers;
  Sum experts;
  const auto state = static_cast<double>(config.delta.value_heads * config.delta.key_dim * config.delta.value_dim);
  for (const LayerWeights& layer : weights.layers) {
    const Sum dense = dense_part(layer);
    t.dense_bytes += dense.bytes;
    t.dense_numbers += dense.numbers;
    for (const WeightHandle* w : {&layer.experts->gate[0], &layer.experts->up[0], &layer.experts->down[0]}) {
      experts.add(*w);
    }
    if (layer.delta) {
      t.state_bytes += 2 * sizeof(float) * state;
      t.delta_operations += 7 * state;  // decay, S^T k, rank-one update, S^T q
    } else {
      t.kv_numbers += 2 * static_cast<double>(config.kv_width());
      t.attention_operations += 4 * static_cast<double>(config.query_width());  // q . k and p v
    }
  }
  t.expert_layers = static_cast<double>(weights.layers.size());
  t.expert_bytes = experts.bytes / t.expert_layers;
  t.chosen_numbers = experts.numbers * static_cast<double>(config.experts_per_token);
  t.all_experts = static_cast<double>(config.experts);
  Sum mtp = dense_part(weights.mtp->layer);
  mtp.add(weights.mtp->fc);
  t.mtp_dense_bytes = mtp.bytes;
  return t;
}

double Traffic::decode_bytes(double context, KvType kv, double sequences, double experts) const {
  return dense_bytes + head_bytes + expert_layers * experts * expert_bytes +
         sequences * (state_bytes + kv_numbers * kv_number_bytes(kv) * context);
}

double Traffic::prefill_operations(double tokens) const {
  const double per_token = 2 * (dense_numbers + chosen_numbers) + delta_operations + attention_operations * tokens / 2;
  return per_token * tokens + 2 * head_numbers;
}

}  // namespace lectern::engine::bench
