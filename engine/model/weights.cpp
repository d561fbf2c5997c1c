// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <utility>

namespace lectern::engine {
namespace {

// Source row of every destination row.
using RowOrder = std::vector<std::int64_t>;

void append_rows(RowOrder& order, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) order.push_back(first + i);
}

float half_to_float(std::uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const float sign = (half & 0x8000) != 0 ? -1.0F : 1.0F;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

class WeightBinder {
 public:
  WeightBinder(const ModelConfig& config, Backend& backend, TensorFiles files) : config_(config), backend_(backend) {
    model_.files = std::move(files);
    for (const auto& [name, tensor] : model_.files.tensors()) unread_.insert(name);
  }

  Result<ModelWeights> bind() {
    const std::int64_t d = config_.hidden_size;
    ENGINE_TRY(model_.embedding, matrix("model.embed_tokens.weight", {config_.vocabulary, d}));
    ENGINE_TRY(model_.norm, gain("model.norm.weight", d, 1.0F));
    if (!config_.tied_embeddings) {
      ENGINE_TRY(model_.head, matrix("lm_head.weight", {config_.vocabulary, d}));
    } else {
      unread_.erase("lm_head.weight");
    }
    for (std::size_t i = 0; i < config_.layers.size(); ++i) {
      ENGINE_TRY(LayerWeights layer, bind_layer("model.layers." + std::to_string(i) + ".", config_.layers[i]));
      model_.layers.push_back(std::move(layer));
    }
    ENGINE_CHECK(bind_mtp());
    if (!unread_.empty()) {
      return Error{ErrorCode::kUnsupported,
                   "Tensor " + *unread_.begin() + " (and " + std::to_string(unread_.size() - 1) +
                       " more) belongs to no part of this model; the files hold another model."};
    }
    return std::move(model_);
  }

 private:
  Result<const StoredTensor*> find(const std::string& name) {
    const auto& tensors = model_.files.tensors();
    auto found = tensors.find(name);
    if (found == tensors.end() && name.starts_with("mtp.")) found = tensors.find("model." + name);
    if (found == tensors.end()) {
      return Error{ErrorCode::kCorrupt, "Tensor " + name + " is missing from the model files; fetch the model again."};
    }
    unread_.erase(found->first);
    return &found->second;
  }

  // `shape` as the reference writes it; a stored shape may differ by dimensions of length 1.
  Result<HostMatrix> stored(const std::string& name, const std::vector<std::int64_t>& shape) {
    ENGINE_TRY(const StoredTensor* tensor, find(name));
    if (tensor->shape != shape) {
      return Error{ErrorCode::kCorrupt, "Tensor " + name + " has the shape " + shape_text(tensor->shape) +
                                            ", but config.json asks for " + shape_text(shape) + "."};
    }
    HostMatrix host;
    host.rows = shape.empty() ? 1 : shape.front();
    host.cols = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) host.cols *= shape[i];
    host.data = tensor->bytes.data();
    if (tensor->dtype == "F32") {
      host.dtype = DType::kF32;
    } else if (tensor->dtype == "BF16") {
      host.dtype = DType::kBF16;
    } else if (tensor->dtype == "F16") {
      host.dtype = DType::kF16;
    } else {
      return Error{ErrorCode::kUnsupported,
                   "Tensor " + name + " has the type " + tensor->dtype + "; expected F32, F16 or BF16."};
    }
    model_.parameters += host.rows * host.cols;
    return host;
  }

  Result<WeightHandle> hand_over(const HostMatrix& host) {
    const bool aligned = std::bit_cast<std::uintptr_t>(host.data) % bytes_of(host.dtype) == 0;
    if (host.dtype != DType::kF16 && aligned) {
      model_.bytes += host.rows * host.cols * static_cast<std::int64_t>(bytes_of(host.dtype));
      return backend_.take_weight(host);
    }
    return reordered(host, {});
  }

  // A copy in which row i is row order[i] of `host` (all rows in place when empty); F16 becomes F32.
  Result<WeightHandle> reordered(const HostMatrix& host, const RowOrder& order) {
    HostMatrix copy = host;
    copy.rows = order.empty() ? host.rows : static_cast<std::int64_t>(order.size());
    if (host.dtype == DType::kF16) copy.dtype = DType::kF32;
    const std::size_t row_bytes = static_cast<std::size_t>(host.cols) * bytes_of(copy.dtype);
    std::vector<std::byte>& memory = model_.copies.emplace_back(static_cast<std::size_t>(copy.rows) * row_bytes);
    for (std::int64_t row = 0; row < copy.rows; ++row) {
      copy_row(host, order.empty() ? row : order[static_cast<std::size_t>(row)], memory.data() + row * row_bytes);
    }
    copy.data = memory.data();
    model_.bytes += static_cast<std::int64_t>(memory.size());
    return backend_.take_weight(copy);
  }

  static void copy_row(const HostMatrix& host, std::int64_t row, std::byte* to) {
    const std::size_t stride = static_cast<std::size_t>(host.cols) * bytes_of(host.dtype);
    const std::byte* from = static_cast<const std::byte*>(host.data) + static_cast<std::size_t>(row) * stride;
    if (host.dtype != DType::kF16) {
      std::memcpy(to, from, stride);
      return;
    }
    for (std::int64_t i = 0; i < host.cols; ++i) {
      std::uint16_t half = 0;
      std::memcpy(&half, from + i * 2, 2);
      const float value = half_to_float(half);
      std::memcpy(to + i * 4, &value, 4);
    }
  }

  Result<WeightHandle> matrix(const std::string& name, const std::vector<std::int64_t>& shape) {
    ENGINE_TRY(const HostMatrix host, stored(name, shape));
    return hand_over(host);
  }

  Result<std::vector<float>> numbers(const std::string& name, const std::vector<std::int64_t>& shape) {
    ENGINE_TRY(const HostMatrix host, stored(name, shape));
    std::vector<float> values(static_cast<std::size_t>(host.rows * host.cols));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (host.dtype == DType::kF32) {
        std::memcpy(&values[i], static_cast<const std::byte*>(host.data) + i * 4, 4);
        continue;
      }
      std::uint16_t bits = 0;
      std::memcpy(&bits, static_cast<const std::byte*>(host.data) + i * 2, 2);
      values[i] = host.dtype == DType::kF16 ? half_to_float(bits)
                                            : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
    }
    return values;
  }

