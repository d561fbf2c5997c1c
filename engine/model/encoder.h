// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "engine/result.h"
#include "engine/types.h"
#include "model/tensor_file.h"
#include "ops/backend.h"

namespace lectern::engine {

// config.json of a BertModel, every number checked.
struct EncoderConfig {
  std::int64_t hidden_size = 0;
  std::int64_t heads = 0;
  std::int64_t layers = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t positions = 0;  // longest sequence
  std::int64_t types = 0;
  std::int64_t vocabulary = 0;
  float norm_epsilon = 1e-12F;
};

// Errors: kNotFound, kCorrupt (missing or impossible values), kUnsupported (another architecture or a variant).
Result<EncoderConfig> read_encoder_config(const std::filesystem::path& directory);

// y = x W^T + b
struct BiasedLinear {
  WeightHandle weight;           // [out, in]
  std::unique_ptr<Buffer> bias;  // [out]
};

struct LayerNormWeights {
  std::unique_ptr<Buffer> gain;  // [d]
  std::unique_ptr<Buffer> bias;  // [d]
};

struct EncoderLayerWeights {
  BiasedLinear query, key, value;   // [d, d]
  BiasedLinear attention_out;       // [d, d]
  LayerNormWeights attention_norm;  // after the residual sum
  BiasedLinear up;                  // [intermediate, d]
  BiasedLinear down;                // [d, intermediate]
  LayerNormWeights output_norm;
};

struct EncoderWeights {
  TensorFiles files;                           // keeps mapped weights alive
  std::vector<std::vector<std::byte>> copies;  // of matrices the files hold unaligned

  HostMatrix words;               // [vocabulary, d]; looked up on the host
  HostMatrix positions;           // [positions, d]
  std::vector<float> first_type;  // [d], the row of segment 0, the only one used
  LayerNormWeights embedding_norm;
  std::vector<EncoderLayerWeights> layers;
};

// Binds every tensor by name, with or without "bert." before it; the pooler and position ids are not read. Any other
// tensor that no part of the encoder reads is an error. Errors: kNotFound, kCorrupt, kUnsupported, kOutOfMemory.
Result<EncoderWeights> load_encoder_weights(const std::filesystem::path& directory, const EncoderConfig& config,
                                            Backend& backend);

// BERT (Devlin et al. 2018): post-norm bidirectional encoder, mean-pooled into one unit vector per sequence.
// One call at a time.
class Encoder {
 public:
  static Result<std::unique_ptr<Encoder>> load(const std::filesystem::path& directory, Backend& backend);

  const EncoderConfig& config() const { return config_; }

  // A hash of the tensors' names, types, shapes and first bytes: differs between fine-tunings of one architecture.
  std::uint64_t fingerprint() const;

  // tokens: all sequences one after another; sequence s is [starts[s], starts[s + 1]), none empty or longer than
  // config().positions. out: [sequences, d]. A stop request ends it between two layers.
  // Errors: kInvalidArgument, kOutOfMemory, kCancelled.
  Result<void> encode(std::span<const TokenId> tokens, std::span<const std::int64_t> starts,
                      const std::stop_token& stop, std::span<float> out);

 private:
  // Activations of one batch, [tokens, width] each.
  struct Scratch {
    Tensor x, query, key, value, mixed, wide, pooled;
  };

  Encoder(const EncoderConfig& config, EncoderWeights weights, Backend& backend);
  Result<void> check(std::span<const TokenId> tokens, std::span<const std::int64_t> starts, std::size_t outputs) const;
  Result<Scratch> make_scratch(std::int64_t tokens, std::int64_t sequences);
  std::vector<float> embed(std::span<const TokenId> tokens, std::span<const std::int64_t> starts) const;
  void linear(const Tensor& x, const BiasedLinear& w, bool accumulate, const Tensor& y);
  void norm(const LayerNormWeights& w, const Tensor& x);
  void layer(const EncoderLayerWeights& w, std::span<const std::int64_t> starts, const Scratch& s);

  EncoderConfig config_;
  EncoderWeights weights_;
  Backend& backend_;
  std::unique_ptr<Buffer> memory_;  // grows to the largest batch
};

}  // namespace lectern::engine
