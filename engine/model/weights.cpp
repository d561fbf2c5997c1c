// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>
#include <set>
#include <string>
#include <utility>

#include "quant/formats.h"

namespace lectern::engine {
namespace {

// Source row of every destination row.
using RowOrder = std::vector<std::int64_t>;

void append_rows(RowOrder& order, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) order.push_back(first + i);
}

constexpr auto kReportInterval = std::chrono::milliseconds(50);
constexpr std::int64_t kScaleBlock = 128;  // rows and columns that share a scale in F8 matrices

std::optional<DType> dtype_named(std::string_view name) {
  for (const DTypeFacts& facts : kDTypes) {
    if (facts.name == name) return facts.type;
  }
  return std::nullopt;
}

std::vector<std::int64_t> without_ones(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> lengths;
  std::copy_if(shape.begin(), shape.end(), std::back_inserter(lengths), [](std::int64_t n) { return n != 1; });
  return lengths;
}

bool is_aligned(const HostMatrix& host) {
  if (block_size(host.dtype).elements > 1) return true;
  return std::bit_cast<std::uintptr_t>(host.data) % static_cast<std::size_t>(block_size(host.dtype).bytes) == 0;
}

// Rows [first, first + rows) of a stack of matrices.
HostMatrix rows_of(const HostMatrix& all, std::int64_t first, std::int64_t rows) {
  HostMatrix part = all;
  part.data = static_cast<const std::byte*>(all.data) + first * bytes_of(all.dtype, all.cols);
  part.rows = rows;
  return part;
}

class WeightBinder {
 public:
  WeightBinder(ModelFiles files, const Placement& placement, const LoadObserver& observer)
      : config_(files.config()), placement_(placement), backend_(&placement.first()), observer_(observer) {
    model_.files = std::move(files);
    for (const auto& [name, tensor] : model_.files.tensors()) {
      unread_.insert(name);
      total_bytes_ += static_cast<std::int64_t>(tensor.bytes.size());
    }
  }

  Result<ModelWeights> bind() {
    const std::int64_t d = config_.hidden_size;
    ENGINE_TRY(model_.embedding, matrix("model.embed_tokens.weight", {config_.vocabulary, d}));
    for (std::size_t i = 0; i < config_.layers.size(); ++i) {
      backend_ = &placement_.of_layer(i);
      ENGINE_TRY(LayerWeights layer, bind_layer("model.layers." + std::to_string(i) + ".", config_.layers[i]));
      model_.layers.push_back(std::move(layer));
    }
    backend_ = &placement_.last();
    ENGINE_TRY(model_.norm, norm("model.norm.weight", d));
    ENGINE_CHECK(bind_head());
    ENGINE_CHECK(bind_mtp());
    if (!unread_.empty()) {
      return Error{ErrorCode::kUnsupported,
                   "Tensor " + *unread_.begin() + " (and " + std::to_string(unread_.size() - 1) +
                       " more) belongs to no part of this model; the files hold another model."};
    }
    if (observer_.on_progress) observer_.on_progress(total_bytes_, total_bytes_);
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
    if (without_ones(tensor->shape) != without_ones(shape)) {
      return Error{ErrorCode::kCorrupt, "Tensor " + name + " has the shape " + shape_text(tensor->shape) +
                                            ", but the configuration asks for " + shape_text(shape) + "."};
    }
    HostMatrix host;
    host.rows = shape.empty() ? 1 : shape.front();
    host.cols = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) host.cols *= shape[i];
    host.data = tensor->bytes.data();
    const auto type = dtype_named(tensor->dtype);
    if (!type) {
      return Error{ErrorCode::kUnsupported,
                   "Tensor " + name + " has the type " + tensor->dtype +
                       ", which is not computed here; use F32, F16, BF16, block-FP8 or GGUF weights."};
    }
    host.dtype = *type;
    if (host.cols % block_size(host.dtype).elements != 0) {
      return Error{ErrorCode::kCorrupt,
                   "Tensor " + name + " has rows that are not whole blocks of its type; fetch the model again."};
    }
    if (host.dtype == DType::kF8E4M3) ENGINE_CHECK(find_scales(name, host));
    model_.parameters += host.rows * host.cols;
    return host;
  }

  // One scale for every 128 x 128, beside the codes.
  Result<void> find_scales(const std::string& name, HostMatrix& host) {
    const auto blocks = [](std::int64_t n) { return (n + kScaleBlock - 1) / kScaleBlock; };
    const std::int64_t parameters = model_.parameters;
    ENGINE_TRY(std::vector<float> scales, numbers(name + "_scale_inv", {blocks(host.rows), blocks(host.cols)}));
    model_.parameters = parameters;
    host.scales = model_.scales.emplace_back(std::move(scales)).data();
    return {};
  }