  Result<std::unique_ptr<Buffer>> vector(const std::string& name, const std::vector<std::int64_t>& shape) {
    return gain_of(name, shape, 0.0F);
  }

  Result<std::unique_ptr<Buffer>> gain(const std::string& name, std::int64_t width, float offset) {
    return gain_of(name, {width}, offset);
  }

  Result<std::unique_ptr<Buffer>> gain_of(const std::string& name, const std::vector<std::int64_t>& shape,
                                          float offset) {
    ENGINE_TRY(std::vector<float> values, numbers(name, shape));
    for (float& value : values) value += offset;
    ENGINE_TRY(std::unique_ptr<Buffer> buffer, backend_.make_buffer(static_cast<std::int64_t>(values.size())));
    backend_.upload(values, buffer->data());
    model_.bytes += static_cast<std::int64_t>(values.size() * sizeof(float));
    return buffer;
  }

  Result<LayerWeights> bind_layer(const std::string& prefix, LayerKind kind) {
    LayerWeights layer;
    ENGINE_TRY(layer.input_norm, gain(prefix + "input_layernorm.weight", config_.hidden_size, 1.0F));
    ENGINE_TRY(layer.post_norm, gain(prefix + "post_attention_layernorm.weight", config_.hidden_size, 1.0F));
    if (kind == LayerKind::kDeltaNet) {
      ENGINE_TRY(layer.delta, bind_delta(prefix + "linear_attn."));
    } else {
      ENGINE_TRY(layer.attention, bind_attention(prefix + "self_attn."));
    }
    ENGINE_TRY(layer.experts, bind_experts(prefix + "mlp."));
    return layer;
  }

