// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "ops/token_choice.h"

namespace lectern::engine {

// Random numbers that are a pure function of (seed, counter): the same on every platform, restartable anywhere.
class CounterRandom {
 public:
  explicit CounterRandom(std::uint64_t seed);
  double next();                              // uniform in [0, 1), 53 bits
  double after(std::uint64_t numbers) const;  // what next() gives after so many others

 private:
  std::uint64_t key_;
  std::uint64_t counter_ = 0;
};

// Turns logits into tokens. Order: repetition penalty (prompt and generated tokens), presence penalty (generated
// tokens), temperature, top_k, top_p of what is left, min_p. Equal logits rank by index, lowest first.
class Sampler {
 public:
  // Tokens at or above `vocabulary` are never drawn (padding rows of the output matrix). Errors: kInvalidArgument
  // naming the option that is out of range.
  static Result<Sampler> create(const SamplingOptions& options, TokenId vocabulary);

  void add_prompt(std::span<const TokenId> tokens);

  // Draws from `logits` (at least one per token) and counts the token as generated. Errors: kDevice when a logit is NaN
  // or infinite, which no healthy model gives.
  Result<TokenId> sample(std::span<const float> logits);

  // For logits that are elsewhere: how sample() would choose from those that follow the `ahead` next tokens; what
  // counts as seen is left to the caller.
  TokenChoice choice(std::uint64_t ahead) const;
  // Counts a token so chosen as sample() does. Errors: as there, for kNoToken.
  Result<TokenId> take(TokenId chosen);
  bool penalises() const { return options_.repetition_penalty != 1 || options_.presence_penalty != 0; }
  std::span<const std::uint8_t> seen() const { return seen_; }

 private:
  struct Candidate {
    float logit;
    TokenId token;
  };

  Sampler(const SamplingOptions& options, TokenId vocabulary);

  void mark(TokenId token, std::uint8_t where);
  float penalised(std::size_t token, float logit) const;
  TokenId best(std::span<const float> logits) const;
  TokenId draw(std::span<const float> logits);
  std::size_t keep_top_k();
  std::size_t keep_top_p(std::size_t count);
  void sort_first(std::size_t count);

  SamplingOptions options_;
  TokenId vocabulary_;
  CounterRandom random_;
  std::vector<std::uint8_t> seen_;  // by token: where it occurred
  std::vector<Candidate> candidates_;
  std::size_t sorted_ = 0;  // candidates_[0, sorted_) are the best in order
};

}  // namespace lectern::engine
