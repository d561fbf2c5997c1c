// SPDX-License-Identifier: Apache-2.0
#include "runtime/transformer_sequence.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace lectern::engine {
namespace {

constexpr std::int64_t kMostUnpaired = 256;  // rows kept back while nothing is guessed, to be paired together

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
  unpaired_ = std::move(snapshot.hidden);
}

std::span<float> TransformerSequence::logits_of(std::int64_t row) {
  const auto width = static_cast<std::size_t>(scheduler_.model().config().vocabulary);
  return std::span(logits_).subspan(static_cast<std::size_t>(row) * width, width);
}

Result<std::span<const float>> TransformerSequence::append(std::span<const TokenId> tokens, bool want_logits,
                                                           const std::stop_token& stop) {
  if (tokens.size() == 1 && consumed_ < rows() && pass_[static_cast<std::size_t>(consumed_)] == tokens.front()) {
    tokens_.push_back(tokens.front());
    ++counts_.accepted;
    return std::span<const float>(logits_of(consumed_++));
  }
  ENGINE_CHECK(settle());
  if (tokens.size() == 1 && want_logits) return read_one(tokens.front(), stop);
  ENGINE_CHECK(read_many(tokens, want_logits, stop));
  return want_logits ? std::span<const float>(logits_of(0)) : std::span<const float>();
}

// Decides on the last pass: what was consumed stays, the rest goes.
Result<void> TransformerSequence::settle() {
  if (pass_.empty()) return {};
  const Stopwatch watch;
  if (state_.tentative() > 0) {
    ENGINE_CHECK(scheduler_.exclusively([&](Transformer& model) { return model.accept(state_, consumed_); }));
  }
  const std::int64_t width = scheduler_.model().config().hidden_size;
  const auto used = static_cast<std::ptrdiff_t>(consumed_ * width);
  if (drafting()) unpaired_.insert(unpaired_.end(), hidden_.begin(), hidden_.begin() + used);
  const int guesses = static_cast<int>(rows()) - 1;
  const int accepted = static_cast<int>(consumed_) - 1;
  pass_.clear();
  consumed_ = 0;
  if (static_cast<std::int64_t>(unpaired_.size()) > kMostUnpaired * width) ENGINE_CHECK(pair_up());
  if (drafting()) depth_.add_step(guesses, accepted, step_seconds_ + watch.seconds());
  return {};
}

Result<std::span<const float>> TransformerSequence::read_one(TokenId token, const std::stop_token& stop) {
  if (!member_) member_ = std::make_unique<PassScheduler::Member>(scheduler_);
  const Stopwatch watch;
  std::vector<TokenId> pass = {token};
  const std::int64_t room = scheduler_.model().context_of(state_) - state_.length() - 1;
  const int count =
      static_cast<int>(std::min<std::int64_t>(drafting() && !unpaired_.empty() ? depth_.next() : 0, room));
  if (count > 0) {
    ENGINE_TRY(const std::vector<TokenId> guesses, guess(token, count));
    pass.insert(pass.end(), guesses.begin(), guesses.end());
  }
  const Transformer& model = scheduler_.model();
  const auto wanted = static_cast<std::int64_t>(pass.size());
  logits_.resize(static_cast<std::size_t>(wanted * model.config().vocabulary));
  if (drafting()) hidden_.resize(static_cast<std::size_t>(wanted * model.config().hidden_size));
  ENGINE_CHECK(scheduler_.advance({&state_, pass, {wanted, logits_, hidden_}, count > 0}, stop));
  step_seconds_ = watch.seconds();
  pass_ = std::move(pass);
  consumed_ = 1;
  counts_.drafted += count;
  tokens_.push_back(token);
  return std::span<const float>(logits_of(0));
}

Result<void> TransformerSequence::read_many(std::span<const TokenId> tokens, bool want_logits,
                                            const std::stop_token& stop) {
  const ModelConfig& config = scheduler_.model().config();
  const auto count = static_cast<std::int64_t>(tokens.size());
  logits_.resize(static_cast<std::size_t>(config.vocabulary));
  Outputs outputs = {.rows = want_logits ? 1 : 0, .logits = {}, .hidden = {}};
  if (want_logits) outputs.logits = logits_;
  const std::size_t before = unpaired_.size();
  if (drafting()) {
    unpaired_.resize(before + static_cast<std::size_t>(count * config.hidden_size));
    outputs.rows = count;
    outputs.hidden = std::span(unpaired_).subspan(before);
  }
  ENGINE_CHECK(scheduler_.advance({&state_, tokens, outputs}, stop));
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  return drafting() ? pair_up() : Result<void>();
}

// Feeds the MTP module every hidden row whose next token is known: all but the last.
Result<void> TransformerSequence::pair_up() {
  const auto width = static_cast<std::size_t>(scheduler_.model().config().hidden_size);
  const std::size_t pairs = unpaired_.size() / width - 1;
  if (pairs == 0) return {};
  const std::span<const float> rows = std::span(unpaired_).first(pairs * width);
  ENGINE_CHECK(scheduler_.exclusively(
      [&](Transformer& model) { return model.draft(state_, std::span(tokens_).last(pairs), rows, {}); }));
  unpaired_.erase(unpaired_.begin(), unpaired_.begin() + static_cast<std::ptrdiff_t>(pairs * width));
  return {};
}

// What probably follows `token`, which follows the sequence. The first guess rests on hidden rows of the trunk, the
// next on those of the module itself; its cache keeps the former only.
Result<std::vector<TokenId>> TransformerSequence::guess(TokenId token, int count) {
  const ModelConfig& config = scheduler_.model().config();
  const std::size_t rows = unpaired_.size() / static_cast<std::size_t>(config.hidden_size);
  std::vector<TokenId> known(tokens_.end() - static_cast<std::ptrdiff_t>(rows - 1), tokens_.end());
  known.push_back(token);
  std::vector<float> hidden = std::move(unpaired_);
  unpaired_.clear();
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
  state_.mtp_cache().truncate(length());
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
  if (drafting() && !unpaired_.empty()) ENGINE_CHECK(pair_up());
  ENGINE_TRY(SequenceState copy, scheduler_.exclusively([&](Transformer& model) { return model.fork(state_); }));
  return SequenceSnapshot{tokens_, std::move(copy), unpaired_};
}

}  // namespace lectern::engine
