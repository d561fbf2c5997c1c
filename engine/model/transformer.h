// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "model/config.h"
#include "model/state.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "ops/placement.h"

namespace lectern::engine {

class Pass;

// What is to come back for the last `rows` tokens of a sequence, in host memory. A span of fewer rows takes the last of
// them; an empty one is not wanted.
struct Outputs {
  std::int64_t rows = 0;
  std::span<float> logits;  // [up to rows, vocabulary]
  std::span<float> hidden;  // [up to rows, d], after the final norm: what the MTP module reads
  // [up to rows], of a backend that chooses tokens: those that follow the last rows, and by which rules.
  std::span<const TokenChoice> choices = {};
  std::span<TokenId> chosen = {};
};

// Tokens that one sequence reads in a pass shared with others.
struct Reading {
  SequenceState* state = nullptr;
  std::span<const TokenId> tokens;
  Outputs outputs;
  bool tentative = false;  // at most kSmallBatchRows tokens; they count once SequenceState::accept() says so
  // The hidden rows of the outputs are also kept on the device, as rows of SequenceState::kept() from this one on.
  std::int64_t keep_from = -1;  // -1: not kept
};

// Qwen3-Next: pre-norm decoder of gated DeltaNet and gated attention layers, each followed by a sparse mixture of
// experts; its relatives by configuration. This is the only place that knows the order of operations. One call at a
// time.
class Transformer {
 public:
  // `chunk_tokens`: most tokens one pass computes together; longer input is cut. Errors as load_weights().
  static Result<std::unique_ptr<Transformer>> load(ModelFiles files, const Placement& placement,
                                                   std::int64_t chunk_tokens, const LoadObserver& observer = {});
  // Of weights that the devices have already, in the shapes of `config`. Errors: kOutOfMemory, kDevice.
  static Result<std::unique_ptr<Transformer>> assemble(ModelWeights weights, const ModelConfig& config,
                                                       const Placement& placement, std::int64_t chunk_tokens);

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  bool has_mtp() const { return weights_.mtp.has_value(); }
  // Whether outputs may ask for tokens, and guess() works.
  bool chooses_tokens() const { return backend_.chooses_tokens(config_.vocabulary); }
  // Where the layers of sequences live.
  const Placement& placement() const { return placement_; }
  // Where tokens are chosen and hidden rows kept.
  Backend& last_device() { return backend_; }
  // Most tokens that advance() takes.
  std::int64_t pass_rows() const { return std::max(chunk_tokens_, kSmallBatchRows); }
  // Copies the weights from the mapped files into memory; they can be used meanwhile, from another thread.
  // Errors as MappedFile::move_to_memory().
  Result<void> move_weights_to_memory(int threads, const std::stop_token& stop) {
    return weights_.files.move_to_memory(threads, stop);
  }
  // Memory of activations, taken at load.
  std::int64_t scratch_bytes() const;
  // Tokens that a sequence can hold: with its own rope scaling, if that reaches further than the model's.
  std::int64_t context_of(const SequenceState& state) const;

  // The configuration's own rope scaling applies unless `options` asks for some; a model without an MTP module gets no
  // cache for it.
  Result<SequenceState> new_sequence(SequenceOptions options) const;
  // The options that such a sequence has in the end.
  SequenceOptions options_of_sequence(SequenceOptions wanted) const;
  Result<SequenceState> fork(const SequenceState& state) const { return state.fork(placement_); }

  // Appends tokens to the sequence. How they are divided over calls changes rounding only. `stop` is looked at between
  // layers. Errors: kInvalidArgument (no token, an id outside the vocabulary, more tokens than the context holds,
  // outputs of a wrong size), kOutOfMemory, kDevice, kCancelled. After the last two, or an exception, the sequence is
  // of no more use and says so.
  Result<void> forward(SequenceState& state, std::span<const TokenId> tokens, const Outputs& outputs,
                       const std::stop_token& stop = {});

  // One pass of several sequences, no sequence twice, together at most pass_rows(). Errors as forward().
  Result<void> advance(std::span<const Reading> readings, const std::stop_token& stop = {});

  // Decides on the tokens of a tentative reading. Errors: kDevice.
  Result<void> accept(SequenceState& state, std::int64_t tokens);

  // One MTP pass over pairs (hidden y_i of position i, token x_{i+1}), appended to the MTP cache, which must stand at
  // position i of the first pair; to replace pairs, truncate it first. outputs.logits predict x_{i+2}; outputs.hidden
  // feed the next draft step. hidden: [tokens, d], host memory.
  // Errors: kInvalidArgument, kUnsupported (no MTP module), kOutOfMemory.
  Result<void> draft(SequenceState& state, std::span<const TokenId> tokens, std::span<const float> hidden,
                     const Outputs& outputs);

