// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "engine/types.h"

namespace lectern::engine {

inline constexpr std::uint8_t kInPrompt = 1;  // flags of TokenChoice::seen
inline constexpr std::uint8_t kGenerated = 2;
inline constexpr TokenId kNoToken = -1;

// How the token after one row of logits is chosen, by the rules of runtime/sampler.h; the fields mean what they mean in
// SamplingOptions. A row of temperature 0 takes the best token.
struct TokenChoice {
  static constexpr int kMostTokens = 12;

  double uniform = 0;            // the random number, in [0, 1)
  std::uint8_t* seen = nullptr;  // [vocabulary] on the device: where each token occurred; null: nowhere
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float presence_penalty = 0;
  float repetition_penalty = 1;
  std::int32_t top_k = 0;
  std::int32_t vocabulary = 0;  // columns from here on are padding
  std::int32_t generated = 0;   // of `tokens`: for this row they count as generated, whatever `seen` says
  std::int32_t settled = 0;     // of these, as many do so for good: `seen` says it afterwards
  TokenId tokens[kMostTokens] = {};
};

}  // namespace lectern::engine
