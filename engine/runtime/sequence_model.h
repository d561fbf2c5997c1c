// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <stop_token>

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine {

class Sampler;

// Tokens guessed ahead, and how many of them the sequence went on with.
struct DraftCounts {
  std::int64_t drafted = 0;
  std::int64_t accepted = 0;
};

// What generation needs of a model: one sequence that grows at its end.
class SequenceModel {
 public:
  virtual ~SequenceModel() = default;

  // Tokens of the sequence so far.
  virtual std::int64_t length() const = 0;

  // Appends at least one token, at most a prefill chunk. Gives the logits after the last one, valid until the next
  // call; without `want_logits` they may be empty. A stop request gives kCancelled and makes the sequence useless.
  virtual Result<std::span<const float>> append(std::span<const TokenId> tokens, bool want_logits,
                                                const std::stop_token& stop) = 0;

  // From now on the token after each append() that wants logits is chosen by the model, which may have them elsewhere,
  // as `sampler` would and with its numbers; append() then gives no logits, and only tokens so chosen may follow.
  // False, and nothing changed: the model cannot. `sampler` knows the prompt by then and lives as long as tokens are
  // appended.
  virtual bool choose_with(Sampler& /*sampler*/) { return false; }
  // The token after the last append(), once. Errors: as Sampler::sample().
  virtual Result<TokenId> chosen() { return Error{ErrorCode::kUnsupported, "This model leaves the choice of tokens."}; }

  virtual DraftCounts drafts() const { return {}; }

  // Another prompt may well begin like the sequence up to here.
  virtual void at_boundary() {}
};

}  // namespace lectern::engine
