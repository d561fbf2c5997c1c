// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_plan.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "quant/formats.h"

namespace lectern::engine {
namespace {

using Shape = std::vector<std::int64_t>;

constexpr std::int64_t kScaleBlock = 128;  // rows and columns that share a scale in F8 matrices

std::optional<DType> stored_type(std::string_view name) {
  const auto found =
      std::find_if(kDTypes.begin(), kDTypes.end(), [name](const DTypeFacts& facts) { return facts.name == name; });
  return found == kDTypes.end() ? std::nullopt : std::optional(found->type);
}

// Stored shapes may differ from the reference's by dimensions of length 1.
bool same_but_for_ones(Shape a, Shape b) {
  std::erase(a, 1);
  std::erase(b, 1);
  return a == b;
}

void append(Shape& order, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) order.push_back(first + i);
}

class ModelPlanner {
 public:
  ModelPlanner(const ModelFiles& files, bool keep_mtp) : files_(files), config_(files.config()), keep_mtp_(keep_mtp) {
    for (const auto& [name, tensor] : files.tensors()) unread_.insert(name);
  }

  Result<ModelPlan> plan() {
    const std::int64_t d = config_.hidden_size;
    const auto layers = static_cast<std::int64_t>(config_.layers.size());
    ENGINE_CHECK(matrix("token_embd.weight", "model.embed_tokens.weight", {config_.vocabulary, d}));
    for (std::int64_t i = 0; i < layers; ++i) {
      ENGINE_CHECK(layer(i, "model.layers." + std::to_string(i) + ".", config_.layers[static_cast<std::size_t>(i)]));
    }
    ENGINE_CHECK(norm("output_norm.weight", "model.norm.weight", d));
    if (!config_.tied_embeddings) {
      ENGINE_CHECK(matrix("output.weight", "lm_head.weight", {config_.vocabulary, d}));
    } else {
      unread_.erase("lm_head.weight");
    }
    plan_.blocks = layers;
    ENGINE_CHECK(mtp(layers));
    if (!unread_.empty()) {
      return Error{ErrorCode::kUnsupported,
                   "Tensor " + *unread_.begin() + " (and " + std::to_string(unread_.size() - 1) +
                       " more) belongs to no part of this model; the files hold another model."};
    }
    return std::move(plan_);
  }

 private:
  bool has(const std::string& name) const { return files_.tensors().contains(name); }

  // The stored tensor as a matrix of the last dimension's rows. Its name is as given, or with "model." before.
  Result<HostMatrix> stored(const std::string& name, const Shape& shape) {
    const auto& tensors = files_.tensors();
    auto found = tensors.find(name);
    if (found == tensors.end() && name.starts_with("mtp.")) found = tensors.find("model." + name);
    if (found == tensors.end()) {
      return Error{ErrorCode::kCorrupt, "Tensor " + name + " is missing from the model files; fetch the model again."};
    }
    unread_.erase(found->first);
    const StoredTensor& tensor = found->second;
    if (!same_but_for_ones(tensor.shape, shape)) {
      return Error{ErrorCode::kCorrupt, "Tensor " + name + " has the shape " + shape_text(tensor.shape) +
                                            ", but the configuration asks for " + shape_text(shape) + "."};
    }
    const auto type = stored_type(tensor.dtype);
    if (!type || shape.back() % block_size(*type).elements != 0) {
      return Error{ErrorCode::kUnsupported, "Tensor " + name + " is stored as " + tensor.dtype +
                                                ", which cannot be read; use F32, F16, BF16, block-FP8 or GGUF "
                                                "weights."};
    }
    HostMatrix host{*type, tensor.bytes.data(), 1, shape.back(), nullptr};
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) host.rows *= shape[i];
    if (host.dtype == DType::kF8E4M3) ENGINE_CHECK(find_scales(name, shape, host));
    return host;
  }

