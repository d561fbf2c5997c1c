// SPDX-License-Identifier: Apache-2.0
#include "runtime/gguf_keys.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/byte_alphabet.h"
#include "text/chat_template.h"
#include "text/tokenizer_files.h"

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kQuantisationVersion = 2;
constexpr std::int32_t kNormal = 1;
constexpr std::int32_t kControl = 3;
constexpr std::int32_t kUserDefined = 4;
constexpr std::int32_t kUnused = 5;
constexpr std::int64_t kDefaultInterval = 4;

std::string_view gguf_architecture(const ModelConfig& config) {
  if (config.architecture == "qwen3_next") return "qwen3next";
  return config.architecture == "qwen3_moe" ? "qwen3moe" : "qwen3";
}

Error cannot_say(const std::string& what) {
  return {ErrorCode::kUnsupported,
          "No key of a GGUF file can say that " + what + ", so the model cannot be written as one; use its own files."};
}

// The layers whose mixer is attention, as every so manyth one; 0: not like that.
std::int64_t attention_interval(const ModelConfig& config) {
  const auto& layers = config.layers;
  const auto first = std::find(layers.begin(), layers.end(), LayerKind::kAttention);
  const std::int64_t interval = first == layers.end() ? kDefaultInterval : first - layers.begin() + 1;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const bool attention = (static_cast<std::int64_t>(i) + 1) % interval == 0;
    if (attention != (layers[i] == LayerKind::kAttention)) return 0;
  }
  return interval;
}

void add_layer_kinds(const ModelConfig& config, std::int64_t blocks, GgufHeader& header) {
  if (config.architecture != "qwen3_next") return;
  const std::string prefix = std::string(gguf_architecture(config)) + ".";
  const std::int64_t interval = attention_interval(config);
  if (interval > 0) return header.u32(prefix + "full_attention_interval", interval);
  std::vector<bool> recurrent;
  for (const LayerKind kind : config.layers) recurrent.push_back(kind == LayerKind::kDeltaNet);
  recurrent.resize(static_cast<std::size_t>(blocks), false);  // the MTP block is attention
  header.booleans(prefix + "attention.recurrent_layers", recurrent);
}

// The directory's small files that the format has keys for.
struct SourceJson {
  std::optional<JsonDocument> config;
  std::optional<JsonDocument> generation;
  std::optional<JsonDocument> tokenizer;

  static Result<SourceJson> read(const fs::path& directory) {
    SourceJson json;
    const std::pair<const char*, std::optional<JsonDocument> SourceJson::*> files[] = {
        {"config.json", &SourceJson::config},
        {"generation_config.json", &SourceJson::generation},
        {"tokenizer_config.json", &SourceJson::tokenizer}};
    for (const auto& [name, document] : files) {
      std::error_code error;
      if (!fs::exists(directory / name, error)) continue;
      ENGINE_TRY(json.*document, JsonDocument::read(directory / name));
    }
    return json;
  }

  static JsonValue root(const std::optional<JsonDocument>& document) {
    return document ? document->root() : JsonValue();
  }
};

class ConfigKeys {
 public:
  ConfigKeys(const ModelConfig& config, const ModelPlan& plan, GgufHeader& header)
      : config_(config), plan_(plan), header_(header), prefix_(std::string(gguf_architecture(config)) + ".") {}

  Result<void> add(std::int64_t intermediate_size) {
    if (!config_.normalise_top_k) return cannot_say("the weights of a token's experts are not scaled to a sum of 1");
    u32("block_count", plan_.blocks);
    u32("context_length", trained_context());
    u32("embedding_length", config_.hidden_size);
    if (intermediate_size > 0) u32("feed_forward_length", intermediate_size);
    u32("attention.head_count", config_.attention.query_heads);
    u32("attention.head_count_kv", config_.attention.kv_heads);
    u32("attention.key_length", config_.attention.head_dim);
    u32("attention.value_length", config_.attention.head_dim);
    header_.f32(prefix_ + "attention.layer_norm_rms_epsilon", static_cast<double>(config_.norm_epsilon));
    header_.f32(prefix_ + "rope.freq_base", config_.rope_theta);
    if (config_.rotary_dims != config_.attention.head_dim) u32("rope.dimension_count", config_.rotary_dims);
    ENGINE_CHECK(add_yarn());
    if (config_.experts > 0) {
      u32("expert_count", config_.experts);
      u32("expert_used_count", config_.experts_per_token);
      u32("expert_feed_forward_length", config_.expert_width);
    }
    if (config_.shared_expert_width > 0) u32("expert_shared_feed_forward_length", config_.shared_expert_width);
    if (config_.has_delta_layers()) add_delta();
    add_layer_kinds(config_, plan_.blocks, header_);
    if (plan_.has_mtp) u32("nextn_predict_layers", 1);
    return {};
  }