  // Backend::take_weight() or take_expert().
  using Taking = Result<WeightHandle> (Backend::*)(const HostMatrix&);

  Result<WeightHandle> hand_over(const HostMatrix& host, Taking take = &Backend::take_weight) {
    if (!is_aligned(host)) return reordered(host, {}, take);
    model_.bytes += bytes_of(host.dtype, host.rows * host.cols);
    return taken(host, take);
  }

  Result<WeightHandle> taken(const HostMatrix& host, Taking take) {
    if (observer_.stop.stop_requested())
      return Error{ErrorCode::kCancelled, "Stopped while the model was being loaded."};
    const auto now = std::chrono::steady_clock::now();
    if (observer_.on_progress && now - reported_ >= kReportInterval) {
      reported_ = now;
      observer_.on_progress(std::min(model_.bytes, total_bytes_), total_bytes_);
    }
    return (backend_->*take)(host);
  }

  // A copy in which row i is row order[i] of `host` (all rows in place when empty). F8 becomes F32 unless rows that
  // share scales stay together.
  Result<WeightHandle> reordered(const HostMatrix& host, const RowOrder& order, Taking take = &Backend::take_weight) {
    HostMatrix copy = host;
    copy.rows = order.empty() ? host.rows : static_cast<std::int64_t>(order.size());
    const bool keeps_scales = host.dtype == DType::kF8E4M3 && moves_whole_blocks(host, order);
    if (keeps_scales) copy.scales = reordered_scales(host, order);
    if (host.dtype == DType::kF8E4M3 && !keeps_scales) copy.dtype = DType::kF32;
    const std::int64_t row_bytes = bytes_of(copy.dtype, host.cols);
    std::vector<std::byte>& memory = model_.copies.emplace_back(static_cast<std::size_t>(copy.rows * row_bytes));
    for (std::int64_t row = 0; row < copy.rows; ++row) {
      const std::int64_t source = order.empty() ? row : order[static_cast<std::size_t>(row)];
      std::byte* to = memory.data() + row * row_bytes;
      if (copy.dtype != host.dtype) {
        read_row(host, source, reinterpret_cast<float*>(to));
      } else {
        std::memcpy(to, rows_of(host, source, 1).data, static_cast<std::size_t>(row_bytes));
      }
    }
    copy.data = memory.data();
    model_.bytes += static_cast<std::int64_t>(memory.size());
    return taken(copy, take);
  }

  static bool moves_whole_blocks(const HostMatrix& host, const RowOrder& order) {
    if (order.empty() || order.size() % kScaleBlock != 0 || host.rows % kScaleBlock != 0) return false;
    for (std::size_t row = 0; row < order.size(); ++row) {
      const auto within = static_cast<std::int64_t>(row % kScaleBlock);
      if (order[row] != order[row - row % kScaleBlock] + within || order[row] % kScaleBlock != within) return false;
    }
    return true;
  }

  const float* reordered_scales(const HostMatrix& host, const RowOrder& order) {
    const std::int64_t across = (host.cols + kScaleBlock - 1) / kScaleBlock;
    std::vector<float>& scales = model_.scales.emplace_back();
    for (std::size_t row = 0; row < order.size(); row += kScaleBlock) {
      const float* from = host.scales + order[row] / kScaleBlock * across;
      scales.insert(scales.end(), from, from + across);
    }
    return scales.data();
  }

  Result<WeightHandle> matrix(const std::string& name, const std::vector<std::int64_t>& shape,
                              Taking take = &Backend::take_weight) {
    ENGINE_TRY(const HostMatrix host, stored(name, shape));
    return hand_over(host, take);
  }

  Result<std::vector<float>> numbers(const std::string& name, const std::vector<std::int64_t>& shape) {
    ENGINE_TRY(const HostMatrix host, stored(name, shape));
    std::vector<float> values(static_cast<std::size_t>(host.rows * host.cols));
    for (std::int64_t row = 0; row < host.rows; ++row) read_row(host, row, values.data() + row * host.cols);
    return values;
  }

  Result<std::unique_ptr<Buffer>> uploaded(const std::vector<float>& values) {
    ENGINE_TRY(std::unique_ptr<Buffer> buffer,
               backend_->make_buffer(static_cast<std::int64_t>(values.size()), MemoryUse::kWeights));
    backend_->upload(values, buffer->data());
    model_.bytes += static_cast<std::int64_t>(values.size() * sizeof(float));
    return buffer;
  }

