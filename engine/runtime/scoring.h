// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <stop_token>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "model/transformer.h"

namespace lectern::engine {

// Natural log probability of tokens[i + 1] after tokens[0 .. i], over the whole vocabulary, for every i.
// Errors: kInvalidArgument (fewer than two tokens, more than `context_tokens`), kCancelled, those of forward().
Result<std::vector<float>> score_tokens(Transformer& model, std::span<const TokenId> tokens,
                                        std::int64_t context_tokens, std::stop_token stop);

}  // namespace lectern::engine
