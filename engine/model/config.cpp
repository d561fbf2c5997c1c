// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "core/json.h"
#include "model/config_checks.h"

namespace lectern::engine {
namespace {

Error unsupported(const std::string& what) { return {ErrorCode::kUnsupported, "config.json: " + what}; }

// An integer in [low, high]; `fallback` below zero means that the member is required.
Result<std::int64_t> ranged(const JsonValue& json, std::string_view key, std::int64_t low, std::int64_t high,
                            std::int64_t fallback = -1) {
  std::int64_t value = fallback;
  if (fallback < 0 || json[key].exists()) {
    ENGINE_TRY(value, json.need_integer(key));
  }
  if (value < low || value > high) {
    return json.error(out_of_range(key, value, low, high));
  }
  return value;
}

Result<std::string> read_architecture(const JsonValue& json) {
  ENGINE_TRY(const std::string type, json.need_string("model_type"));
  if (type != "qwen3_next" && type != "qwen3" && type != "qwen3_moe") {
    return unsupported("model_type \"" + type + "\" is not supported; expected qwen3_next, qwen3 or qwen3_moe.");
  }
  return type;
}

// Block-wise FP8 with scales beside the weights is read; other quantisations are not.
Result<void> reject_quantisation(const JsonValue& json) {
  const JsonValue quantisation = json["quantization_config"];
  if (!quantisation.is_object()) return {};
  ENGINE_TRY(const std::string method, quantisation.string_or("quant_method", ""));
  const JsonValue block = quantisation["weight_block_size"];
  bool plain_blocks = block.size() == 2;
  for (const JsonValue size : block.elements()) plain_blocks = plain_blocks && size.integer().value_or(0) == 128;
  if (method == "fp8" && plain_blocks) return {};
  return unsupported("quantization_config \"" + method +
                     "\" is not supported; use the BF16 or block-FP8 files of this model, or a GGUF.");
}

Result<void> reject_variants(const JsonValue& json) {
  ENGINE_CHECK(reject_quantisation(json));
  ENGINE_TRY(const bool gate, json.boolean_or("attn_output_gate", true));
  ENGINE_TRY(const bool scale, json.boolean_or("layer_scale", false));
  ENGINE_TRY(const bool bias, json.boolean_or("attention_bias", false));
  ENGINE_TRY(const bool sliding, json.boolean_or("use_sliding_window", false));
  ENGINE_TRY(const std::string gate_type, json.string_or("output_gate_type", "silu"));
  ENGINE_TRY(const std::string activation, json.string_or("hidden_act", "silu"));
  ENGINE_TRY(const std::int64_t sparse_step, json.integer_or("decoder_sparse_step", 1));
  if (!gate) return unsupported("attn_output_gate false is not supported.");
  if (scale) return unsupported("layer_scale true is not supported.");
  if (bias) return unsupported("attention_bias true is not supported.");
  if (sliding) return unsupported("use_sliding_window true is not supported.");
  if (gate_type != "silu" && gate_type != "swish")
    return unsupported("output_gate_type \"" + gate_type + "\" is not supported.");
  if (activation != "silu") return unsupported("hidden_act \"" + activation + "\" is not supported.");
  if (sparse_step != 1 || json["mlp_only_layers"].size() != 0) {
    return unsupported("layers without experts (decoder_sparse_step, mlp_only_layers) are not supported.");
  }
  return {};
}

Result<std::vector<LayerKind>> read_layers(const JsonValue& json, const std::string& architecture) {
  ENGINE_TRY(const std::int64_t count, ranged(json, "num_hidden_layers", 1, kMostLayers));
  if (architecture != "qwen3_next") {
    return std::vector<LayerKind>(static_cast<std::size_t>(count), LayerKind::kAttention);
  }
  std::vector<LayerKind> layers;
  const JsonValue types = json["layer_types"];
  if (types.exists() && !types.is_null()) {
    for (const JsonValue type : types.elements()) {
      const auto name = type.string().value_or("");
      if (name != "linear_attention" && name != "full_attention") {
        return type.error("unknown layer type; expected linear_attention or full_attention");
      }
      layers.push_back(name == "full_attention" ? LayerKind::kAttention : LayerKind::kDeltaNet);
    }
    if (static_cast<std::int64_t>(layers.size()) != count) {
      return types.error("layer_types does not have num_hidden_layers entries");
    }
    return layers;
  }
  ENGINE_TRY(const std::int64_t interval, ranged(json, "full_attention_interval", 1, 4096, 4));
  for (std::int64_t i = 0; i < count; ++i) {
    layers.push_back((i + 1) % interval == 0 ? LayerKind::kAttention : LayerKind::kDeltaNet);
  }
  return layers;
}

// The members that change the frequencies and that are not computed here.
Result<void> reject_yarn_variants(const JsonValue& scaling) {
  ENGINE_TRY(const bool truncate, scaling.boolean_or("truncate", true));
  if (!truncate) return unsupported("rope scaling with truncate false is not supported.");
  for (const char* key : {"mscale", "mscale_all_dim"}) {
    if (!scaling[key].exists() || scaling[key].is_null()) continue;
    return unsupported(std::string("rope scaling with ") + key + " is not supported.");
  }
  return {};
}

Result<YarnScaling> read_yarn(const JsonValue& scaling, std::int64_t context) {
  YarnScaling yarn;
  ENGINE_TRY(std::string type, scaling.string_or("rope_type", ""));
  if (type.empty()) {
    ENGINE_TRY(type, scaling.string_or("type", "default"));
  }
  if (type == "default") return yarn;
  if (type != "yarn") return unsupported("rope scaling \"" + type + "\" is not supported; expected \"yarn\".");
  ENGINE_CHECK(reject_yarn_variants(scaling));
  ENGINE_TRY(yarn.factor, scaling.need_number("factor"));
  ENGINE_TRY(yarn.original_context, ranged(scaling, "original_max_position_embeddings", 1, kLargestContext, context));
  ENGINE_TRY(yarn.beta_fast, scaling.number_or("beta_fast", 32));
  ENGINE_TRY(yarn.beta_slow, scaling.number_or("beta_slow", 1));
  ENGINE_TRY(yarn.attention_factor, scaling.number_or("attention_factor", 0));
  if (!is_sane(yarn)) return scaling.error("the YaRN parameters are out of range");
  return yarn;
}

Result<void> read_rope(const JsonValue& json, ModelConfig& config) {
  // transformers 5 gathers the rope settings in rope_parameters; 4.x spreads them over the top level.
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const JsonValue value = json[key];
    if (value.exists() && !value.is_null() && !value.is_object()) return value.error("expected an object or null");
  }
  const JsonValue gathered = json["rope_parameters"].is_object() ? json["rope_parameters"] : JsonValue();
  const JsonValue fraction_at = gathered["partial_rotary_factor"].exists() ? gathered : json;
  const JsonValue theta_at = gathered["rope_theta"].exists() ? gathered : json;
  ENGINE_TRY(const double fraction, fraction_at.number_or("partial_rotary_factor", config.output_gate ? 0.25 : 1.0));
  ENGINE_TRY(config.rope_theta, theta_at.need_number("rope_theta"));
  const double dims = std::floor(fraction * static_cast<double>(config.attention.head_dim));
  if (!(fraction > 0) || fraction > 1 || dims < 2 || std::fmod(dims, 2) != 0) {
    return json.error("partial_rotary_factor " + std::to_string(fraction) +
                      " gives no even number of rotary dimensions");
  }
  if (!(config.rope_theta > 1) || !std::isfinite(config.rope_theta)) return json.error("rope_theta must be above 1");
  config.rotary_dims = static_cast<std::int64_t>(dims);
  const JsonValue scaling = json["rope_scaling"].is_object() ? json["rope_scaling"] : gathered;
  if (scaling.exists()) {
    ENGINE_TRY(config.yarn, read_yarn(scaling, config.context_tokens));
  }
  return {};
}

Result<void> read_attention(const JsonValue& json, ModelConfig& config) {
  ENGINE_TRY(config.attention.query_heads, ranged(json, "num_attention_heads", 1, kMostHeads));
  ENGINE_TRY(config.attention.kv_heads, ranged(json, "num_key_value_heads", 1, kMostHeads));
  const std::int64_t derived = std::max<std::int64_t>(1, config.hidden_size / config.attention.query_heads);
  ENGINE_TRY(config.attention.head_dim, ranged(json, "head_dim", 2, kLargestHead, derived));
  if (config.attention.query_heads % config.attention.kv_heads != 0) {
    return json.error("num_attention_heads is not a multiple of num_key_value_heads");
  }
  ENGINE_CHECK(read_rope(json, config));
  return {};
}

Result<void> read_delta(const JsonValue& json, ModelConfig& config) {
  ENGINE_TRY(config.delta.key_heads, ranged(json, "linear_num_key_heads", 1, kMostHeads));
  ENGINE_TRY(config.delta.value_heads, ranged(json, "linear_num_value_heads", 1, kMostHeads));
  ENGINE_TRY(config.delta.key_dim, ranged(json, "linear_key_head_dim", 1, kLargestHead));
  ENGINE_TRY(config.delta.value_dim, ranged(json, "linear_value_head_dim", 1, kLargestHead));
  ENGINE_TRY(config.conv_taps, ranged(json, "linear_conv_kernel_dim", 2, kMostTaps));
  if (config.delta.value_heads % config.delta.key_heads != 0) {
    return json.error("linear_num_value_heads is not a multiple of linear_num_key_heads");
  }
  return {};
}

Result<void> read_experts(const JsonValue& json, ModelConfig& config) {
  ENGINE_TRY(config.experts, ranged(json, "num_experts", 1, kMostExperts));
  ENGINE_TRY(config.experts_per_token, ranged(json, "num_experts_per_tok", 1, config.experts));
  ENGINE_TRY(config.expert_width, ranged(json, "moe_intermediate_size", 1, kLargestDimension));
  if (config.architecture == "qwen3_next") {
    ENGINE_TRY(config.shared_expert_width, ranged(json, "shared_expert_intermediate_size", 1, kLargestDimension));
  }
  ENGINE_TRY(config.normalise_top_k, json.boolean_or("norm_topk_prob", config.architecture == "qwen3_next"));
  return {};
}

}  // namespace