  Result<std::unique_ptr<Buffer>> vector(const std::string& name, const std::vector<std::int64_t>& shape) {
    ENGINE_TRY(const std::vector<float> values, numbers(name, shape));
    return uploaded(values);
  }

  // The gain of a zero-centred norm, ready to multiply.
  Result<std::unique_ptr<Buffer>> norm(const std::string& name, std::int64_t width) {
    ENGINE_TRY(std::vector<float> values, numbers(name, {width}));
    for (float& value : values) value += model_.files.norm_offset();
    return uploaded(values);
  }

  Result<LayerWeights> bind_layer(const std::string& prefix, LayerKind kind) {
    LayerWeights layer;
    ENGINE_TRY(layer.input_norm, norm(prefix + "input_layernorm.weight", config_.hidden_size));
    ENGINE_TRY(layer.post_norm, norm(prefix + "post_attention_layernorm.weight", config_.hidden_size));
    if (kind == LayerKind::kDeltaNet) {
      ENGINE_TRY(layer.delta, bind_delta(prefix + "linear_attn."));
    } else {
      ENGINE_TRY(layer.attention, bind_attention(prefix + "self_attn."));
    }
    if (config_.dense_width > 0) {
      ENGINE_TRY(layer.dense, bind_dense(prefix + "mlp.", config_.dense_width));
    } else {
      ENGINE_TRY(layer.experts, bind_experts(prefix + "mlp."));
    }
    return layer;
  }

  // Rows that the checkpoints group by key head: [q | k | v of its value heads | z of its value heads], and [b | a].
  struct DeltaOrder {
    RowOrder qkv, z, ba;
  };
  static DeltaOrder order_of(const DeltaShape& shape) {
    const std::int64_t shared = shape.value_heads / shape.key_heads;
    const std::int64_t group = 2 * shape.key_dim + 2 * shared * shape.value_dim;
    DeltaOrder order;
    for (int part = 0; part < 2; ++part) {
      for (std::int64_t g = 0; g < shape.key_heads; ++g)
        append_rows(order.qkv, g * group + part * shape.key_dim, shape.key_dim);
      for (std::int64_t g = 0; g < shape.key_heads; ++g) append_rows(order.ba, (2 * g + part) * shared, shared);
    }
    for (std::int64_t g = 0; g < shape.key_heads; ++g) {
      const std::int64_t values = g * group + 2 * shape.key_dim;
      append_rows(order.qkv, values, shared * shape.value_dim);
      append_rows(order.z, values + shared * shape.value_dim, shared * shape.value_dim);
    }
    return order;
  }

  Result<DeltaNetWeights> bind_delta(const std::string& prefix) {
    const DeltaShape& shape = config_.delta;
    const std::int64_t d = config_.hidden_size;
    const DeltaOrder order = order_of(shape);
    DeltaNetWeights w;
    if (has(prefix + "in_proj_qkv.weight")) {
      ENGINE_TRY(w.qkv, matrix(prefix + "in_proj_qkv.weight", {config_.conv_channels(), d}));
      ENGINE_TRY(w.z, matrix(prefix + "in_proj_z.weight", {config_.value_width(), d}));
    } else {
      ENGINE_TRY(const HostMatrix qkvz,
                 stored(prefix + "in_proj_qkvz.weight", {config_.conv_channels() + config_.value_width(), d}));
      ENGINE_TRY(w.qkv, reordered(qkvz, order.qkv));
      ENGINE_TRY(w.z, reordered(qkvz, order.z));
    }
    ENGINE_TRY(const HostMatrix gates, stored(prefix + "in_proj_ba.weight", {2 * shape.value_heads, d}));
    ENGINE_TRY(w.ba, reordered(gates, order.ba));
    ENGINE_TRY(w.out, matrix(prefix + "out_proj.weight", {d, config_.value_width()}));
    ENGINE_TRY(w.conv, vector(prefix + "conv1d.weight", {config_.conv_channels(), 1, config_.conv_taps}));
    ENGINE_TRY(w.rate, decay_rate(prefix));
    ENGINE_TRY(w.dt_bias, vector(prefix + "dt_bias", {shape.value_heads}));
    ENGINE_TRY(w.norm, vector(prefix + "norm.weight", {shape.value_dim}));
    return w;
  }

