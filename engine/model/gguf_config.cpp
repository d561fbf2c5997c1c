// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_config.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "core/utf8.h"
#include "model/config_checks.h"
#include "model/tensor_file.h"

namespace lectern::engine {
namespace {

struct Architecture {
  std::string_view name;    // in GGUF files
  std::string_view config;  // the model_type of config.json
};
constexpr std::array<Architecture, 3> kArchitectures = {
    {{"qwen3next", "qwen3_next"}, {"qwen3", "qwen3"}, {"qwen3moe", "qwen3_moe"}}};

constexpr std::string_view kEmbedding = "token_embd.weight";
constexpr std::int64_t kDefaultInterval = 4;

class GgufConfigReader {
 public:
  explicit GgufConfigReader(const GgufContent& content) : metadata_(content.metadata), tensors_(content.tensors) {}

  Result<ModelConfig> read() {
    ENGINE_CHECK(read_architecture());
    ENGINE_TRY(config_.hidden_size, integer("embedding_length", 1, kLargestDimension));
    ENGINE_TRY(config_.context_tokens, integer("context_length", 1, kLargestContext));
    ENGINE_TRY(const double epsilon, metadata_.number(key("attention.layer_norm_rms_epsilon")));
    if (!(epsilon > 0) || epsilon > 1) return wrong("attention.layer_norm_rms_epsilon", "out of range");
    config_.norm_epsilon = static_cast<float>(epsilon);
    ENGINE_CHECK(read_embedding());
    ENGINE_CHECK(read_layers());
    ENGINE_CHECK(read_attention());
    ENGINE_CHECK(read_rope());
    if (config_.has_delta_layers()) ENGINE_CHECK(read_delta());
    if (config_.architecture == "qwen3") {
      ENGINE_TRY(config_.dense_width, uniform("feed_forward_length", 1, kLargestDimension));
    } else {
      ENGINE_CHECK(read_experts());
    }
    extend_context(config_);
    return config_;
  }

 private:
  std::string key(std::string_view name) const { return prefix_ + std::string(name); }

  Error wrong(std::string_view name, const std::string& what) const {
    return metadata_.corrupt("key " + key(name) + " is " + what);
  }

  Result<std::int64_t> integer(std::string_view name, std::int64_t low, std::int64_t high) const {
    return metadata_.integer(key(name), low, high);
  }

  // One integer, or an array with one for each block, which must be equal.
  Result<std::int64_t> uniform(std::string_view name, std::int64_t low, std::int64_t high) const {
    const GgufValue* value = metadata_.find(key(name));
    if (value == nullptr || !value->array) return integer(name, low, high);
    ENGINE_TRY(const std::vector<std::int64_t> numbers, metadata_.integers(key(name)));
    if (numbers.empty()) return wrong(name, "an empty array");
    if (std::any_of(numbers.begin(), numbers.end(), [&](std::int64_t number) { return number != numbers[0]; })) {
      return metadata_.unsupported(key(name) +
                                   " differs from layer to layer, which is not supported; use a model whose layers "
                                   "have one shape");
    }
    if (numbers[0] < low || numbers[0] > high) {
      return metadata_.corrupt("key " + out_of_range(key(name), numbers[0], low, high));
    }
    return numbers[0];
  }

  Result<void> read_architecture() {
    ENGINE_TRY(const std::string_view stated, metadata_.string("general.architecture"));
    for (const auto& [name, config] : kArchitectures) {
      if (stated != name) continue;
      prefix_ = std::string(name) + ".";
      config_.architecture = config;
      config_.output_gate = name == "qwen3next";
      return {};
    }
    return metadata_.unsupported("the architecture " + unicode::in_quotes(stated) +
                                 " is not supported; use a model of the architecture qwen3next, qwen3 or qwen3moe");
  }

  Result<void> read_embedding() {
    const auto embedding = tensors_.find(kEmbedding);
    if (embedding == tensors_.end()) {
      return metadata_.corrupt("tensor " + std::string(kEmbedding) + " is missing");
    }
    const std::vector<std::int64_t>& shape = embedding->second.shape;
    const bool fits =
        shape.size() == 2 && shape[0] >= 1 && shape[0] <= kLargestVocabulary && shape[1] == config_.hidden_size;
    if (!fits) {
      return metadata_.corrupt("tensor " + std::string(kEmbedding) + " has the shape " + shape_text(shape) +
                               ", expected one row of " + std::to_string(config_.hidden_size) + " for each token");
    }
    config_.vocabulary = shape[0];
    config_.tied_embeddings = !tensors_.contains("output.weight");
    if (!metadata_.has("tokenizer.ggml.tokens")) return {};
    ENGINE_TRY(const std::vector<std::string_view> tokens, metadata_.strings("tokenizer.ggml.tokens"));
    if (static_cast<std::int64_t>(tokens.size()) == config_.vocabulary) return {};
    return metadata_.corrupt("it lists " + std::to_string(tokens.size()) + " tokens, but " + std::string(kEmbedding) +
                             " has " + std::to_string(config_.vocabulary) + " rows");
  }

