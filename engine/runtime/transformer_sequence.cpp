// SPDX-License-Identifier: Apache-2.0
#include "runtime/transformer_sequence.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace lectern::engine {
namespace {

// Rows kept while nothing is guessed: so many and up to twice as many. A guess looks hardly further back than this into
// what the model itself has written, and feeding the MTP module all of it would take 5 % of the time of a small model.
constexpr std::int64_t kUnpairedRows = 8;
static_assert(2 * kUnpairedRows + kSmallBatchRows <= kKeptRows);

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

TokenId most_likely(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

TransformerSequence::TransformerSequence(PassScheduler& scheduler, SequenceState state, int drafts)
    : scheduler_(scheduler),
      state_(std::move(state)),
      most_drafts_(state_.has_mtp() ? std::clamp(drafts, 0, kMostDrafts) : 0),
      depth_(most_drafts_),
      logits_(static_cast<std::size_t>(scheduler.model().config().vocabulary)) {}

TransformerSequence::TransformerSequence(PassScheduler& scheduler, SequenceSnapshot snapshot, int drafts)
    : TransformerSequence(scheduler, std::move(snapshot.state), snapshot.hidden.empty() ? 0 : drafts) {
  tokens_ = std::move(snapshot.tokens);
  brought_ = std::move(snapshot.hidden);
}

std::span<const float> TransformerSequence::logits_of(std::int64_t row) const {
  if (logits_.empty()) return {};
  const auto width = static_cast<std::size_t>(scheduler_.model().config().vocabulary);
  return std::span(logits_).subspan(static_cast<std::size_t>(row) * width, width);
}

bool TransformerSequence::choose_with(Sampler& sampler) {
  if (!scheduler_.model().chooses_tokens()) return false;
  choices_.emplace(sampler);
  return true;
}

Result<TokenId> TransformerSequence::chosen() { return choices_->take(last_row_); }

Result<std::span<const float>> TransformerSequence::append(std::span<const TokenId> tokens, bool want_logits,
                                                           const std::stop_token& stop) {
  if (tokens.size() == 1 && consumed_ < rows() && pass_[static_cast<std::size_t>(consumed_)] == tokens.front()) {
    tokens_.push_back(tokens.front());
    ++counts_.accepted;
    last_row_ = consumed_++;
    return logits_of(last_row_);
  }
  ENGINE_CHECK(settle());
  last_row_ = 0;
  if (tokens.size() == 1 && want_logits) return read_one(tokens.front(), stop);
  ENGINE_CHECK(read_many(tokens, want_logits, stop));
  return want_logits ? logits_of(0) : std::span<const float>();
}

// Decides on the last pass: what was consumed stays, the rest goes.
Result<void> TransformerSequence::settle() {
  if (drafting() && !brought_.empty()) {
    ENGINE_CHECK(scheduler_.exclusively([&](Transformer& model) { return model.keep(state_, brought_); }));
    brought_.clear();
    unpaired_ = 1;
  }
  if (pass_.empty()) return {};
  const Stopwatch watch;
  if (state_.tentative() > 0) {
    ENGINE_CHECK(scheduler_.exclusively([&](Transformer& model) { return model.accept(state_, consumed_); }));
  }
  if (drafting()) unpaired_ += consumed_;
  const int guesses = static_cast<int>(rows()) - 1;
  const int accepted = static_cast<int>(consumed_) - 1;
  pass_.clear();
  consumed_ = 0;
  if (unpaired_ > 2 * kUnpairedRows) {
    scheduler_.exclusively([&](Transformer& model) { model.keep_last(state_, unpaired_, kUnpairedRows); });
    unpaired_ = kUnpairedRows;
  }
  if (drafting()) depth_.add_step(guesses, accepted, step_seconds_ + watch.seconds());
  return {};
}

Result<std::span<const float>> TransformerSequence::read_one(TokenId token, const std::stop_token& stop) {
  if (!member_) member_ = std::make_unique<PassScheduler::Member>(scheduler_);
  const Stopwatch watch;
  std::vector<TokenId> pass = {token};
  const std::int64_t room = scheduler_.model().context_of(state_) - state_.length() - 1;
  const int count = static_cast<int>(std::min<std::int64_t>(drafting() && unpaired_ > 0 ? depth_.next() : 0, room));
  if (count > 0) {
    ENGINE_TRY(const std::vector<TokenId> guesses, guess(token, count));
    pass.insert(pass.end(), guesses.begin(), guesses.end());
  }
  Outputs outputs;
  ENGINE_CHECK(want_rows(static_cast<std::int64_t>(pass.size()), std::span(pass).subspan(1), outputs));
  ENGINE_CHECK(scheduler_.advance({&state_, pass, outputs, pass.size() > 1, drafting() ? unpaired_ : -1}, stop));
  if (choices_) choices_->ran();
  step_seconds_ = watch.seconds();
  counts_.drafted += static_cast<std::int64_t>(pass.size()) - 1;
  pass_ = std::move(pass);
  consumed_ = 1;
  tokens_.push_back(token);
  return logits_of(0);
}

// Asks for the last `rows` rows of a pass, of which the first belongs to a real token and the others to guesses.
Result<void> TransformerSequence::want_rows(std::int64_t rows, std::span<const TokenId> guesses, Outputs& outputs) {
  outputs.rows = rows;
  if (!choices_) {
    logits_.resize(static_cast<std::size_t>(rows * scheduler_.model().config().vocabulary));
    outputs.logits = logits_;
    return {};
  }
  if (choices_->wants_upload(guesses.size())) {
    ENGINE_CHECK(
        scheduler_.exclusively([&](Transformer& model) { return choices_->upload_seen(model.last_device()); }));
  }
  outputs.choices = choices_->prepare(guesses);
  outputs.chosen = choices_->chosen();
  logits_.clear();
  return {};
}

Result<void> TransformerSequence::read_many(std::span<const TokenId> tokens, bool want_logits,
                                            const std::stop_token& stop) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  Outputs outputs;
  if (want_logits) ENGINE_CHECK(want_rows(1, {}, outputs));
  if (drafting()) {
    if (unpaired_ > 1) ENGINE_CHECK(pair_up());
    outputs.rows = count;
  }
  if (drafting() && count > kSmallBatchRows) {
    const Reading reading = {&state_, tokens, outputs};
    const Result<void> read = scheduler_.exclusively([&](Transformer& model) {
      const Result<void> advanced = model.advance({&reading, 1}, stop);
      return advanced.ok() ? model.pair_pass(state_, tokens, unpaired_) : advanced;
    });
    ENGINE_CHECK(read);
    unpaired_ = 1;
  } else {
    ENGINE_CHECK(scheduler_.advance({&state_, tokens, outputs, false, drafting() ? unpaired_ : -1}, stop));
    if (drafting()) unpaired_ += count;
  }
  if (want_logits && choices_) choices_->ran();
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  return drafting() ? pair_up() : Result<void>();
}

// Feeds the MTP module every hidden row whose next token is known: all but the last.
Result<void> TransformerSequence::pair_up() {
  if (unpaired_ <= 1) return {};
  const auto pairs = static_cast<std::size_t>(unpaired_ - 1);
  ENGINE_CHECK(scheduler_.exclusively(
      [&](Transformer& model) { return model.pair_kept(state_, std::span(tokens_).last(pairs)); }));
  unpaired_ = 1;
  return {};
}

// What probably follows `token`, which follows the sequence. The first guess rests on hidden rows of the trunk, the
// next on those of the module itself; its cache keeps the former only.
Result<std::vector<TokenId>> TransformerSequence::guess(TokenId token, int count) {
  if (unpaired_ > kSmallBatchRows) ENGINE_CHECK(pair_up());
  std::vector<TokenId> known(tokens_.end() - (unpaired_ - 1), tokens_.end());
  known.push_back(token);
  const std::int64_t paired = state_.mtp_cache().length() + unpaired_;
  std::vector<TokenId> guesses(static_cast<std::size_t>(count));
  if (scheduler_.model().chooses_tokens()) {
    ENGINE_CHECK(scheduler_.exclusively([&](Transformer& model) { return model.guess(state_, known, guesses); }));
    guesses.erase(std::find(guesses.begin(), guesses.end(), kNoToken), guesses.end());
  } else {
    ENGINE_TRY(guesses, guess_on_host(std::move(known), count));
  }
  unpaired_ = 0;
  state_.mtp_cache().truncate(paired);
  return guesses;
}

Result<std::vector<TokenId>> TransformerSequence::guess_on_host(std::vector<TokenId> known, int count) {
  const ModelConfig& config = scheduler_.model().config();
  std::vector<float> hidden(known.size() * static_cast<std::size_t>(config.hidden_size));
  ENGINE_CHECK(scheduler_.exclusively([&](Transformer& model) { return model.read_kept(state_, hidden); }));
  std::vector<float> next_hidden(static_cast<std::size_t>(config.hidden_size));
  logits_.resize(static_cast<std::size_t>(config.vocabulary));
  std::vector<TokenId> guesses;
  for (int i = 0; i < count; ++i) {
    ENGINE_CHECK(scheduler_.exclusively([&](Transformer& model) {
      return model.draft(state_, known, hidden, {.rows = 1, .logits = logits_, .hidden = next_hidden});
    }));
    guesses.push_back(most_likely(std::span(logits_).first(static_cast<std::size_t>(config.vocabulary))));
    known = {guesses.back()};
    hidden = next_hidden;
  }
  return guesses;
}

void TransformerSequence::at_boundary() {
  if (!keep_) return;
  Result<SequenceSnapshot> now = snapshot();
  if (now.ok()) keep_(std::move(now).value());  // without memory for it nothing is kept
}

Result<SequenceSnapshot> TransformerSequence::snapshot() {
  ENGINE_CHECK(settle());
  if (!state_.consistent()) {
    return Error{ErrorCode::kInvalidArgument, "The sequence was interrupted in the middle of a pass."};
  }
  if (drafting()) ENGINE_CHECK(pair_up());
  std::vector<float> hidden(static_cast<std::size_t>(unpaired_ * scheduler_.model().config().hidden_size));
  ENGINE_TRY(SequenceState copy, scheduler_.exclusively([&](Transformer& model) -> Result<SequenceState> {
    if (!hidden.empty()) ENGINE_CHECK(model.read_kept(state_, hidden));
    return model.fork(state_);
  }));
  return SequenceSnapshot{tokens_, std::move(copy), std::move(hidden)};
}

}  // namespace lectern::engine