  Result<std::unique_ptr<Buffer>> decay_rate(const std::string& prefix) {
    if (has(prefix + "decay_rate")) return vector(prefix + "decay_rate", {config_.delta.value_heads});
    ENGINE_TRY(std::vector<float> values, numbers(prefix + "A_log", {config_.delta.value_heads}));
    for (float& value : values) value = -std::exp(value);
    return uploaded(values);
  }

  Result<AttentionWeights> bind_attention(const std::string& prefix) {
    const std::int64_t d = config_.hidden_size;
    AttentionWeights w;
    if (config_.output_gate) {
      ENGINE_CHECK(bind_query_and_gate(prefix, w));
    } else {
      ENGINE_TRY(w.query, matrix(prefix + "q_proj.weight", {config_.query_width(), d}));
    }
    ENGINE_TRY(w.key, matrix(prefix + "k_proj.weight", {config_.kv_width(), d}));
    ENGINE_TRY(w.value, matrix(prefix + "v_proj.weight", {config_.kv_width(), d}));
    ENGINE_TRY(w.out, matrix(prefix + "o_proj.weight", {d, config_.query_width()}));
    ENGINE_TRY(w.q_norm, norm(prefix + "q_norm.weight", config_.attention.head_dim));
    ENGINE_TRY(w.k_norm, norm(prefix + "k_norm.weight", config_.attention.head_dim));
    return w;
  }

  // Every query head is followed by its output gate.
  Result<void> bind_query_and_gate(const std::string& prefix, AttentionWeights& w) {
    const std::int64_t width = config_.attention.head_dim;
    RowOrder query, gate;
    for (std::int64_t head = 0; head < config_.attention.query_heads; ++head) {
      append_rows(query, 2 * head * width, width);
      append_rows(gate, (2 * head + 1) * width, width);
    }
    ENGINE_TRY(const HostMatrix both,
               stored(prefix + "q_proj.weight", {2 * config_.query_width(), config_.hidden_size}));
    ENGINE_TRY(w.query, reordered(both, query));
    ENGINE_TRY(w.gate, reordered(both, gate));
    return {};
  }

  Result<DenseWeights> bind_dense(const std::string& prefix, std::int64_t width, Taking take = &Backend::take_weight) {
    const std::int64_t d = config_.hidden_size;
    DenseWeights w;
    ENGINE_TRY(w.gate, matrix(prefix + "gate_proj.weight", {width, d}, take));
    ENGINE_TRY(w.up, matrix(prefix + "up_proj.weight", {width, d}, take));
    ENGINE_TRY(w.down, matrix(prefix + "down_proj.weight", {d, width}, take));
    return w;
  }

  Result<ExpertWeights> bind_experts(const std::string& prefix) {
    ExpertWeights w;
    w.experts_per_token = config_.experts_per_token;
    w.normalise_top_k = config_.normalise_top_k;
    ENGINE_TRY(w.router, matrix(prefix + "gate.weight", {config_.experts, config_.hidden_size}));
    if (config_.shared_expert_width > 0) {
      ENGINE_TRY(w.shared_router, matrix(prefix + "shared_expert_gate.weight", {1, config_.hidden_size}));
      ENGINE_TRY(DenseWeights shared, bind_dense(prefix + "shared_expert.", config_.shared_expert_width));
      w.shared_gate = std::move(shared.gate);
      w.shared_up = std::move(shared.up);
      w.shared_down = std::move(shared.down);
    }
    if (has(prefix + "experts.down_proj")) {
      ENGINE_CHECK(bind_stacked_experts(prefix + "experts.", w));
    } else {
      ENGINE_CHECK(bind_single_experts(prefix + "experts.", w));
    }
    ENGINE_CHECK(backend_->place_experts(w));
    return w;
  }

  Result<void> bind_single_experts(const std::string& prefix, ExpertWeights& w) {
    for (std::int64_t e = 0; e < config_.experts; ++e) {
      ENGINE_TRY(DenseWeights expert,
                 bind_dense(prefix + std::to_string(e) + ".", config_.expert_width, &Backend::take_expert));
      w.gate.push_back(std::move(expert.gate));
      w.up.push_back(std::move(expert.up));
      w.down.push_back(std::move(expert.down));
    }
    return {};
  }