  Result<void> find_scales(const std::string& name, const Shape& shape, HostMatrix& host) {
    if (shape.size() != 2) {
      return Error{ErrorCode::kUnsupported,
                   "Tensor " + name + " holds all experts at once as F8_E4M3, which is not read in that type."};
    }
    const auto blocks = [](std::int64_t n) { return (n + kScaleBlock - 1) / kScaleBlock; };
    ENGINE_TRY(const HostMatrix from, stored(name + "_scale_inv", {blocks(host.rows), blocks(host.cols)}));
    std::vector<float>& scales = plan_.scales.emplace_back(static_cast<std::size_t>(from.rows * from.cols));
    for (std::int64_t row = 0; row < from.rows; ++row) read_row(from, row, scales.data() + row * from.cols);
    host.scales = scales.data();
    return {};
  }

  // Adds the tensor `name`; changes to it may be made until the next one is added.
  Result<TensorPlan*> add(std::string name, const std::string& from, const Shape& stored_shape, Shape shape) {
    ENGINE_TRY(const HostMatrix host, stored(from, stored_shape));
    TensorPlan& tensor = plan_.tensors.emplace_back();
    tensor.name = std::move(name);
    tensor.stored_name = from;
    tensor.shape = std::move(shape);
    tensor.parts.push_back(host);
    return &tensor;
  }

  Result<void> matrix(std::string name, const std::string& from, const Shape& shape) {
    const Result<TensorPlan*> added = add(std::move(name), from, shape, shape);
    return added.ok() ? Result<void>() : added.error();
  }

  // GGUF files hold the sum of a zero-centred gain and its 1.
  Result<void> norm(std::string name, const std::string& from, std::int64_t width) {
    ENGINE_TRY(TensorPlan * tensor, add(std::move(name), from, {width}, {width}));
    tensor->offset = files_.norm_offset();
    return {};
  }

  Result<void> layer(std::int64_t index, const std::string& from, LayerKind kind) {
    const std::string to = "blk." + std::to_string(index) + ".";
    const bool next = config_.architecture == "qwen3_next";
    ENGINE_CHECK(norm(to + "attn_norm.weight", from + "input_layernorm.weight", config_.hidden_size));
    if (kind == LayerKind::kDeltaNet) {
      ENGINE_CHECK(delta(to, from + "linear_attn."));
    } else {
      ENGINE_CHECK(attention(to, from + "self_attn."));
    }
    ENGINE_CHECK(norm(to + (next ? "post_attention_norm.weight" : "ffn_norm.weight"),
                      from + "post_attention_layernorm.weight", config_.hidden_size));
    if (config_.dense_width > 0) return dense(to, "", from + "mlp.", config_.dense_width);
    return experts(to, from + "mlp.");
  }

  Result<void> attention(const std::string& to, const std::string& from) {
    const std::int64_t d = config_.hidden_size;
    const std::int64_t queries = (config_.output_gate ? 2 : 1) * config_.query_width();
    ENGINE_CHECK(matrix(to + "attn_q.weight", from + "q_proj.weight", {queries, d}));
    ENGINE_CHECK(matrix(to + "attn_k.weight", from + "k_proj.weight", {config_.kv_width(), d}));
    ENGINE_CHECK(matrix(to + "attn_v.weight", from + "v_proj.weight", {config_.kv_width(), d}));
    ENGINE_CHECK(matrix(to + "attn_output.weight", from + "o_proj.weight", {d, config_.query_width()}));
    ENGINE_CHECK(norm(to + "attn_q_norm.weight", from + "q_norm.weight", config_.attention.head_dim));
    return norm(to + "attn_k_norm.weight", from + "k_norm.weight", config_.attention.head_dim);
  }