  Result<void> read_layers() {
    ENGINE_TRY(const std::int64_t blocks, integer("block_count", 1, kMostLayers));
    ENGINE_TRY(const std::int64_t extra, metadata_.integer_or(key("nextn_predict_layers"), 0, 0, blocks - 1));
    const std::int64_t count = blocks - extra;
    if (config_.architecture != "qwen3_next") {
      config_.layers.assign(static_cast<std::size_t>(count), LayerKind::kAttention);
      return {};
    }
    if (metadata_.has(key("attention.recurrent_layers"))) {
      ENGINE_TRY(const std::vector<bool> recurrent, metadata_.booleans(key("attention.recurrent_layers")));
      const auto stated = static_cast<std::int64_t>(recurrent.size());
      if (stated != blocks && stated != count) {
        return wrong("attention.recurrent_layers", "an array of " + std::to_string(stated) +
                                                       ", expected one for each of " + std::to_string(blocks) +
                                                       " blocks");
      }
      for (std::int64_t i = 0; i < count; ++i) {
        config_.layers.push_back(recurrent[static_cast<std::size_t>(i)] ? LayerKind::kDeltaNet : LayerKind::kAttention);
      }
      return {};
    }
    ENGINE_TRY(const std::int64_t interval,
               metadata_.integer_or(key("full_attention_interval"), kDefaultInterval, 1, kMostLayers));
    for (std::int64_t i = 0; i < count; ++i) {
      config_.layers.push_back((i + 1) % interval == 0 ? LayerKind::kAttention : LayerKind::kDeltaNet);
    }
    return {};
  }

  Result<void> read_attention() {
    AttentionShape& attention = config_.attention;
    ENGINE_TRY(attention.query_heads, uniform("attention.head_count", 1, kMostHeads));
    ENGINE_TRY(attention.kv_heads, uniform("attention.head_count_kv", 1, kMostHeads));
    if (attention.query_heads % attention.kv_heads != 0) {
      return wrong("attention.head_count", "not a multiple of attention.head_count_kv");
    }
    const std::int64_t derived = std::max<std::int64_t>(2, config_.hidden_size / attention.query_heads);
    ENGINE_TRY(attention.head_dim, metadata_.integer_or(key("attention.key_length"), derived, 2, kLargestHead));
    ENGINE_TRY(const std::int64_t values,
               metadata_.integer_or(key("attention.value_length"), attention.head_dim, 2, kLargestHead));
    if (values == attention.head_dim) return {};
    return metadata_.unsupported(key("attention.value_length") +
                                 " differs from attention.key_length, which is not supported; use a model with equal "
                                 "sizes");
  }

  Result<void> read_rope() {
    ENGINE_TRY(config_.rope_theta, metadata_.number(key("rope.freq_base")));
    if (!(config_.rope_theta > 1)) return wrong("rope.freq_base", "not above 1");
    const std::int64_t head = config_.attention.head_dim;
    ENGINE_TRY(config_.rotary_dims, metadata_.integer_or(key("rope.dimension_count"), head, 2, head));
    if (config_.rotary_dims % 2 != 0) return wrong("rope.dimension_count", "odd, expected an even number");
    ENGINE_TRY(const std::string_view type, metadata_.string_or(key("rope.scaling.type"), "none"));
    if (type == "none") return {};
    if (type == "yarn") return read_yarn();
    return metadata_.unsupported("rope scaling " + unicode::in_quotes(type) +
                                 " is not supported; use a model without it or with \"yarn\"");
  }

  Result<void> read_yarn() {
    YarnScaling& yarn = config_.yarn;
    ENGINE_TRY(yarn.factor, metadata_.number(key("rope.scaling.factor")));
    ENGINE_TRY(yarn.original_context, metadata_.integer_or(key("rope.scaling.original_context_length"),
                                                           config_.context_tokens, 1, kLargestContext));
    ENGINE_TRY(yarn.beta_fast, metadata_.number_or(key("rope.scaling.yarn_beta_fast"), yarn.beta_fast));
    ENGINE_TRY(yarn.beta_slow, metadata_.number_or(key("rope.scaling.yarn_beta_slow"), yarn.beta_slow));
    for (const std::string_view name :
         {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"}) {
      ENGINE_TRY(const double stated, metadata_.number_or(key(name), 1));
      if (stated == 1) continue;
      return metadata_.unsupported(key(name) + " other than 1 is not supported; use a model with plain YaRN");
    }
    if (!is_sane(yarn))
      return metadata_.corrupt("the YaRN parameters (" + key("rope.scaling.*") + ") are out of range");
    return {};
  }

  Result<void> read_delta() {
    DeltaShape& delta = config_.delta;
    ENGINE_TRY(delta.key_heads, integer("ssm.group_count", 1, kMostHeads));
    ENGINE_TRY(delta.value_heads, integer("ssm.time_step_rank", 1, kMostHeads));
    ENGINE_TRY(delta.key_dim, integer("ssm.state_size", 1, kLargestHead));
    ENGINE_TRY(config_.conv_taps, integer("ssm.conv_kernel", 2, kMostTaps));
    if (delta.value_heads % delta.key_heads != 0) {
      return wrong("ssm.time_step_rank", "not a multiple of ssm.group_count");
    }
    ENGINE_TRY(const std::int64_t width, integer("ssm.inner_size", 1, kMostHeads * kLargestHead));
    delta.value_dim = width / delta.value_heads;
    if (width % delta.value_heads != 0 || delta.value_dim > kLargestHead) {
      return wrong("ssm.inner_size", std::to_string(width) + ", which ssm.time_step_rank heads cannot share");
    }
    return {};
  }

  Result<void> read_experts() {
    ENGINE_TRY(config_.experts, integer("expert_count", 1, kMostExperts));
    ENGINE_TRY(config_.experts_per_token, integer("expert_used_count", 1, config_.experts));
    ENGINE_TRY(config_.expert_width, uniform("expert_feed_forward_length", 1, kLargestDimension));
    if (config_.architecture == "qwen3_next") {
      ENGINE_TRY(config_.shared_expert_width, uniform("expert_shared_feed_forward_length", 1, kLargestDimension));
    }
    return {};
  }

  const GgufMetadata& metadata_;
  const GgufTensors& tensors_;
  std::string prefix_;
  ModelConfig config_;
};

}  // namespace

Result<ModelConfig> read_gguf_config(const GgufContent& content) { return GgufConfigReader(content).read(); }

}  // namespace lectern::engine
