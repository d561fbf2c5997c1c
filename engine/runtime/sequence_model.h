// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <stop_token>

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine {

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

  virtual DraftCounts drafts() const { return {}; }

  // Another prompt may well begin like the sequence up to here.
  virtual void at_boundary() {}
};

}  // namespace lectern::engine
