// SPDX-License-Identifier: GPL-3.0-or-later
#include "prefill.h"

#include <algorithm>

namespace lectern::engine::bench {

Result<Json> measure_prefill(Subject& subject, std::int64_t tokens, KvType kv) {
  const std::vector<TokenId> text = random_tokens(subject, tokens, 5);
  std::vector<float> logits(static_cast<std::size_t>(subject.model.config().vocabulary));
  ENGINE_TRY(SequenceState state, subject.model.new_sequence({.kv = kv}));
  ENGINE_CHECK(state.reserve(tokens, subject.backend));
  Json chunks = Json::list();
  const auto begin = Clock::now();
  double seconds = 0;
  while (state.length() < tokens && Clock::now() < subject.deadline) {
    const std::int64_t rows = std::min(subject.model.pass_rows(), tokens - state.length());
    const bool is_last = state.length() + rows == tokens;
    const Reading chunk = {
        &state, std::span(text).subspan(static_cast<std::size_t>(state.length()), static_cast<std::size_t>(rows)),
        is_last ? Outputs{1, logits, {}} : Outputs{}};
    ENGINE_CHECK(subject.model.advance({&chunk, 1}));
    seconds = seconds_since(begin);
    chunks.append(Json().add("tokens", state.length()).add("seconds", seconds));
  }
  const auto read = static_cast<double>(state.length());
  const double operations = subject.traffic.prefill_operations(read);
  Json json;
  json.add("tokens", tokens).add("read", state.length()).add("complete", state.length() == tokens);
  json.add("kv", name_of(kv)).add("chunk", subject.model.pass_rows());
  json.add("seconds", seconds).add("tokens_per_second", read / seconds);
  json.add("operations", operations).add("operations_per_second", operations / seconds);
  json.add("share_of_matrix_rate", operations / seconds / subject.rates.bf16_operations);
  json.add("after_chunks", chunks);
  return json;
}

}  // namespace lectern::engine::bench
