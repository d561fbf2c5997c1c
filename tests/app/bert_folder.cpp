// SPDX-License-Identifier: GPL-3.0-or-later
#include "bert_folder.h"

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

namespace lectern::app {
namespace {

constexpr int kWidth = 8;
constexpr int kPositions = 16;
constexpr int kTokens = 16;

// A safetensors file in the making, all of one value.
class Weights {
 public:
  explicit Weights(float value) : m_value(value) {}

  void add(const std::string& name, std::vector<int> shape) {
    std::size_t count = 1;
    for (const int size : shape) count *= static_cast<std::size_t>(size);
    const std::size_t begin = m_data.size() * sizeof(float);
    m_data.insert(m_data.end(), count, m_value);
    m_header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, m_data.size() * sizeof(float)}}};
  }

  void addWithBias(const std::string& name, std::vector<int> shape) {
    add(name + ".bias", {shape.front()});
    add(name + ".weight", std::move(shape));
  }

  void write(const std::filesystem::path& path) const {
    const std::string header = m_header.dump();
    const std::uint64_t length = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof length);
    file << header;
    file.write(reinterpret_cast<const char*>(m_data.data()),
               static_cast<std::streamsize>(m_data.size() * sizeof(float)));
  }

 private:
  float m_value;
  nlohmann::json m_header;
  std::vector<float> m_data;
};

}  // namespace

void writeBert(const std::filesystem::path& folder, float weight, const std::string& vocabulary) {
  std::filesystem::create_directories(folder);
  const nlohmann::json config = {{"hidden_size", kWidth},
                                 {"num_attention_heads", 1},
                                 {"num_hidden_layers", 1},
                                 {"intermediate_size", kWidth},
                                 {"max_position_embeddings", kPositions},
                                 {"type_vocab_size", 2},
                                 {"vocab_size", kTokens},
                                 {"layer_norm_eps", 1e-12},
                                 {"hidden_act", "gelu"},
                                 {"model_type", "bert"}};
  std::ofstream(folder / "config.json") << config;
  std::ofstream(folder / "vocab.txt") << vocabulary;
  Weights weights(weight);
  weights.add("embeddings.word_embeddings.weight", {kTokens, kWidth});
  weights.add("embeddings.position_embeddings.weight", {kPositions, kWidth});
  weights.add("embeddings.token_type_embeddings.weight", {2, kWidth});
  weights.addWithBias("embeddings.LayerNorm", {kWidth});
  const std::string layer = "encoder.layer.0.";
  for (const char* part : {"attention.self.query", "attention.self.key", "attention.self.value",
                           "attention.output.dense", "intermediate.dense", "output.dense"}) {
    weights.addWithBias(layer + part, {kWidth, kWidth});
  }
  weights.addWithBias(layer + "attention.output.LayerNorm", {kWidth});
  weights.addWithBias(layer + "output.LayerNorm", {kWidth});
  weights.write(folder / "model.safetensors");
}

}  // namespace lectern::app
