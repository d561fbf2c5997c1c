// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ops/backend.h"
#include "runtime/sampler.h"

namespace lectern::engine {

// The choice of a sequence's next tokens on the device that computes their logits: keeps there which tokens occurred,
// in step with a sampler on the host.
class RowChoices {
 public:
  explicit RowChoices(Sampler& sampler) : sampler_(&sampler) {}

  // Whether upload_seen() must be called before prepare() for so many guesses.
  bool wants_upload(std::size_t guesses) const;
  // Errors: kOutOfMemory, kDevice.
  Result<void> upload_seen(Backend& backend);

  // For a pass over a token and guesses at what follows: the choice of row i holds if the tokens chosen before are the
  // first i guesses.
  std::span<const TokenChoice> prepare(std::span<const TokenId> guesses);
  // Where the pass puts the tokens.
  std::span<TokenId> chosen() { return chosen_; }
  // The pass has run.
  void ran() { unsettled_.clear(); }

  // The token chosen behind row `row` of the pass counts as generated. Errors: as Sampler::sample().
  Result<TokenId> take(std::int64_t row);

 private:
  Sampler* sampler_;
  std::unique_ptr<Buffer> seen_;    // one byte per token; only where penalties ask for it
  std::vector<TokenId> unsettled_;  // generated, and not yet in seen_
  std::vector<TokenChoice> choices_;
  std::vector<TokenId> chosen_;
};

}  // namespace lectern::engine
