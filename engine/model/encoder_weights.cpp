// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "core/json.h"
#include "model/encoder.h"

namespace lectern::engine {
namespace {

Error unsupported(const std::string& what) {
  return {ErrorCode::kUnsupported, "config.json: " + what + " is not supported; use a BERT sentence encoder."};
}

Result<std::int64_t> ranged(const JsonValue& json, std::string_view key, std::int64_t low, std::int64_t high) {
  ENGINE_TRY(const std::int64_t value, json.need_integer(key));
  if (value < low || value > high) {
    return json.error(std::string(key) + " is " + std::to_string(value) + ", expected " + std::to_string(low) + " to " +
                      std::to_string(high));
  }
  return value;
}

class EncoderBinder {
 public:
  EncoderBinder(const EncoderConfig& config, Backend& backend, TensorFiles files) : config_(config), backend_(backend) {
    weights_.files = std::move(files);
    if (weights_.files.tensors().contains("bert.embeddings.word_embeddings.weight")) prefix_ = "bert.";
    for (const auto& [name, tensor] : weights_.files.tensors()) {
      const bool part_of_encoder = name.starts_with(prefix_ + "encoder.") || name.starts_with(prefix_ + "embeddings.");
      if (part_of_encoder && !name.ends_with("position_ids")) unread_.insert(name);
    }
  }

  Result<EncoderWeights> bind() {
    const std::int64_t d = config_.hidden_size;
    ENGINE_TRY(weights_.words, stored("embeddings.word_embeddings.weight", {config_.vocabulary, d}));
    ENGINE_TRY(weights_.positions, stored("embeddings.position_embeddings.weight", {config_.positions, d}));
    ENGINE_TRY(const HostMatrix types, stored("embeddings.token_type_embeddings.weight", {config_.types, d}));
    weights_.first_type = widen(types, d);
    ENGINE_TRY(weights_.embedding_norm, norm("embeddings.LayerNorm"));
    for (std::int64_t i = 0; i < config_.layers; ++i) {
      ENGINE_TRY(EncoderLayerWeights layer, bind_layer("encoder.layer." + std::to_string(i) + "."));
      weights_.layers.push_back(std::move(layer));
    }
    if (!unread_.empty()) {
      return Error{ErrorCode::kUnsupported, "Tensor " + *unread_.begin() + " (and " +
                                                std::to_string(unread_.size() - 1) +
                                                " more) has no place in the encoder that config.json describes; the "
                                                "files hold another model."};
    }
    return std::move(weights_);
  }

 private:
  Result<HostMatrix> stored(const std::string& name, const std::vector<std::int64_t>& shape) {
    const auto found = weights_.files.tensors().find(prefix_ + name);
    if (found == weights_.files.tensors().end()) {
      return Error{ErrorCode::kCorrupt, "Tensor " + name + " is missing from the model files; fetch the model again."};
    }
    const StoredTensor& tensor = found->second;
    unread_.erase(found->first);
    if (tensor.shape != shape) {
      return Error{ErrorCode::kCorrupt, "Tensor " + name + " has the shape " + shape_text(tensor.shape) +
                                            ", but config.json asks for " + shape_text(shape) + "."};
    }
    if (tensor.dtype != "F32" && tensor.dtype != "BF16") {
      return Error{ErrorCode::kUnsupported,
                   "Tensor " + name + " has the type " + tensor.dtype + "; expected F32 or BF16."};
    }
    HostMatrix host;
    host.dtype = tensor.dtype == "F32" ? DType::kF32 : DType::kBF16;
    host.data = tensor.bytes.data();
    host.rows = shape[0];
    host.cols = shape.size() > 1 ? shape[1] : 1;
    if (std::bit_cast<std::uintptr_t>(host.data) % static_cast<std::size_t>(block_size(host.dtype).bytes) != 0) {
      host.data = weights_.copies.emplace_back(tensor.bytes.begin(), tensor.bytes.end()).data();
    }
    return host;
  }

  // The first `count` numbers of a matrix.
  static std::vector<float> widen(const HostMatrix& host, std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::uint32_t bits = 0;
      if (host.dtype == DType::kF32) {
        std::memcpy(&bits, static_cast<const std::byte*>(host.data) + i * 4, 4);
      } else {
        std::uint16_t upper = 0;
        std::memcpy(&upper, static_cast<const std::byte*>(host.data) + i * 2, 2);
        bits = static_cast<std::uint32_t>(upper) << 16;
      }
      values[i] = std::bit_cast<float>(bits);
    }
    return values;
  }