  // On disk qkvz is grouped by key head: [q | k | v of its value heads | z of its value heads]; ba likewise.
  Result<DeltaNetWeights> bind_delta(const std::string& prefix) {
    const DeltaShape& shape = config_.delta;
    const std::int64_t d = config_.hidden_size;
    const std::int64_t shared = shape.value_heads / shape.key_heads;
    const std::int64_t group = 2 * shape.key_dim + 2 * shared * shape.value_dim;
    RowOrder qkv, z, ba;
    for (int part = 0; part < 2; ++part) {
      for (std::int64_t g = 0; g < shape.key_heads; ++g)
        append_rows(qkv, g * group + part * shape.key_dim, shape.key_dim);
      for (std::int64_t g = 0; g < shape.key_heads; ++g) append_rows(ba, (2 * g + part) * shared, shared);
    }
    for (std::int64_t g = 0; g < shape.key_heads; ++g) {
      const std::int64_t values = g * group + 2 * shape.key_dim;
      append_rows(qkv, values, shared * shape.value_dim);
      append_rows(z, values + shared * shape.value_dim, shared * shape.value_dim);
    }
    DeltaNetWeights w;
    ENGINE_TRY(const HostMatrix qkvz, stored(prefix + "in_proj_qkvz.weight", {shape.key_heads * group, d}));
    ENGINE_TRY(const HostMatrix gates, stored(prefix + "in_proj_ba.weight", {2 * shape.value_heads, d}));
    ENGINE_TRY(w.qkv, reordered(qkvz, qkv));
    ENGINE_TRY(w.z, reordered(qkvz, z));
    ENGINE_TRY(w.ba, reordered(gates, ba));
    ENGINE_TRY(w.out, matrix(prefix + "out_proj.weight", {d, config_.value_width()}));
    ENGINE_TRY(w.conv, vector(prefix + "conv1d.weight", {config_.conv_channels(), 1, config_.conv_taps}));
    ENGINE_TRY(w.a_log, vector(prefix + "A_log", {shape.value_heads}));
    ENGINE_TRY(w.dt_bias, vector(prefix + "dt_bias", {shape.value_heads}));
    ENGINE_TRY(w.norm, gain(prefix + "norm.weight", shape.value_dim, 0.0F));
    return w;
  }

  // On disk every query head is followed by its output gate.
  Result<AttentionWeights> bind_attention(const std::string& prefix) {
    const std::int64_t d = config_.hidden_size;
    const std::int64_t width = config_.attention.head_dim;
    RowOrder query, gate;
    for (std::int64_t head = 0; head < config_.attention.query_heads; ++head) {
      append_rows(query, 2 * head * width, width);
      append_rows(gate, (2 * head + 1) * width, width);
    }
    AttentionWeights w;
    ENGINE_TRY(const HostMatrix both, stored(prefix + "q_proj.weight", {2 * config_.query_width(), d}));
    ENGINE_TRY(w.query, reordered(both, query));
    ENGINE_TRY(w.gate, reordered(both, gate));
    ENGINE_TRY(w.key, matrix(prefix + "k_proj.weight", {config_.kv_width(), d}));
    ENGINE_TRY(w.value, matrix(prefix + "v_proj.weight", {config_.kv_width(), d}));
    ENGINE_TRY(w.out, matrix(prefix + "o_proj.weight", {d, config_.query_width()}));
    ENGINE_TRY(w.q_norm, gain(prefix + "q_norm.weight", width, 1.0F));
    ENGINE_TRY(w.k_norm, gain(prefix + "k_norm.weight", width, 1.0F));
    return w;
  }