  Result<void> delta(const std::string& to, const std::string& from) {
    const std::int64_t d = config_.hidden_size;
    const std::int64_t values = config_.delta.value_heads;
    ENGINE_CHECK(delta_inputs(to, from));
    ENGINE_CHECK(matrix(to + "ssm_ba.weight", from + "in_proj_ba.weight", {2 * values, d}));
    ENGINE_CHECK(
        matrix(to + "ssm_conv1d.weight", from + "conv1d.weight", {config_.conv_channels(), config_.conv_taps}));
    const bool ready = has(from + "decay_rate");
    ENGINE_TRY(TensorPlan * decay, add(to + "ssm_a", from + (ready ? "decay_rate" : "A_log"), {values}, {values}));
    decay->is_decay = !ready;
    ENGINE_CHECK(matrix(to + "ssm_dt.bias", from + "dt_bias", {values}));
    ENGINE_CHECK(matrix(to + "ssm_norm.weight", from + "norm.weight", {config_.delta.value_dim}));
    return matrix(to + "ssm_out.weight", from + "out_proj.weight", {d, config_.value_width()});
  }

  // The checkpoints group the rows by key head: [q | k | v of its value heads | z of its value heads]. GGUF files hold
  // all q, all k, all v, and z apart.
  Result<void> delta_inputs(const std::string& to, const std::string& from) {
    const DeltaShape& shape = config_.delta;
    const std::int64_t d = config_.hidden_size;
    if (has(from + "in_proj_qkv.weight")) {
      ENGINE_CHECK(matrix(to + "attn_qkv.weight", from + "in_proj_qkv.weight", {config_.conv_channels(), d}));
      return matrix(to + "attn_gate.weight", from + "in_proj_z.weight", {config_.value_width(), d});
    }
    const std::int64_t group_values = shape.value_heads / shape.key_heads * shape.value_dim;
    const std::int64_t group = 2 * shape.key_dim + 2 * group_values;
    const auto rows_at = [&](std::int64_t first, std::int64_t count, Shape& order) {
      for (std::int64_t g = 0; g < shape.key_heads; ++g) append(order, g * group + first, count);
    };
    const std::string name = from + "in_proj_qkvz.weight";
    const Shape all = {config_.conv_channels() + config_.value_width(), d};
    ENGINE_TRY(TensorPlan * qkv, add(to + "attn_qkv.weight", name, all, {config_.conv_channels(), d}));
    rows_at(0, shape.key_dim, qkv->order);
    rows_at(shape.key_dim, shape.key_dim, qkv->order);
    rows_at(2 * shape.key_dim, group_values, qkv->order);
    ENGINE_TRY(TensorPlan * z, add(to + "attn_gate.weight", name, all, {config_.value_width(), d}));
    rows_at(2 * shape.key_dim + group_values, group_values, z->order);
    return {};
  }

  // `ending`: between the part's name and ".weight".
  Result<void> dense(const std::string& to, const std::string& ending, const std::string& from, std::int64_t width) {
    const std::int64_t d = config_.hidden_size;
    ENGINE_CHECK(matrix(to + "ffn_gate" + ending + ".weight", from + "gate_proj.weight", {width, d}));
    ENGINE_CHECK(matrix(to + "ffn_up" + ending + ".weight", from + "up_proj.weight", {width, d}));
    return matrix(to + "ffn_down" + ending + ".weight", from + "down_proj.weight", {d, width});
  }

  Result<void> experts(const std::string& to, const std::string& from) {
    const std::int64_t d = config_.hidden_size;
    const std::int64_t width = config_.expert_width;
    ENGINE_CHECK(matrix(to + "ffn_gate_inp.weight", from + "gate.weight", {config_.experts, d}));
    if (has(from + "experts.gate_up_proj")) {
      ENGINE_CHECK(half_of_stack(to + "ffn_gate_exps.weight", from + "experts.gate_up_proj", 0));
      ENGINE_CHECK(half_of_stack(to + "ffn_up_exps.weight", from + "experts.gate_up_proj", width));
    } else {
      ENGINE_CHECK(stack(to + "ffn_gate_exps.weight", from + "experts.", "gate_proj", {width, d}));
      ENGINE_CHECK(stack(to + "ffn_up_exps.weight", from + "experts.", "up_proj", {width, d}));
    }
    ENGINE_CHECK(stack(to + "ffn_down_exps.weight", from + "experts.", "down_proj", {d, width}));
    if (config_.shared_expert_width == 0) return {};
    ENGINE_CHECK(matrix(to + "ffn_gate_inp_shexp.weight", from + "shared_expert_gate.weight", {d}));
    return dense(to, "_shexp", from + "shared_expert.", config_.shared_expert_width);
  }

