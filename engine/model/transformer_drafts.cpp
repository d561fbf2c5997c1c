// SPDX-License-Identifier: Apache-2.0
// The MTP module on hidden rows that stay on the device.
#include <algorithm>
#include <vector>

#include "model/pass.h"
#include "model/transformer.h"

namespace lectern::engine {

Result<void> Transformer::pair_kept(SequenceState& state, std::span<const TokenId> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  ENGINE_CHECK(backend_.reserve_kv(state.mtp_cache(), count));
  for (std::int64_t first = 0; first < count; first += chunk_tokens_) {
    const Tensor rows = rows_of(state.kept(), first, std::min(chunk_tokens_, count - first));
    const Scratch s = rows_of_scratch(rows.rows);
    Pass pass(backend_, {});
    backend_.embed(weights_.embedding_of_drafts(),
                   tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows.rows)), s.mixed);
    mtp_rows(state, {&rows, 1}, s);
    if (first + rows.rows == count) backend_.copy(state.kept().row(count), state.kept().data, config_.hidden_size);
    ENGINE_CHECK(pass.end());
  }
  return {};
}

Result<void> Transformer::pair_pass(SequenceState& state, std::span<const TokenId> tokens, std::int64_t kept) {
  ENGINE_CHECK(state.reserve_kept(config_, backend_));
  const std::int64_t read = static_cast<std::int64_t>(tokens.size()) - 1;
  backend_.copy(scratch_.hidden.row(read), state.kept().row(kept), config_.hidden_size);
  const std::int64_t pairs = kept + read;
  if (pairs == 0) return {};
  ENGINE_CHECK(backend_.reserve_kv(state.mtp_cache(), pairs));
  const Scratch s = rows_of_scratch(pairs);
  Pass pass(backend_, {});
  backend_.embed(weights_.embedding_of_drafts(), tokens.last(static_cast<std::size_t>(pairs)), s.mixed);
  std::vector<Tensor> hidden;
  if (kept > 0) hidden.push_back(rows_of(state.kept(), 0, kept));
  if (read > 0) hidden.push_back(rows_of(scratch_.hidden, 0, read));
  mtp_rows(state, hidden, s);
  if (kept > 0) backend_.copy(state.kept().row(kept), state.kept().data, config_.hidden_size);
  return pass.end();
}

Result<void> Transformer::guess(SequenceState& state, std::span<const TokenId> tokens, std::span<TokenId> guesses) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  const auto count = static_cast<std::int64_t>(guesses.size());
  const Tensor kept = rows_of(state.kept(), 0, rows);
  const std::uint64_t key[] = {static_cast<std::uint64_t>(PassKind::kGuess), address_bits(state.identity()),
                               static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(count)};
  ENGINE_CHECK(backend_.reserve_kv(state.mtp_cache(), rows + count - 1));
  Pass pass(backend_, key);
  Scratch s = rows_of_scratch(rows);
  backend_.embed(weights_.embedding_of_drafts(), tokens, s.mixed);
  mtp_rows(state, {&kept, 1}, s);
  const TokenChoice best = best_token();
  for (std::int64_t i = 0; i < count; ++i) {
    const Tensor last = s.hidden.last_rows(1);
    backend_.rms_norm(last, weights_.mtp->norm->data(), config_.hidden_size, config_.norm_epsilon, last);
    backend_.linear(last, weights_.head_matrix(), false, logits_.first_rows(1));
    backend_.choose_tokens(logits_.first_rows(1), {&best, 1}, chosen_ + i);
    if (i + 1 == count) break;
    s = rows_of_scratch(1);
    backend_.embed_chosen(weights_.embedding_of_drafts(), chosen_ + i, s.mixed);
    mtp_rows(state, {&last, 1}, s);
  }
  backend_.download_tokens(chosen_, guesses);
  return pass.end();
}

Result<void> Transformer::keep(SequenceState& state, std::span<const float> rows) {
  ENGINE_CHECK(state.reserve_kept(config_, backend_));
  backend_.upload(rows, state.kept().data);
  return backend_.status();
}

void Transformer::keep_last(SequenceState& state, std::int64_t kept, std::int64_t rows) {
  backend_.copy(state.kept().row(kept - rows), state.kept().data, rows * config_.hidden_size);
}

Result<void> Transformer::read_kept(SequenceState& state, std::span<float> rows) {
  backend_.download(state.kept().data, rows);
  return backend_.status();
}

}  // namespace lectern::engine
