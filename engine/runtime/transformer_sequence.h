// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <stop_token>
#include <utility>
#include <vector>

#include "model/state.h"
#include "model/transformer.h"
#include "runtime/sequence_model.h"

namespace lectern::engine {

// One sequence of a transformer.
class TransformerSequence final : public SequenceModel {
 public:
  TransformerSequence(Transformer& model, SequenceState state)
      : model_(model), state_(std::move(state)), logits_(static_cast<std::size_t>(model.config().vocabulary)) {}

  std::int64_t length() const override { return state_.length(); }

  Result<std::span<const float>> append(std::span<const TokenId> tokens, bool want_logits,
                                        const std::stop_token& stop) override {
    Transformer::Outputs outputs;
    if (want_logits) outputs = {.rows = 1, .logits = logits_, .hidden = {}};
    ENGINE_CHECK(model_.forward(state_, tokens, outputs, stop));
    return want_logits ? std::span<const float>(logits_) : std::span<const float>();
  }

 private:
  Transformer& model_;
  SequenceState state_;
  std::vector<float> logits_;
};

}  // namespace lectern::engine
