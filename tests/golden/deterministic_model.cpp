// SPDX-License-Identifier: GPL-3.0-or-later
#include "deterministic_model.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace lectern::engine::golden {
namespace {

using Shape = std::vector<std::int64_t>;

std::uint64_t fnv1a(std::string_view name) {
  std::uint64_t value = 0xCBF29CE484222325U;
  for (const char c : name) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return value;
}

// Number `index` (from 0) of the stream `seed`, in [-1, 1).
double uniform(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  z = z ^ (z >> 31);
  return std::ldexp(static_cast<double>(z >> 11), -52) - 1.0;
}

// How a tensor's values follow from u; the rules of deterministic_weights.py.
std::function<double(double)> value_rule(const TensorSpec& tensor) {
  const std::string_view name = tensor.name;
  const std::size_t last = name.rfind('.');
  const std::size_t before = name.rfind('.', last - 1);
  const std::string_view module = name.substr(before + 1, last - before - 1);
  if (name.ends_with(".A_log")) return [](double u) { return std::log(4.0 + 3.5 * u); };
  if (name.ends_with(".dt_bias")) return [](double u) { return u - 2.0; };
  if (name.ends_with("linear_attn.norm.weight") || name.ends_with("LayerNorm.weight")) {
    return [](double u) { return 1.0 + 0.2 * u; };
  }
  if (name.ends_with(".bias")) return [](double u) { return 0.2 * u; };
  if (module.find("norm") != std::string_view::npos) {
    return [centre = tensor.norm_centre](double u) { return centre + 0.2 * u; };
  }
  if (name.ends_with(".conv1d.weight")) return [](double u) { return 0.5 * u; };
  if (module.find("embed") != std::string_view::npos) return [](double u) { return u; };
  const double scale = std::sqrt(3.0 / static_cast<double>(tensor.shape.back()));
  return [scale](double u) { return u * scale; };
}

std::uint16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

std::int64_t need(JsonValue config, std::string_view key) {
  const auto value = config.need_integer(key);
  if (!value.ok()) throw std::runtime_error(value.error().message);
  return *value;
}

std::int64_t element_count(const TensorSpec& tensor) {
  return std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>());
}

bool is_qwen3_next(JsonValue config) { return config["model_type"].string() == "qwen3_next"; }

bool is_full_attention(JsonValue config, std::int64_t layer) {
  if (!is_qwen3_next(config)) return true;
  std::int64_t index = 0;
  for (const JsonValue kind : config["layer_types"].elements()) {
    if (index++ == layer) return kind.string() == "full_attention";
  }
  return (layer + 1) % config["full_attention_interval"].integer().value_or(4) == 0;
}

void add_attention(JsonValue config, const std::string& prefix, std::vector<TensorSpec>& out) {
  const std::int64_t hidden = need(config, "hidden_size");
  const std::int64_t head = need(config, "head_dim");
  const std::int64_t query = need(config, "num_attention_heads") * head;
  const std::int64_t key = need(config, "num_key_value_heads") * head;
  out.push_back({prefix + "q_proj.weight", {is_qwen3_next(config) ? 2 * query : query, hidden}});
  out.push_back({prefix + "k_proj.weight", {key, hidden}});
  out.push_back({prefix + "v_proj.weight", {key, hidden}});
  out.push_back({prefix + "o_proj.weight", {hidden, query}});
  out.push_back({prefix + "q_norm.weight", {head}});
  out.push_back({prefix + "k_norm.weight", {head}});
}