std::string out_of_range(std::string_view key, std::int64_t value, std::int64_t low, std::int64_t high) {
  return std::string(key) + " is " + std::to_string(value) + ", expected " + std::to_string(low) + " to " +
         std::to_string(high);
}

bool is_sane(const YarnScaling& yarn) {
  return yarn.factor >= 1 && yarn.factor <= 1024 && yarn.beta_slow > 0 && yarn.beta_fast >= yarn.beta_slow &&
         yarn.beta_fast <= 1e6 && yarn.attention_factor >= 0 && yarn.attention_factor <= 1024;
}

void extend_context(ModelConfig& config) {
  if (config.yarn.factor <= 1) return;
  const double longest = config.yarn.factor * static_cast<double>(config.yarn.original_context);
  config.context_tokens = std::max(config.context_tokens, static_cast<std::int64_t>(longest));
}

Result<ModelConfig> read_config(const std::filesystem::path& directory) {
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(directory / "config.json"));
  const JsonValue json = document.root();
  if (!json.is_object()) return json.error("expected an object");
  ModelConfig config;
  ENGINE_TRY(config.architecture, read_architecture(json));
  ENGINE_CHECK(reject_variants(json));
  config.output_gate = config.architecture == "qwen3_next";
  ENGINE_TRY(config.hidden_size, ranged(json, "hidden_size", 1, kLargestDimension));
  ENGINE_TRY(config.vocabulary, ranged(json, "vocab_size", 1, kLargestVocabulary));
  ENGINE_TRY(config.context_tokens, ranged(json, "max_position_embeddings", 1, kLargestContext, 32768));
  ENGINE_TRY(const double epsilon, json.number_or("rms_norm_eps", 1e-6));
  if (!(epsilon > 0) || epsilon > 1) return json.error("rms_norm_eps is out of range");
  config.norm_epsilon = static_cast<float>(epsilon);
  ENGINE_TRY(config.tied_embeddings, json.boolean_or("tie_word_embeddings", false));
  ENGINE_TRY(config.layers, read_layers(json, config.architecture));
  ENGINE_CHECK(read_attention(json, config));
  if (config.has_delta_layers()) ENGINE_CHECK(read_delta(json, config));
  if (config.architecture == "qwen3") {
    ENGINE_TRY(config.dense_width, ranged(json, "intermediate_size", 1, kLargestDimension));
  } else {
    ENGINE_CHECK(read_experts(json, config));
  }
  extend_context(config);
  return config;
}

RotaryTable make_rotary_table(const ModelConfig& config, const YarnScaling& yarn) {
  const auto dims = static_cast<double>(config.rotary_dims);
  const auto turns_to_pair = [&](double turns) {
    const double original = static_cast<double>(yarn.original_context);
    return dims * std::log(original / (2 * std::numbers::pi * turns)) / (2 * std::log(config.rope_theta));
  };
  RotaryTable table;
  double low = 0;
  double high = 0;
  if (yarn.factor > 1) {
    low = std::max(std::floor(turns_to_pair(yarn.beta_fast)), 0.0);
    high = std::min(std::ceil(turns_to_pair(yarn.beta_slow)), dims - 1);
    if (high <= low) high = low + 0.001;
    table.magnitude = yarn.attention_factor > 0 ? yarn.attention_factor : 0.1 * std::log(yarn.factor) + 1;
  }
  for (std::int64_t i = 0; i < config.rotary_dims / 2; ++i) {
    const double plain = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / dims);
    const double ramp = yarn.factor > 1 ? std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0) : 0.0;
    table.inverse_frequency.push_back(plain / yarn.factor * ramp + plain * (1 - ramp));
  }
  return table;
}

}  // namespace lectern::engine
