// SPDX-License-Identifier: Apache-2.0
#include "runtime/scoring.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace lectern::engine {

namespace {

constexpr std::size_t kRows = 64;  // rows of logits in memory at a time; 39 MB at 151,936 columns

float log_probability(std::span<const float> logits, TokenId token) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(logit - top);
  return static_cast<float>(logits[static_cast<std::size_t>(token)] - top - std::log(total));
}

}  // namespace

Result<std::vector<float>> score_tokens(Transformer& model, std::span<const TokenId> tokens,
                                        std::int64_t context_tokens, std::stop_token stop) {
  if (tokens.size() < 2 || static_cast<std::int64_t>(tokens.size()) > context_tokens) {
    return Error{ErrorCode::kInvalidArgument, "The text has " + std::to_string(tokens.size()) +
                                                  " tokens; scoring takes 2 to " + std::to_string(context_tokens) +
                                                  "."};
  }
  const std::size_t columns = static_cast<std::size_t>(model.config().vocabulary);
  for (const TokenId token : tokens) {
    if (token >= 0 && static_cast<std::size_t>(token) < columns) continue;
    return Error{ErrorCode::kInvalidArgument, "Token " + std::to_string(token) + " is not in the vocabulary."};
  }
  ENGINE_TRY(SequenceState sequence, model.new_sequence({}));
  std::vector<float> logits(kRows * columns);
  std::vector<float> scores;
  for (std::size_t first = 0; first + 1 < tokens.size(); first += kRows) {
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "Scoring was stopped."};
    const std::size_t rows = std::min(kRows, tokens.size() - 1 - first);
    const std::span<float> block(logits.data(), rows * columns);
    ENGINE_CHECK(model.forward(sequence, tokens.subspan(first, rows),
                               {.rows = static_cast<std::int64_t>(rows), .logits = block, .hidden = {}}, stop));
    for (std::size_t row = 0; row < rows; ++row) {
      scores.push_back(log_probability(block.subspan(row * columns, columns), tokens[first + row + 1]));
    }
  }
  return scores;
}

}  // namespace lectern::engine