void add_linear_attention(JsonValue config, const std::string& prefix, std::vector<TensorSpec>& out) {
  const std::int64_t hidden = need(config, "hidden_size");
  const std::int64_t key = need(config, "linear_num_key_heads") * need(config, "linear_key_head_dim");
  const std::int64_t heads = need(config, "linear_num_value_heads");
  const std::int64_t head = need(config, "linear_value_head_dim");
  out.push_back({prefix + "in_proj_qkvz.weight", {2 * key + 2 * heads * head, hidden}});
  out.push_back({prefix + "in_proj_ba.weight", {2 * heads, hidden}});
  out.push_back({prefix + "conv1d.weight", {2 * key + heads * head, 1, need(config, "linear_conv_kernel_dim")}});
  out.push_back({prefix + "A_log", {heads}});
  out.push_back({prefix + "dt_bias", {heads}});
  out.push_back({prefix + "norm.weight", {head}});
  out.push_back({prefix + "out_proj.weight", {hidden, heads * head}});
}

void add_feed_forward(JsonValue config, const std::string& prefix, std::vector<TensorSpec>& out) {
  const std::int64_t hidden = need(config, "hidden_size");
  const auto add_mlp = [&](const std::string& name, std::int64_t width) {
    out.push_back({name + ".gate_proj.weight", {width, hidden}});
    out.push_back({name + ".up_proj.weight", {width, hidden}});
    out.push_back({name + ".down_proj.weight", {hidden, width}});
  };
  if (config["model_type"].string() == "qwen3") return add_mlp(prefix + "mlp", need(config, "intermediate_size"));
  out.push_back({prefix + "mlp.gate.weight", {need(config, "num_experts"), hidden}});
  for (std::int64_t e = 0; e < need(config, "num_experts"); ++e) {
    add_mlp(prefix + "mlp.experts." + std::to_string(e), need(config, "moe_intermediate_size"));
  }
  if (!is_qwen3_next(config)) return;
  out.push_back({prefix + "mlp.shared_expert_gate.weight", {1, hidden}});
  add_mlp(prefix + "mlp.shared_expert", need(config, "shared_expert_intermediate_size"));
}

void add_layer(JsonValue config, const std::string& prefix, bool full_attention, std::vector<TensorSpec>& out) {
  const Shape norm = {need(config, "hidden_size")};
  out.push_back({prefix + "input_layernorm.weight", norm});
  out.push_back({prefix + "post_attention_layernorm.weight", norm});
  if (full_attention) {
    add_attention(config, prefix + "self_attn.", out);
  } else {
    add_linear_attention(config, prefix + "linear_attn.", out);
  }
  add_feed_forward(config, prefix, out);
}

void write_file(const std::filesystem::path& file, const std::string& content) {
  std::ofstream out(file, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + file.string());
}

}  // namespace

std::vector<TensorSpec> decoder_tensors(JsonValue config, bool mtp) {
  const std::int64_t hidden = need(config, "hidden_size");
  const std::int64_t vocabulary = need(config, "vocab_size");
  std::vector<TensorSpec> out = {{"model.embed_tokens.weight", {vocabulary, hidden}}, {"model.norm.weight", {hidden}}};
  if (!config["tie_word_embeddings"].boolean().value_or(false)) {
    out.push_back({"lm_head.weight", {vocabulary, hidden}});
  }
  for (std::int64_t i = 0; i < need(config, "num_hidden_layers"); ++i) {
    add_layer(config, "model.layers." + std::to_string(i) + ".", is_full_attention(config, i), out);
  }
  if (mtp) {
    out.push_back({"mtp.fc.weight", {hidden, 2 * hidden}});
    out.push_back({"mtp.pre_fc_norm_embedding.weight", {hidden}});
    out.push_back({"mtp.pre_fc_norm_hidden.weight", {hidden}});
    out.push_back({"mtp.norm.weight", {hidden}});
    add_layer(config, "mtp.layers.0.", true, out);
  }
  for (TensorSpec& tensor : out) tensor.norm_centre = is_qwen3_next(config) ? 0 : 1;
  return out;
}