  // All experts' matrices, which are stored together or one by one.
  Result<void> stack(std::string name, const std::string& from, const std::string& part, const Shape& shape) {
    const Shape all = {config_.experts, shape[0], shape[1]};
    if (has(from + part)) return matrix(std::move(name), from + part, all);
    const auto of = [&](std::int64_t expert) { return from + std::to_string(expert) + "." + part + ".weight"; };
    ENGINE_TRY(TensorPlan * tensor, add(std::move(name), of(0), shape, all));
    for (std::int64_t expert = 1; expert < config_.experts; ++expert) {
      ENGINE_TRY(const HostMatrix host, stored(of(expert), shape));
      tensor->parts.push_back(host);
    }
    return {};
  }

  // Every expert's gate rows are followed by its up rows.
  Result<void> half_of_stack(std::string name, const std::string& from, std::int64_t first) {
    const std::int64_t width = config_.expert_width;
    const std::int64_t d = config_.hidden_size;
    ENGINE_TRY(TensorPlan * tensor,
               add(std::move(name), from, {config_.experts, 2 * width, d}, {config_.experts, width, d}));
    for (std::int64_t expert = 0; expert < config_.experts; ++expert) {
      append(tensor->order, 2 * width * expert + first, width);
    }
    return {};
  }

  Result<void> mtp(std::int64_t index) {
    if (!has("mtp.fc.weight") && !has("model.mtp.fc.weight")) return {};
    const std::size_t before = plan_.tensors.size();
    const std::int64_t d = config_.hidden_size;
    const std::string to = "blk." + std::to_string(index) + ".";
    ENGINE_CHECK(layer(index, "mtp.layers.0.", LayerKind::kAttention));
    ENGINE_CHECK(matrix(to + "nextn.eh_proj.weight", "mtp.fc.weight", {d, 2 * d}));
    ENGINE_CHECK(norm(to + "nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight", d));
    ENGINE_CHECK(norm(to + "nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight", d));
    ENGINE_CHECK(norm(to + "nextn.shared_head_norm.weight", "mtp.norm.weight", d));
    if (keep_mtp_) {
      plan_.has_mtp = true;
      ++plan_.blocks;
    } else {
      plan_.tensors.resize(before);
    }
    return {};
  }

  const ModelFiles& files_;
  const ModelConfig& config_;
  bool keep_mtp_;
  ModelPlan plan_;
  std::set<std::string, std::less<>> unread_;
};

}  // namespace

std::int64_t TensorPlan::rows() const {
  return order.empty() ? parts.front().rows * static_cast<std::int64_t>(parts.size())
                       : static_cast<std::int64_t>(order.size());
}

const HostMatrix& TensorPlan::part_of(std::int64_t row, std::int64_t& row_of_part) const {
  const std::int64_t source = order.empty() ? row : order[static_cast<std::size_t>(row)];
  row_of_part = source % parts.front().rows;
  return parts[static_cast<std::size_t>(source / parts.front().rows)];
}

bool TensorPlan::is_plain(DType type) const {
  const auto same = [type](const HostMatrix& part) { return part.dtype == type; };
  return offset == 0 && !is_decay && type != DType::kF8E4M3 && std::all_of(parts.begin(), parts.end(), same);
}

void TensorPlan::read(std::int64_t row, float* values) const {
  std::int64_t at = 0;
  const HostMatrix& part = part_of(row, at);
  read_row(part, at, values);
  for (std::int64_t i = 0; i < cols(); ++i) {
    if (is_decay) values[i] = -static_cast<float>(std::exp(static_cast<double>(values[i])));
    values[i] += offset;
  }
}

Result<ModelPlan> plan_model(const ModelFiles& files, bool keep_mtp) { return ModelPlanner(files, keep_mtp).plan(); }

}  // namespace lectern::engine
