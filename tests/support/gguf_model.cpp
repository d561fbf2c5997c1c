// SPDX-License-Identifier: GPL-3.0-or-later
#include "support/gguf_model.h"

#include <cmath>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "golden/deterministic_model.h"
#include "model/config.h"
#include "support/gguf_bytes.h"

namespace lectern::engine::support {
namespace {

using golden::TensorSpec;
using Values = std::vector<float>;
using Names = std::map<std::string_view, std::string_view>;

const Names kModelNames = {{"model.embed_tokens.weight", "token_embd.weight"},
                           {"model.norm.weight", "output_norm.weight"},
                           {"lm_head.weight", "output.weight"}};

const Names kMtpNames = {{"fc.weight", "nextn.eh_proj.weight"},
                         {"pre_fc_norm_embedding.weight", "nextn.enorm.weight"},
                         {"pre_fc_norm_hidden.weight", "nextn.hnorm.weight"},
                         {"norm.weight", "nextn.shared_head_norm.weight"}};

const Names kLayerNames = {{"input_layernorm.weight", "attn_norm.weight"},
                           {"self_attn.q_proj.weight", "attn_q.weight"},
                           {"self_attn.k_proj.weight", "attn_k.weight"},
                           {"self_attn.v_proj.weight", "attn_v.weight"},
                           {"self_attn.o_proj.weight", "attn_output.weight"},
                           {"self_attn.q_norm.weight", "attn_q_norm.weight"},
                           {"self_attn.k_norm.weight", "attn_k_norm.weight"},
                           {"linear_attn.in_proj_qkvz.weight", "ssm_in.weight"},
                           {"linear_attn.in_proj_ba.weight", "ssm_ba.weight"},
                           {"linear_attn.conv1d.weight", "ssm_conv1d.weight"},
                           {"linear_attn.A_log", "ssm_a"},
                           {"linear_attn.dt_bias", "ssm_dt.bias"},
                           {"linear_attn.norm.weight", "ssm_norm.weight"},
                           {"linear_attn.out_proj.weight", "ssm_out.weight"},
                           {"mlp.gate_proj.weight", "ffn_gate.weight"},
                           {"mlp.up_proj.weight", "ffn_up.weight"},
                           {"mlp.down_proj.weight", "ffn_down.weight"},
                           {"mlp.gate.weight", "ffn_gate_inp.weight"},
                           {"mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight"},
                           {"mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight"},
                           {"mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight"},
                           {"mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight"}};

const Names kExpertNames = {{"gate_proj.weight", "ffn_gate_exps.weight"},
                            {"up_proj.weight", "ffn_up_exps.weight"},
                            {"down_proj.weight", "ffn_down_exps.weight"}};

template <class T>
T checked(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}

class GgufModelWriter {
 public:
  GgufModelWriter(ModelConfig config, DeltaLayout layout) : config_(std::move(config)), layout_(layout) {}

  std::string write(const std::vector<TensorSpec>& tensors) {
    for (const TensorSpec& tensor : tensors) add(tensor);
    for (const auto& [name, experts] : stacks_) put(name, experts.shape, experts.values);
    write_keys();
    return file_.bytes();
  }

 private:
  struct Stack {
    std::vector<std::int64_t> shape;  // experts first
    Values values;
  };

  bool is_qwen3_next() const { return config_.architecture == "qwen3_next"; }

  void u32(std::string_view key, std::int64_t value) {
    file_.u32(architecture() + "." + std::string(key), static_cast<std::uint32_t>(value));
  }
  void f32(std::string_view key, double value) {
    file_.number(architecture() + "." + std::string(key), static_cast<float>(value));
  }
  std::string architecture() const {
    std::string name = config_.architecture;
    std::erase(name, '_');
    return name;
  }

  void write_keys() {
    const auto layers = static_cast<std::int64_t>(config_.layers.size());
    file_.string("general.architecture", architecture());
    u32("block_count", has_mtp_ ? layers + 1 : layers);
    if (has_mtp_) u32("nextn_predict_layers", 1);
    u32("context_length", config_.context_tokens);
    u32("embedding_length", config_.hidden_size);
    u32("attention.head_count", config_.attention.query_heads);
    u32("attention.head_count_kv", config_.attention.kv_heads);
    u32("attention.key_length", config_.attention.head_dim);
    u32("attention.value_length", config_.attention.head_dim);
    f32("attention.layer_norm_rms_epsilon", config_.norm_epsilon);
    f32("rope.freq_base", config_.rope_theta);
    if (is_qwen3_next()) u32("rope.dimension_count", config_.rotary_dims);
    if (config_.yarn.factor > 1) write_yarn_keys();
    if (is_qwen3_next()) write_delta_keys();
    if (config_.dense_width > 0) return u32("feed_forward_length", config_.dense_width);
    u32("expert_count", config_.experts);
    u32("expert_used_count", config_.experts_per_token);
    u32("expert_feed_forward_length", config_.expert_width);
    if (is_qwen3_next()) u32("expert_shared_feed_forward_length", config_.shared_expert_width);
  }

  void write_yarn_keys() {
    file_.string(architecture() + ".rope.scaling.type", "yarn");
    f32("rope.scaling.factor", config_.yarn.factor);
    u32("rope.scaling.original_context_length", config_.yarn.original_context);
  }

