// SPDX-License-Identifier: Apache-2.0
#include "model/encoder.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

namespace lectern::engine {
namespace {

// row += the row `index` of `table`
void add_table_row(const HostMatrix& table, std::int64_t index, float* row) {
  if (table.dtype == DType::kF32) {
    const float* from = static_cast<const float*>(table.data) + index * table.cols;
    for (std::int64_t i = 0; i < table.cols; ++i) row[i] += from[i];
    return;
  }
  const std::uint16_t* from = static_cast<const std::uint16_t*>(table.data) + index * table.cols;
  for (std::int64_t i = 0; i < table.cols; ++i) {
    row[i] += std::bit_cast<float>(static_cast<std::uint32_t>(from[i]) << 16);
  }
}

class Fnv1a {
 public:
  void add(std::string_view bytes) {
    for (const char byte : bytes) value_ = (value_ ^ static_cast<unsigned char>(byte)) * 0x100000001B3U;
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xCBF29CE484222325U;
};

}  // namespace

Result<std::unique_ptr<Encoder>> Encoder::load(const std::filesystem::path& directory, Backend& backend) {
  ENGINE_TRY(const EncoderConfig config, read_encoder_config(directory));
  ENGINE_TRY(EncoderWeights weights, load_encoder_weights(directory, config, backend));
  return std::unique_ptr<Encoder>(new Encoder(config, std::move(weights), backend));
}

Encoder::Encoder(const EncoderConfig& config, EncoderWeights weights, Backend& backend)
    : config_(config), weights_(std::move(weights)), backend_(backend) {}

std::uint64_t Encoder::fingerprint() const {
  constexpr std::size_t kSampledBytes = 1024;
  Fnv1a hash;
  for (const auto& [name, tensor] : weights_.files.tensors()) {
    hash.add(name + ":" + tensor.dtype + shape_text(tensor.shape));
    const std::size_t sampled = std::min(tensor.bytes.size(), kSampledBytes);
    hash.add({reinterpret_cast<const char*>(tensor.bytes.data()), sampled});
  }
  return hash.value();
}

Result<void> Encoder::encode(std::span<const TokenId> tokens, std::span<const std::int64_t> starts,
                             const std::stop_token& stop, std::span<float> out) {
  ENGINE_CHECK(check(tokens, starts, out.size()));
  const auto sequences = static_cast<std::int64_t>(starts.size()) - 1;
  ENGINE_TRY(const Scratch s, make_scratch(static_cast<std::int64_t>(tokens.size()), sequences));
  backend_.upload(embed(tokens, starts), s.x.data);
  norm(weights_.embedding_norm, s.x);
  for (const EncoderLayerWeights& w : weights_.layers) {
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "Embedding was cancelled."};
    layer(w, starts, s);
  }
  backend_.mean_pool(s.x, starts, s.pooled);
  backend_.download(s.pooled.data, out);
  return {};
}

Result<void> Encoder::check(std::span<const TokenId> tokens, std::span<const std::int64_t> starts,
                            std::size_t outputs) const {
  const auto invalid = [](const char* what) { return Error{ErrorCode::kInvalidArgument, what}; };
  const auto total = static_cast<std::int64_t>(tokens.size());
  if (starts.size() < 2 || starts.front() != 0 || starts.back() != total) {
    return invalid("The sequences of a batch must cover its tokens; pass their starts and the number of tokens.");
  }
  for (std::size_t s = 0; s + 1 < starts.size(); ++s) {
    const std::int64_t length = starts[s + 1] - starts[s];
    if (length < 1 || length > config_.positions) {
      return invalid("A sequence is empty or longer than the encoder's positions; cut it first.");
    }
  }
  const bool known = std::all_of(tokens.begin(), tokens.end(),
                                 [this](TokenId token) { return token >= 0 && token < config_.vocabulary; });
  if (!known) return invalid("A token id lies outside the encoder's vocabulary; use the tokenizer of the same model.");
  if (outputs != (starts.size() - 1) * static_cast<std::size_t>(config_.hidden_size)) {
    return invalid("The output must hold one vector per sequence.");
  }
  return {};
}

Result<Encoder::Scratch> Encoder::make_scratch(std::int64_t tokens, std::int64_t sequences) {
  const std::int64_t d = config_.hidden_size;
  const std::int64_t floats = tokens * (5 * d + config_.intermediate_size) + sequences * d;
  if (!memory_ || memory_->size() < floats) {
    memory_.reset();
    ENGINE_TRY(memory_, backend_.make_buffer(floats, MemoryUse::kScratch));
  }
  float* next = memory_->data();
  const auto take = [&next](std::int64_t rows, std::int64_t cols) {
    return Tensor{std::exchange(next, next + rows * cols), rows, cols};
  };
  Scratch s;
  for (Tensor* tensor : {&s.x, &s.query, &s.key, &s.value, &s.mixed}) *tensor = take(tokens, d);
  s.wide = take(tokens, config_.intermediate_size);
  s.pooled = take(sequences, d);
  return s;
}

// Word, position and segment rows summed, [tokens, d].
std::vector<float> Encoder::embed(std::span<const TokenId> tokens, std::span<const std::int64_t> starts) const {
  const auto d = static_cast<std::size_t>(config_.hidden_size);
  std::vector<float> rows(tokens.size() * d);
  for (std::size_t s = 0; s + 1 < starts.size(); ++s) {
    for (std::int64_t t = starts[s]; t < starts[s + 1]; ++t) {
      const auto index = static_cast<std::size_t>(t);
      float* row = rows.data() + index * d;
      std::copy(weights_.first_type.begin(), weights_.first_type.end(), row);
      add_table_row(weights_.words, tokens[index], row);
      add_table_row(weights_.positions, t - starts[s], row);
    }
  }
  return rows;
}

void Encoder::linear(const Tensor& x, const BiasedLinear& w, bool accumulate, const Tensor& y) {
  backend_.linear(x, *w.weight, accumulate, y);
  backend_.add_bias(w.bias->data(), y);
}

void Encoder::norm(const LayerNormWeights& w, const Tensor& x) {
  backend_.layer_norm(x, w.gain->data(), w.bias->data(), config_.norm_epsilon, x);
}

void Encoder::layer(const EncoderLayerWeights& w, std::span<const std::int64_t> starts, const Scratch& s) {
  linear(s.x, w.query, false, s.query);
  linear(s.x, w.key, false, s.key);
  linear(s.x, w.value, false, s.value);
  backend_.attend_bidirectional(s.query, s.key, s.value, config_.heads, starts, s.mixed);
  linear(s.mixed, w.attention_out, true, s.x);
  norm(w.attention_norm, s.x);

  linear(s.x, w.up, false, s.wide);
  backend_.gelu(s.wide);
  linear(s.wide, w.down, true, s.x);
  norm(w.output_norm, s.x);
}

}  // namespace lectern::engine