  // All experts in one tensor: [experts, width, d] for gate and up or [experts, gate | up, d] for both, and
  // [experts, d, width]. GGUF files, and those saved by transformers 5.
  Result<void> bind_stacked_experts(const std::string& prefix, ExpertWeights& w) {
    const std::int64_t width = config_.expert_width;
    const std::int64_t d = config_.hidden_size;
    if (has(prefix + "gate_up_proj")) {
      ENGINE_TRY(const HostMatrix both, stacked(prefix + "gate_up_proj", {config_.experts, 2 * width, d}));
      ENGINE_CHECK(cut(both, 0, 2 * width, width, w.gate));
      ENGINE_CHECK(cut(both, width, 2 * width, width, w.up));
    } else {
      ENGINE_TRY(const HostMatrix gate, stacked(prefix + "gate_proj", {config_.experts, width, d}));
      ENGINE_TRY(const HostMatrix up, stacked(prefix + "up_proj", {config_.experts, width, d}));
      ENGINE_CHECK(cut(gate, 0, width, width, w.gate));
      ENGINE_CHECK(cut(up, 0, width, width, w.up));
    }
    ENGINE_TRY(const HostMatrix down, stacked(prefix + "down_proj", {config_.experts, d, width}));
    return cut(down, 0, d, d, w.down);
  }

  // [experts, rows, cols] as one matrix of experts * rows rows.
  Result<HostMatrix> stacked(const std::string& name, const std::vector<std::int64_t>& shape) {
    ENGINE_TRY(const StoredTensor* tensor, find(name));
    if (tensor->dtype == name_of(DType::kF8E4M3) || shape.back() % row_elements(*tensor) != 0) {
      return Error{ErrorCode::kUnsupported, "Tensor " + name + " of type " + tensor->dtype +
                                                " holds all experts at once, which is not read in that type."};
    }
    ENGINE_TRY(HostMatrix host, stored(name, shape));
    host.rows = shape[0] * shape[1];
    host.cols = shape[2];
    return host;
  }

  static std::int64_t row_elements(const StoredTensor& tensor) {
    const auto type = dtype_named(tensor.dtype);
    return type ? block_size(*type).elements : 1;
  }

  // One matrix of `rows` rows out of every `stride` rows, beginning at `first`.
  Result<void> cut(const HostMatrix& all, std::int64_t first, std::int64_t stride, std::int64_t rows,
                   std::vector<WeightHandle>& experts) {
    for (std::int64_t row = first; row < all.rows; row += stride) {
      ENGINE_TRY(WeightHandle expert, hand_over(rows_of(all, row, rows), &Backend::take_expert));
      experts.push_back(std::move(expert));
    }
    return {};
  }

  Result<void> bind_head() {
    const std::vector<std::int64_t> shape = {config_.vocabulary, config_.hidden_size};
    if (config_.tied_embeddings) {
      unread_.erase("lm_head.weight");
    } else {
      ENGINE_TRY(model_.head, matrix("lm_head.weight", shape));
    }
    if (!placement_.shared() || (!config_.tied_embeddings && !has_mtp())) return {};
    const std::int64_t parameters = model_.parameters;
    ENGINE_TRY(model_.last_embedding, matrix("model.embed_tokens.weight", shape));
    model_.parameters = parameters;
    return {};
  }

  bool has_mtp() const { return has("mtp.fc.weight") || has("model.mtp.fc.weight"); }

  Result<void> bind_mtp() {
    if (!has_mtp()) return {};
    const std::int64_t d = config_.hidden_size;
    MtpWeights mtp;
    ENGINE_TRY(mtp.fc, matrix("mtp.fc.weight", {d, 2 * d}));
    ENGINE_TRY(mtp.embedding_norm, norm("mtp.pre_fc_norm_embedding.weight", d));
    ENGINE_TRY(mtp.hidden_norm, norm("mtp.pre_fc_norm_hidden.weight", d));
    ENGINE_TRY(mtp.layer, bind_layer("mtp.layers.0.", LayerKind::kAttention));
    ENGINE_TRY(mtp.norm, norm("mtp.norm.weight", d));
    model_.mtp = std::move(mtp);
    return {};
  }

  bool has(const std::string& name) const { return model_.files.tensors().contains(name); }

  ModelConfig config_;
  Placement placement_;
  Backend* backend_;  // that takes what is read now
  const LoadObserver& observer_;
  ModelWeights model_;
  std::int64_t total_bytes_ = 0;
  std::chrono::steady_clock::time_point reported_;
  std::set<std::string, std::less<>> unread_;
};

}  // namespace

Result<ModelWeights> load_weights(ModelFiles files, const Placement& placement, const LoadObserver& observer) {
  return WeightBinder(std::move(files), placement, observer).bind();
}

}  // namespace lectern::engine