 private:
  void u32(std::string_view name, std::int64_t value) { header_.u32(prefix_ + std::string(name), value); }

  // Reading the file extends it again.
  std::int64_t trained_context() const {
    return config_.yarn.factor > 1 ? config_.yarn.original_context : config_.context_tokens;
  }

  Result<void> add_yarn() {
    const YarnScaling& yarn = config_.yarn;
    if (yarn.factor <= 1) return {};
    const double usual = 0.1 * std::log(yarn.factor) + 1;
    if (yarn.attention_factor > 0 && std::abs(yarn.attention_factor - usual) > 1e-6) {
      return cannot_say("its YaRN scaling has an attention factor of its own");
    }
    header_.string(prefix_ + "rope.scaling.type", "yarn");
    header_.f32(prefix_ + "rope.scaling.factor", yarn.factor);
    u32("rope.scaling.original_context_length", yarn.original_context);
    header_.f32(prefix_ + "rope.scaling.yarn_beta_fast", yarn.beta_fast);
    header_.f32(prefix_ + "rope.scaling.yarn_beta_slow", yarn.beta_slow);
    return {};
  }

  void add_delta() {
    u32("ssm.conv_kernel", config_.conv_taps);
    u32("ssm.state_size", config_.delta.key_dim);
    u32("ssm.group_count", config_.delta.key_heads);
    u32("ssm.time_step_rank", config_.delta.value_heads);
    u32("ssm.inner_size", config_.value_width());
  }

  const ModelConfig& config_;
  const ModelPlan& plan_;
  GgufHeader& header_;
  std::string prefix_;
};

// Markers that only some checkpoints flag as special.
bool looks_special(std::string_view token) { return token.starts_with("<|") && token.ends_with("|>"); }

class TokenizerKeys {
 public:
  TokenizerKeys(const TokenizerDefinition& definition, const SourceJson& json, GgufHeader& header)
      : definition_(definition), json_(json), header_(header) {}

  Result<void> add(std::int64_t vocabulary) {
    if (!definition_.nfc) return cannot_say("texts are not normalised");
    const auto count = static_cast<std::int64_t>(definition_.tokens.size());
    if (count > vocabulary) {
      return Error{ErrorCode::kCorrupt, "The tokenizer has " + std::to_string(count) +
                                            " tokens but the model's vocabulary_size is " + std::to_string(vocabulary) +
                                            "; the files are of different models."};
    }
    header_.string("tokenizer.ggml.model", "gpt2");
    header_.string("tokenizer.ggml.pre", "qwen2");
    add_tokens(vocabulary);
    add_merges();
    add_special();
    header_.boolean("tokenizer.ggml.add_bos_token", false);
    return {};
  }

 private:
  void add_tokens(std::int64_t vocabulary) {
    std::vector<std::string> tokens;
    std::vector<std::int32_t> types;
    for (const std::string& bytes : definition_.tokens) {
      tokens.push_back(alphabet_from_bytes(bytes));
      types.push_back(kNormal);
    }
    for (const AddedToken& token : definition_.added) {
      const auto at = static_cast<std::size_t>(token.id);
      tokens[at] = token.content;
      types[at] = token.special || looks_special(token.content) ? kControl : kUserDefined;
    }
    while (static_cast<std::int64_t>(tokens.size()) < vocabulary) {
      tokens.push_back("[PAD" + std::to_string(tokens.size()) + "]");
      types.push_back(kUnused);
    }
    header_.strings("tokenizer.ggml.tokens", tokens);
    header_.integers("tokenizer.ggml.token_type", types);
  }

  void add_merges() {
    std::vector<std::string> merges;
    const auto name = [&](TokenId id) { return alphabet_from_bytes(definition_.tokens[static_cast<std::size_t>(id)]); };
    for (const BpeMerge& merge : definition_.merges) merges.push_back(name(merge.left) + " " + name(merge.right));
    header_.strings("tokenizer.ggml.merges", merges);
  }

  void add_special() {
    const auto end = named("eos_token").value_or(first_id("eos_token_id"));
    add_id("tokenizer.ggml.eos_token_id", end);
    for (const std::int64_t id : ids("eos_token_id")) {
      const std::string_view text = content(id);
      if (id == end || text == "<|im_end|>" || text == "<|endoftext|>") continue;  // these end every reply
      add_id("tokenizer.ggml.eot_token_id", id);
      break;
    }
    add_id("tokenizer.ggml.padding_token_id", named("pad_token").value_or(first_id("pad_token_id")));
    add_id("tokenizer.ggml.bos_token_id", named("bos_token").value_or(first_id("bos_token_id")));
  }

  void add_id(std::string_view key, std::int64_t id) {
    if (!content(id).empty()) header_.u32(key, id);
  }

  std::string_view content(std::int64_t id) const {
    const bool known = id >= 0 && id < static_cast<std::int64_t>(definition_.tokens.size());
    return known ? std::string_view(definition_.tokens[static_cast<std::size_t>(id)]) : std::string_view();
  }