  void write_delta_keys() {
    u32("ssm.conv_kernel", config_.conv_taps);
    u32("ssm.state_size", config_.delta.key_dim);
    u32("ssm.group_count", config_.delta.key_heads);
    u32("ssm.time_step_rank", config_.delta.value_heads);
    u32("ssm.inner_size", config_.value_width());
    std::string recurrent;
    for (const LayerKind kind : config_.layers) recurrent += kind == LayerKind::kDeltaNet ? '\1' : '\0';
    if (has_mtp_) recurrent += '\0';
    file_.array(architecture() + ".attention.recurrent_layers", static_cast<std::uint32_t>(GgufType::kBool),
                recurrent.size(), recurrent);
  }

  void add(const TensorSpec& tensor) {
    const std::string_view name = tensor.name;
    const std::string mtp_block = "blk." + std::to_string(config_.layers.size()) + ".";
    constexpr std::string_view kLayer = "model.layers.";
    constexpr std::string_view kMtpLayer = "mtp.layers.0.";
    if (name.starts_with(kLayer)) {
      const std::size_t end = name.find('.', kLayer.size()) + 1;
      add_to_block("blk." + std::string(name.substr(kLayer.size(), end - kLayer.size())), name.substr(end), tensor);
    } else if (name.starts_with(kMtpLayer)) {
      add_to_block(mtp_block, name.substr(kMtpLayer.size()), tensor);
    } else if (name.starts_with("mtp.")) {
      has_mtp_ = true;
      put(mtp_block + std::string(kMtpNames.at(name.substr(4))), tensor.shape, values_of(tensor));
    } else {
      put(std::string(kModelNames.at(name)), tensor.shape, values_of(tensor));
    }
  }

  // `name`: within its layer.
  void add_to_block(const std::string& block, std::string_view name, const TensorSpec& tensor) {
    constexpr std::string_view kExperts = "mlp.experts.";
    if (name.starts_with(kExperts)) {
      const std::string_view matrix = name.substr(name.find('.', kExperts.size()) + 1);
      Stack& stack = stacks_[block + std::string(kExpertNames.at(matrix))];
      const Values values = values_of(tensor);
      stack.shape = {config_.experts, tensor.shape[0], tensor.shape[1]};
      stack.values.insert(stack.values.end(), values.begin(), values.end());
    } else if (name == "post_attention_layernorm.weight") {
      put(block + (is_qwen3_next() ? "post_attention_norm.weight" : "ffn_norm.weight"), tensor.shape,
          values_of(tensor));
    } else if (name == "linear_attn.in_proj_qkvz.weight" && layout_ == DeltaLayout::kApart) {
      add_apart(block, values_of(tensor));
    } else {
      std::vector<std::int64_t> shape = tensor.shape;
      if (shape.size() > 1) std::erase(shape, 1);
      put(block + std::string(kLayerNames.at(name)), shape, values_of(tensor));
    }
  }

  // Rows of a key head's group: q, k, v of its value heads, z of its value heads.
  void add_apart(const std::string& block, const Values& joint) {
    const std::int64_t key = config_.delta.key_dim;
    const std::int64_t value = config_.delta.value_heads / config_.delta.key_heads * config_.delta.value_dim;
    const auto take = [&](std::int64_t first, std::int64_t rows, Values& to) {
      for (std::int64_t head = 0; head < config_.delta.key_heads; ++head) {
        const auto begin = joint.begin() + (head * 2 * (key + value) + first) * config_.hidden_size;
        to.insert(to.end(), begin, begin + rows * config_.hidden_size);
      }
    };
    Values qkv, z;
    take(0, key, qkv);
    take(key, key, qkv);
    take(2 * key, value, qkv);
    take(2 * key + value, value, z);
    put(block + "attn_qkv.weight", {config_.conv_channels(), config_.hidden_size}, qkv);
    put(block + "attn_gate.weight", {config_.value_width(), config_.hidden_size}, z);
  }

  // As files hold them: gains complete with their 1, and the rate of decay instead of its logarithm.
  Values values_of(const TensorSpec& tensor) const {
    Values values = golden::tensor_values(tensor);
    const std::string_view name = tensor.name;
    const bool is_gain = name.ends_with("norm.weight") || name.find(".pre_fc_norm_") != std::string_view::npos;
    if (is_qwen3_next() && is_gain && !name.ends_with("linear_attn.norm.weight")) {
      for (float& value : values) value += 1.0F;
    }
    if (name.ends_with(".A_log")) {
      for (float& value : values) value = -std::exp(value);
    }
    return values;
  }

  void put(const std::string& name, const std::vector<std::int64_t>& shape, const Values& values) {
    std::string bytes;
    bytes.reserve(values.size() * sizeof(float));
    for (const float value : values) bytes += little_endian(value);
    file_.tensor(name, std::vector<std::uint64_t>(shape.rbegin(), shape.rend()), 0, std::move(bytes));
  }

  ModelConfig config_;
  DeltaLayout layout_;
  GgufBytes file_;
  std::map<std::string, Stack> stacks_;
  bool has_mtp_ = false;
};

}  // namespace

void write_gguf_model(const std::filesystem::path& golden_model, const std::filesystem::path& file,
                      DeltaLayout layout) {
  const JsonDocument config = checked(JsonDocument::read(golden_model / "config.json"));
  const bool mtp = std::filesystem::exists(golden_model / "mtp.f32");
  const std::string bytes =
      GgufModelWriter(checked(read_config(golden_model)), layout).write(golden::decoder_tensors(config.root(), mtp));
  std::ofstream out(file, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + file.string());
}

}  // namespace lectern::engine::support
