// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>

#include "engine/result.h"
#include "engine/types.h"
#include "model/config.h"
#include "model/state.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace lectern::engine {

// Qwen3-Next: pre-norm decoder of gated DeltaNet and gated attention layers, each followed by a sparse mixture of
// experts. This is the only place that knows the order of operations. One call at a time.
class Transformer {
 public:
  // `chunk_tokens`: most tokens one pass computes together; longer input is cut. Errors as load_weights().
  static Result<std::unique_ptr<Transformer>> load(const std::filesystem::path& directory, Backend& backend,
                                                   std::int64_t chunk_tokens);

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  bool has_mtp() const { return weights_.mtp.has_value(); }

  Result<SequenceState> new_sequence() const;

  // What forward() gives back for the last `rows` tokens, in host memory; an empty span is not wanted.
  struct Outputs {
    std::int64_t rows = 0;
    std::span<float> logits;  // [rows, vocabulary]
    std::span<float> hidden;  // [rows, d], after the final norm: what the MTP module reads
  };

  // Appends tokens to the sequence. How they are divided over calls changes rounding only. `stop` is looked at between
  // layers. Errors: kInvalidArgument (no token, an id outside the vocabulary, more tokens than the context holds,
  // outputs of a wrong size), kOutOfMemory, kCancelled. After kCancelled, or an exception, the sequence is of no more
  // use and says so.
  Result<void> forward(SequenceState& state, std::span<const TokenId> tokens, const Outputs& outputs,
                       const std::stop_token& stop = {});

  // One MTP pass over pairs (hidden y_i of position i, token x_{i+1}), appended to the MTP cache, which must stand at
  // position i of the first pair; to replace pairs, set its length back first. outputs.logits predict x_{i+2};
  // outputs.hidden feed the next draft step. hidden: [tokens, d], host memory.
  // Errors: kInvalidArgument, kUnsupported (no MTP module), kOutOfMemory.
  Result<void> draft(SequenceState& state, std::span<const TokenId> tokens, std::span<const float> hidden,
                     const Outputs& outputs);

 private:
  // Activations of one pass, [chunk rows, width] each.
  struct Scratch {
    Tensor hidden, normed, mixed, qkv, qkv_conv, z, ba, query, gate, heads, pair;
  };

  Transformer(ModelConfig config, ModelWeights weights, Backend& backend, std::int64_t chunk_tokens);
  Result<void> make_scratch();
  Scratch rows_of_scratch(std::int64_t rows) const;
  Result<void> check_call(std::span<const TokenId> tokens, std::int64_t before, const Outputs& outputs) const;
  Outputs outputs_of_chunk(const Outputs& outputs, std::int64_t count, std::int64_t first, std::int64_t rows) const;

  Result<void> forward_chunk(SequenceState& state, std::span<const TokenId> tokens, const Outputs& outputs,
                             const std::stop_token& stop);
  void layer(const LayerWeights& w, DeltaNetState* delta, KvCache* cache, const Scratch& s);
  void delta_net(const DeltaNetWeights& w, DeltaNetState& state, const Scratch& s);
  void gated_attention(const AttentionWeights& w, KvCache& cache, const Scratch& s);
  void draft_chunk(SequenceState& state, std::span<const TokenId> tokens, std::span<const float> hidden,
                   const Outputs& outputs);
  void emit(const Tensor& x, const Buffer& norm, const Outputs& outputs, const Scratch& s);

  ModelConfig config_;
  ModelWeights weights_;
  Backend& backend_;
  RotaryTable rotary_;
  std::int64_t chunk_tokens_;
  std::unique_ptr<Buffer> scratch_memory_;
  Scratch scratch_;
  Tensor logits_;
};

}  // namespace lectern::engine
