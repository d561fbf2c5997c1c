// SPDX-License-Identifier: Apache-2.0
#include "runtime/row_choices.h"

#include <algorithm>
#include <cstring>

namespace lectern::engine {

bool RowChoices::wants_upload(std::size_t guesses) const {
  return sampler_->penalises() && (seen_ == nullptr || unsettled_.size() + guesses > TokenChoice::kMostTokens);
}

std::span<const TokenChoice> RowChoices::prepare(std::span<const TokenId> guesses) {
  const std::size_t rows = guesses.size() + 1;
  choices_.clear();
  for (std::size_t row = 0; row < rows; ++row) choices_.push_back(sampler_->choice(row));
  chosen_.assign(rows, kNoToken);
  for (std::size_t row = 0; row < rows && seen_ != nullptr; ++row) {
    TokenChoice& choice = choices_[row];
    choice.seen = reinterpret_cast<std::uint8_t*>(seen_->data());
    choice.generated = static_cast<std::int32_t>(unsettled_.size() + row);
    if (row == 0) choice.settled = choice.generated;
    TokenId* const next = std::copy(unsettled_.begin(), unsettled_.end(), choice.tokens);
    std::copy_n(guesses.begin(), row, next);
  }
  return choices_;
}

// All that the sampler has seen.
Result<void> RowChoices::upload_seen(Backend& backend) {
  const std::span<const std::uint8_t> seen = sampler_->seen();
  std::vector<float> bytes((seen.size() + sizeof(float) - 1) / sizeof(float));
  std::memcpy(bytes.data(), seen.data(), seen.size());
  if (seen_ == nullptr) {
    ENGINE_TRY(seen_, backend.make_buffer(static_cast<std::int64_t>(bytes.size()), MemoryUse::kState));
  }
  backend.upload(bytes, seen_->data());
  unsettled_.clear();
  return backend.status();
}

Result<TokenId> RowChoices::take(std::int64_t row) {
  ENGINE_TRY(const TokenId token, sampler_->take(chosen_[static_cast<std::size_t>(row)]));
  if (seen_ != nullptr) unsettled_.push_back(token);
  return token;
}

}  // namespace lectern::engine