  // Of tokenizer_config.json: a text, or an object that holds it.
  std::optional<std::int64_t> named(std::string_view key) const {
    const JsonValue value = SourceJson::root(json_.tokenizer)[key];
    const auto text = value.is_object() ? value["content"].string() : value.string();
    if (!text) return std::nullopt;
    for (const AddedToken& token : definition_.added) {
      if (token.content == *text) return token.id;
    }
    return std::nullopt;
  }

  // Of generation_config.json, or else config.json: a number or a list.
  std::vector<std::int64_t> ids(std::string_view key) const {
    std::vector<std::int64_t> found;
    for (const auto* document : {&json_.generation, &json_.config}) {
      const JsonValue value = SourceJson::root(*document)[key];
      if (const auto id = value.integer()) found.push_back(*id);
      for (const JsonValue element : value.elements()) found.push_back(element.integer().value_or(-1));
      if (!found.empty()) break;
    }
    return found;
  }

  std::int64_t first_id(std::string_view key) const {
    const std::vector<std::int64_t> found = ids(key);
    return found.empty() ? -1 : found.front();
  }

  const TokenizerDefinition& definition_;
  const SourceJson& json_;
  GgufHeader& header_;
};

void add_general(std::string_view architecture, std::string_view name, const Mix& mix, GgufHeader& header) {
  header.string("general.architecture", architecture);
  header.string("general.type", "model");
  header.string("general.name", name);
  header.u32("general.file_type", mix.file_type);
  header.u32("general.quantization_version", kQuantisationVersion);
}

Result<void> add_keys_of_directory(const fs::path& source, const ModelFiles& files, const ModelPlan& plan,
                                   const Mix& mix, GgufHeader& header) {
  const ModelConfig& config = files.config();
  ENGINE_TRY(const SourceJson json, SourceJson::read(source));
  ENGINE_TRY(const std::int64_t intermediate, SourceJson::root(json.config).integer_or("intermediate_size", 0));
  std::error_code error;
  const fs::path folder = fs::weakly_canonical(source, error);
  add_general(gguf_architecture(config), folder.filename().string(), mix, header);
  ENGINE_CHECK(ConfigKeys(config, plan, header).add(config.dense_width > 0 ? config.dense_width : intermediate));
  ENGINE_TRY(const TokenizerDefinition definition, read_tokenizer_files(source));
  ENGINE_CHECK(TokenizerKeys(definition, json, header).add(config.vocabulary));
  ENGINE_TRY(const std::string chat_template, read_chat_template(source));
  if (!chat_template.empty()) header.string("tokenizer.chat_template", chat_template);
  return {};
}

// What the new file says itself, or must not say.
bool is_replaced(std::string_view key, std::string_view architecture) {
  constexpr std::array<std::string_view, 4> kGeneral = {"general.architecture", "general.file_type",
                                                        "general.quantization_version", "general.alignment"};
  if (std::find(kGeneral.begin(), kGeneral.end(), key) != kGeneral.end()) return true;
  if (key.starts_with("split.") || key.starts_with("quantize.")) return true;
  if (!key.starts_with(architecture)) return false;
  const std::string_view own = key.substr(architecture.size());
  return own == ".block_count" || own == ".nextn_predict_layers" || own == ".attention.recurrent_layers" ||
         own == ".full_attention_interval";
}

void add_keys_of_gguf(const ModelFiles& files, const ModelPlan& plan, const Mix& mix, GgufHeader& header) {
  const std::string_view architecture = gguf_architecture(files.config());
  header.string("general.architecture", architecture);
  header.u32("general.file_type", mix.file_type);
  header.u32("general.quantization_version", kQuantisationVersion);
  const std::string prefix = std::string(architecture) + ".";
  header.u32(prefix + "block_count", plan.blocks);
  if (plan.has_mtp) header.u32(prefix + "nextn_predict_layers", 1);
  add_layer_kinds(files.config(), plan.blocks, header);
  // In the order of the file: the values' places tell it.
  std::vector<std::pair<std::string_view, GgufValue>> keys;
  for (const auto& [key, value] : files.gguf()->metadata().values()) {
    if (!is_replaced(key, architecture)) keys.emplace_back(key, value);
  }
  std::sort(keys.begin(), keys.end(), [](const auto& a, const auto& b) { return a.first.data() < b.first.data(); });
  for (const auto& [key, value] : keys) header.copy(key, value);
}

}  // namespace

Result<void> add_keys(const fs::path& source, const ModelFiles& files, const ModelPlan& plan, const Mix& mix,
                      GgufHeader& header) {
  if (files.gguf() == nullptr) return add_keys_of_directory(source, files, plan, mix, header);
  add_keys_of_gguf(files, plan, mix, header);
  return {};
}

}  // namespace lectern::engine