  Result<ExpertWeights> bind_experts(const std::string& prefix) {
    const std::int64_t d = config_.hidden_size;
    const std::int64_t shared = config_.shared_expert_width;
    ExpertWeights w;
    w.experts_per_token = config_.experts_per_token;
    w.normalise_top_k = config_.normalise_top_k;
    ENGINE_TRY(w.router, matrix(prefix + "gate.weight", {config_.experts, d}));
    ENGINE_TRY(w.shared_router, matrix(prefix + "shared_expert_gate.weight", {1, d}));
    ENGINE_TRY(w.shared_gate, matrix(prefix + "shared_expert.gate_proj.weight", {shared, d}));
    ENGINE_TRY(w.shared_up, matrix(prefix + "shared_expert.up_proj.weight", {shared, d}));
    ENGINE_TRY(w.shared_down, matrix(prefix + "shared_expert.down_proj.weight", {d, shared}));
    if (model_.files.tensors().contains(prefix + "experts.gate_up_proj")) {
      ENGINE_CHECK(bind_fused_experts(prefix + "experts.", w));
      return w;
    }
    for (std::int64_t e = 0; e < config_.experts; ++e) {
      const std::string expert = prefix + "experts." + std::to_string(e) + ".";
      ENGINE_TRY(WeightHandle gate, matrix(expert + "gate_proj.weight", {config_.expert_width, d}));
      ENGINE_TRY(WeightHandle up, matrix(expert + "up_proj.weight", {config_.expert_width, d}));
      ENGINE_TRY(WeightHandle down, matrix(expert + "down_proj.weight", {d, config_.expert_width}));
      w.gate.push_back(std::move(gate));
      w.up.push_back(std::move(up));
      w.down.push_back(std::move(down));
    }
    return w;
  }

  // Files saved by transformers 5 may hold [experts, gate | up, d] and [experts, d, width] instead.
  Result<void> bind_fused_experts(const std::string& prefix, ExpertWeights& w) {
    const std::int64_t width = config_.expert_width;
    ENGINE_TRY(const HostMatrix gate_up,
               stored(prefix + "gate_up_proj", {config_.experts, 2 * width, config_.hidden_size}));
    ENGINE_TRY(const HostMatrix down, stored(prefix + "down_proj", {config_.experts, config_.hidden_size, width}));
    const auto part = [](const HostMatrix& all, std::int64_t first_element, std::int64_t rows, std::int64_t cols) {
      const std::byte* data =
          static_cast<const std::byte*>(all.data) + first_element * static_cast<std::int64_t>(bytes_of(all.dtype));
      return HostMatrix{all.dtype, data, rows, cols};
    };
    const std::int64_t d = config_.hidden_size;
    for (std::int64_t e = 0; e < config_.experts; ++e) {
      ENGINE_TRY(WeightHandle gate, hand_over(part(gate_up, 2 * e * width * d, width, d)));
      ENGINE_TRY(WeightHandle up, hand_over(part(gate_up, (2 * e + 1) * width * d, width, d)));
      ENGINE_TRY(WeightHandle one_down, hand_over(part(down, e * width * d, d, width)));
      w.gate.push_back(std::move(gate));
      w.up.push_back(std::move(up));
      w.down.push_back(std::move(one_down));
    }
    return {};
  }

  Result<void> bind_mtp() {
    const auto& tensors = model_.files.tensors();
    if (!tensors.contains("mtp.fc.weight") && !tensors.contains("model.mtp.fc.weight")) return {};
    const std::int64_t d = config_.hidden_size;
    MtpWeights mtp;
    ENGINE_TRY(mtp.fc, matrix("mtp.fc.weight", {d, 2 * d}));
    ENGINE_TRY(mtp.embedding_norm, gain("mtp.pre_fc_norm_embedding.weight", d, 1.0F));
    ENGINE_TRY(mtp.hidden_norm, gain("mtp.pre_fc_norm_hidden.weight", d, 1.0F));
    ENGINE_TRY(mtp.layer, bind_layer("mtp.layers.0.", LayerKind::kAttention));
    ENGINE_TRY(mtp.norm, gain("mtp.norm.weight", d, 1.0F));
    model_.mtp = std::move(mtp);
    return {};
  }

  const ModelConfig& config_;
  Backend& backend_;
  ModelWeights model_;
  std::set<std::string, std::less<>> unread_;
};

}  // namespace

Result<ModelWeights> load_weights(const std::filesystem::path& directory, const ModelConfig& config, Backend& backend) {
  ENGINE_TRY(TensorFiles files, TensorFiles::open(directory));
  return WeightBinder(config, backend, std::move(files)).bind();
}

}  // namespace lectern::engine