  // The same on kept rows, which never leave the device.
  //
  // Reads the first `tokens.size()` of them with their next tokens; the row behind those becomes the first.
  Result<void> pair_kept(SequenceState& state, std::span<const TokenId> tokens);
  // Reads `kept` rows, at most one, and those of the pass just ended, which was of this sequence alone and gave all
  // hidden rows of `tokens`; but for the last, which becomes the first row kept.
  Result<void> pair_pass(SequenceState& state, std::span<const TokenId> tokens, std::int64_t kept);
  // Reads the first `tokens.size()` kept rows, at most kSmallBatchRows, with their next tokens, then every guess with
  // the module's own hidden row. kNoToken where the module gave numbers that are none. Only where the backend chooses
  // tokens.
  Result<void> guess(SequenceState& state, std::span<const TokenId> tokens, std::span<TokenId> guesses);
  // Copies of the first kept rows, to and from host memory.
  Result<void> keep(SequenceState& state, std::span<const float> rows);
  Result<void> read_kept(SequenceState& state, std::span<float> rows);
  // The last `rows` of `kept` kept rows, at least twice as many, become the first; the others are forgotten.
  void keep_last(SequenceState& state, std::int64_t kept, std::int64_t rows);

 private:
  // Activations of one pass on one device, [chunk rows, width] each.
  struct Scratch {
    Backend* backend = nullptr;
    Tensor hidden, normed, mixed, qkv, qkv_conv, z, ba, query, gate, key, value, heads, pair, wide, wide_gate;
  };
  // The rows of one sequence, and where it stands.
  struct Segment {
    SequenceState* state = nullptr;
    std::int64_t first = 0;
    std::int64_t rows = 0;
    bool tentative = false;
    std::int64_t keep_from = -1;
  };
  // A row whose logits go to the host, or whose next token is chosen.
  struct WantedRow {
    std::int64_t at = 0;
    float* logits = nullptr;
    const TokenChoice* choice = nullptr;
    TokenId* chosen = nullptr;
  };
  enum class PassKind : std::uint8_t { kTrunk, kDraft, kAccept, kGuess };
  // Keys and values that a segment's rows attend to.
  using CacheOf = KvCache& (*)(SequenceState& state, std::size_t layer);

  Transformer(ModelWeights weights, const ModelConfig& config, const Placement& placement, std::int64_t chunk_tokens);
  Result<void> make_scratch();
  Result<Scratch> make_scratch_on(Backend& backend, std::int64_t pairs, std::int64_t logits);
  static Scratch rows_of_scratch(const Scratch& all, std::int64_t rows);
  Scratch rows_of_scratch(std::int64_t rows) const { return rows_of_scratch(scratch_, rows); }
  Scratch first_scratch(std::int64_t rows) const;
  void move_to(std::size_t device, Pass& pass, Scratch& s) const;
  Result<void> check_call(std::span<const TokenId> tokens, std::int64_t before, std::int64_t context,
                          const Outputs& outputs) const;
  Result<void> check_reading(const Reading& reading) const;
  Outputs outputs_of_chunk(const Outputs& outputs, std::int64_t count, std::int64_t first, std::int64_t rows) const;

  void layer(const LayerWeights& w, std::size_t index, std::span<const Segment> segments, CacheOf cache_of,
             const Scratch& s);
  Norm norm_of(const Buffer& gain) const { return {gain.data(), config_.norm_epsilon}; }
  void delta_net(const DeltaNetWeights& w, const Norm& input, std::size_t index, std::span<const Segment> segments,
                 const Scratch& s);
  void delta_segment(const DeltaNetWeights& w, std::size_t index, const Segment& segment, const Scratch& s);
  void attention(const AttentionWeights& w, const Norm& input, std::size_t index, std::span<const Segment> segments,
                 CacheOf cache_of, const Scratch& s);
  void feed_forward(const LayerWeights& w, const Scratch& s);
  Result<void> draft_chunk(SequenceState& state, std::span<const TokenId> tokens, std::span<const float> hidden,
                           const Outputs& outputs);
  std::vector<std::uint64_t> key_of(PassKind kind, std::span<const Segment> segments,
                                    std::span<const Outputs> outputs) const;
  void emit(std::span<const Segment> segments, std::span<const Outputs> outputs, const Buffer& norm, const Scratch& s);
  std::vector<WantedRow> wanted_rows(const Outputs& wanted) const;
  void choose(std::span<const WantedRow> rows, const Tensor& logits);
  TokenChoice best_token() const;
  void mtp_rows(SequenceState& state, std::span<const Tensor> hidden, const Scratch& s);

  ModelWeights weights_;
  ModelConfig config_;
  Placement placement_;
  Backend& backend_;  // the last, which has the head and the MTP module
  std::int64_t chunk_tokens_;
  std::vector<std::unique_ptr<Buffer>> scratch_memory_;
  std::vector<Scratch> earlier_scratch_;  // of the devices before the last
  Scratch scratch_;                       // of the last
  Tensor logits_;
  TokenId* chosen_ = nullptr;  // [rows of logits_], on the device
};

}  // namespace lectern::engine