  Result<std::unique_ptr<Buffer>> vector(const std::string& name, std::int64_t length) {
    ENGINE_TRY(const HostMatrix host, stored(name, {length}));
    ENGINE_TRY(std::unique_ptr<Buffer> buffer, backend_.make_buffer(length, MemoryUse::kWeights));
    backend_.upload(widen(host, length), buffer->data());
    return buffer;
  }

  Result<BiasedLinear> linear(const std::string& name, std::int64_t rows, std::int64_t cols) {
    BiasedLinear result;
    ENGINE_TRY(const HostMatrix host, stored(name + ".weight", {rows, cols}));
    ENGINE_TRY(result.weight, backend_.take_weight(host));
    ENGINE_TRY(result.bias, vector(name + ".bias", rows));
    return result;
  }

  Result<LayerNormWeights> norm(const std::string& name) {
    LayerNormWeights result;
    ENGINE_TRY(result.gain, vector(name + ".weight", config_.hidden_size));
    ENGINE_TRY(result.bias, vector(name + ".bias", config_.hidden_size));
    return result;
  }

  Result<EncoderLayerWeights> bind_layer(const std::string& prefix) {
    const std::int64_t d = config_.hidden_size;
    EncoderLayerWeights layer;
    ENGINE_TRY(layer.query, linear(prefix + "attention.self.query", d, d));
    ENGINE_TRY(layer.key, linear(prefix + "attention.self.key", d, d));
    ENGINE_TRY(layer.value, linear(prefix + "attention.self.value", d, d));
    ENGINE_TRY(layer.attention_out, linear(prefix + "attention.output.dense", d, d));
    ENGINE_TRY(layer.attention_norm, norm(prefix + "attention.output.LayerNorm"));
    ENGINE_TRY(layer.up, linear(prefix + "intermediate.dense", config_.intermediate_size, d));
    ENGINE_TRY(layer.down, linear(prefix + "output.dense", d, config_.intermediate_size));
    ENGINE_TRY(layer.output_norm, norm(prefix + "output.LayerNorm"));
    return layer;
  }

  const EncoderConfig& config_;
  Backend& backend_;
  EncoderWeights weights_;
  std::string prefix_;
  std::set<std::string, std::less<>> unread_;
};

}  // namespace

Result<EncoderConfig> read_encoder_config(const std::filesystem::path& directory) {
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(directory / "config.json"));
  const JsonValue json = document.root();
  if (!json.is_object()) return json.error("expected an object");
  ENGINE_TRY(const std::string type, json.string_or("model_type", "bert"));
  ENGINE_TRY(const std::string activation, json.string_or("hidden_act", "gelu"));
  ENGINE_TRY(const std::string positions, json.string_or("position_embedding_type", "absolute"));
  if (type != "bert") return unsupported("model_type \"" + type + "\"");
  if (activation != "gelu") return unsupported("hidden_act \"" + activation + "\"");
  if (positions != "absolute") return unsupported("position_embedding_type \"" + positions + "\"");

  EncoderConfig config;
  ENGINE_TRY(config.hidden_size, ranged(json, "hidden_size", 1, 1 << 16));
  ENGINE_TRY(config.heads, ranged(json, "num_attention_heads", 1, config.hidden_size));
  ENGINE_TRY(config.layers, ranged(json, "num_hidden_layers", 1, 1024));
  ENGINE_TRY(config.intermediate_size, ranged(json, "intermediate_size", 1, 1 << 18));
  ENGINE_TRY(config.positions, ranged(json, "max_position_embeddings", 2, 1 << 20));
  ENGINE_TRY(config.types, ranged(json, "type_vocab_size", 1, 1 << 16));
  ENGINE_TRY(config.vocabulary, ranged(json, "vocab_size", 3, 1 << 24));
  ENGINE_TRY(const double epsilon, json.number_or("layer_norm_eps", 1e-12));
  if (!(epsilon > 0) || epsilon > 1) return json.error("layer_norm_eps is out of range");
  config.norm_epsilon = static_cast<float>(epsilon);
  if (config.hidden_size % config.heads != 0) {
    return json.error("hidden_size is not a multiple of num_attention_heads");
  }
  return config;
}

Result<EncoderWeights> load_encoder_weights(const std::filesystem::path& directory, const EncoderConfig& config,
                                            Backend& backend) {
  ENGINE_TRY(TensorFiles files, TensorFiles::open(directory));
  return EncoderBinder(config, backend, std::move(files)).bind();
}

}  // namespace lectern::engine