std::vector<TensorSpec> bert_tensors(JsonValue config) {
  const std::int64_t hidden = need(config, "hidden_size");
  const std::int64_t wide = need(config, "intermediate_size");
  std::vector<TensorSpec> out = {
      {"embeddings.word_embeddings.weight", {need(config, "vocab_size"), hidden}},
      {"embeddings.position_embeddings.weight", {need(config, "max_position_embeddings"), hidden}},
      {"embeddings.token_type_embeddings.weight", {need(config, "type_vocab_size"), hidden}}};
  const auto add_linear = [&out](const std::string& name, std::int64_t rows, std::int64_t columns) {
    out.push_back({name + ".weight", {rows, columns}});
    out.push_back({name + ".bias", {rows}});
  };
  const auto add_norm = [&out, hidden](const std::string& name) {
    out.push_back({name + ".weight", {hidden}});
    out.push_back({name + ".bias", {hidden}});
  };
  add_norm("embeddings.LayerNorm");
  for (std::int64_t i = 0; i < need(config, "num_hidden_layers"); ++i) {
    const std::string prefix = "encoder.layer." + std::to_string(i) + ".";
    for (const char* part : {"query", "key", "value"}) add_linear(prefix + "attention.self." + part, hidden, hidden);
    add_linear(prefix + "attention.output.dense", hidden, hidden);
    add_norm(prefix + "attention.output.LayerNorm");
    add_linear(prefix + "intermediate.dense", wide, hidden);
    add_linear(prefix + "output.dense", hidden, wide);
    add_norm(prefix + "output.LayerNorm");
  }
  return out;
}

std::vector<float> tensor_values(const TensorSpec& tensor) {
  std::vector<float> values(static_cast<std::size_t>(element_count(tensor)));
  const std::uint64_t seed = fnv1a(tensor.name);
  const auto rule = value_rule(tensor);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(rule(uniform(seed, i)));
  return values;
}

void write_safetensors(const std::filesystem::path& file, const std::vector<TensorSpec>& tensors, Storage storage) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::string data;
  for (const TensorSpec& tensor : tensors) {
    const std::size_t begin = data.size();
    for (const float value : tensor_values(tensor)) {
      const auto bits = std::bit_cast<std::uint32_t>(value);
      const std::uint16_t half = to_bfloat16(value);
      const bool narrow = storage == Storage::kBFloat16;
      data.append(narrow ? reinterpret_cast<const char*>(&half) : reinterpret_cast<const char*>(&bits), narrow ? 2 : 4);
    }
    std::string shape;
    for (const std::int64_t size : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(size);
    header += ",\"" + tensor.name + "\":{\"dtype\":\"" + (storage == Storage::kBFloat16 ? "BF16" : "F32") +
              "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(begin) + "," +
              std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  const std::uint64_t length = header.size();
  write_file(file, std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
}

void write_model(const std::filesystem::path& golden_model, const std::filesystem::path& directory, int shards) {
  const auto config = JsonDocument::read(golden_model / "config.json");
  if (!config.ok()) throw std::runtime_error(config.error().message);
  const bool mtp = std::filesystem::exists(golden_model / "mtp.f32");
  const Storage storage =
      (*config).root()["torch_dtype"].string() == "bfloat16" ? Storage::kBFloat16 : Storage::kFloat32;
  const std::vector<TensorSpec> tensors = decoder_tensors((*config).root(), mtp);
  std::filesystem::create_directories(directory);
  std::filesystem::copy_file(golden_model / "config.json", directory / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  if (shards == 1) return write_safetensors(directory / "model.safetensors", tensors, storage);

  std::vector<std::vector<TensorSpec>> parts(static_cast<std::size_t>(shards));
  std::string map;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::size_t part = i % parts.size();
    parts[part].push_back(tensors[i]);
    map += (map.empty() ? "\"" : ",\"") + tensors[i].name + "\":\"part-" + std::to_string(part) + ".safetensors\"";
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    write_safetensors(directory / ("part-" + std::to_string(i) + ".safetensors"), parts[i], storage);
  }
  write_file(directory / "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
}

}  // namespace lectern::engine::golden
