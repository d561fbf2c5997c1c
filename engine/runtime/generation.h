// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <stop_token>
#include <vector>

#include "engine/result.h"
#include "engine/tokenizer.h"
#include "engine/types.h"
#include "runtime/sequence_model.h"

namespace lectern::engine {

struct GenerationLimits {
  std::int64_t context_tokens = 0;  // of one sequence, prompt and reply together
  std::int64_t prefill_chunk_tokens = 512;
  std::vector<std::int64_t> boundaries =
      {};                            // lengths at which the sequence is told that it may be worth keeping, rising
  std::vector<TokenId> stop_tokens;  // end the reply and are not part of it
};

// Runs one request on a model. The sequence may already hold a beginning of `prompt`, whose remaining tokens (at least
// one) are appended in chunks; then tokens are drawn and appended one by one until a stop token, a stop text, the
// requested length, the end of the context or a stop request.
// Errors: kInvalidArgument for options out of range and for a prompt that leaves no room in the context; whatever the
// model gives.
Result<GenerationResult> generate_reply(SequenceModel& model, const Tokenizer& tokenizer,
                                        const GenerationLimits& limits, std::span<const TokenId> prompt,
                                        const GenerationRequest& request, GenerationSink& sink, std::stop_token stop);

}  // namespace lectern::engine
