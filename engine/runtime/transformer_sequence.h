// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <utility>
#include <vector>

#include "model/state.h"
#include "model/transformer.h"
#include "runtime/draft_depth.h"
#include "runtime/pass_scheduler.h"
#include "runtime/row_choices.h"
#include "runtime/sequence_model.h"

namespace lectern::engine {

// A sequence at rest, and what guessing ahead needs to go on from it.
struct SequenceSnapshot {
  std::vector<TokenId> tokens;  // all that were read
  SequenceState state;
  std::vector<float> hidden;  // [d], of the last token; empty when the sequence does not draft
};

// One sequence of a transformer. With an MTP module it guesses the next tokens, reads them tentatively in the same
// pass as the real one, and gives their logits out of that pass as long as the caller goes on with just those tokens.
// What append() gives is bit for bit what reading the tokens one by one gives; only its time differs.
class TransformerSequence final : public SequenceModel {
 public:
  // `drafts`: most tokens guessed ahead; 0, or a model or state without MTP: none.
  TransformerSequence(PassScheduler& scheduler, SequenceState state, int drafts);
  TransformerSequence(PassScheduler& scheduler, SequenceSnapshot snapshot, int drafts);

  std::int64_t length() const override { return static_cast<std::int64_t>(tokens_.size()); }
  const std::vector<TokenId>& tokens() const { return tokens_; }

  Result<std::span<const float>> append(std::span<const TokenId> tokens, bool want_logits,
                                        const std::stop_token& stop) override;
  bool choose_with(Sampler& sampler) override;
  Result<TokenId> chosen() override;
  DraftCounts drafts() const override { return counts_; }
  void at_boundary() override;

  // Called at boundaries with the sequence as it stands there.
  void on_boundary(std::function<void(SequenceSnapshot)> keep) { keep_ = std::move(keep); }

  // The sequence as it stands, guesses dropped. Errors: kOutOfMemory, kInvalidArgument after a failed append().
  Result<SequenceSnapshot> snapshot();

 private:
  bool drafting() const { return most_drafts_ > 0; }
  std::int64_t rows() const { return static_cast<std::int64_t>(pass_.size()); }
  std::span<const float> logits_of(std::int64_t row) const;

  Result<void> settle();
  Result<std::span<const float>> read_one(TokenId token, const std::stop_token& stop);
  Result<void> read_many(std::span<const TokenId> tokens, bool want_logits, const std::stop_token& stop);
  Result<std::vector<TokenId>> guess(TokenId token, int count);
  Result<std::vector<TokenId>> guess_on_host(std::vector<TokenId> known, int count);
  Result<void> pair_up();
  Result<void> want_rows(std::int64_t rows, std::span<const TokenId> guesses, Outputs& outputs);

  PassScheduler& scheduler_;
  SequenceState state_;
  std::function<void(SequenceSnapshot)> keep_;
  std::unique_ptr<PassScheduler::Member> member_;  // from the first token that is read alone
  int most_drafts_;
  DraftDepth depth_;
  DraftCounts counts_;
  std::vector<TokenId> tokens_;  // all that the caller has appended

  // The last pass over a real token and guesses: rows [0, consumed_) belong to the sequence, the others may come to.
  std::vector<TokenId> pass_;
  std::int64_t consumed_ = 0;
  double step_seconds_ = 0;    // of guessing and the pass
  std::vector<float> logits_;  // [rows, vocabulary]; none where tokens are chosen by choices_
  std::optional<RowChoices> choices_;
  std::int64_t last_row_ = 0;  // of the last pass that gave logits: that of the last token

  // Hidden rows of the last tokens, not yet fed to the MTP module with their successors: as many of state_.kept().
  // While nothing is guessed the oldest are left out: the module's guesses may suffer, the replies cannot.
  std::int64_t unpaired_ = 0;
  std::vector<float> brought_;  // such rows that are still on the host
};

}  // namespace lectern::engine
