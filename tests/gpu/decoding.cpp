// SPDX-License-Identifier: GPL-3.0-or-later
#include "decoding.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace lectern::engine::bench {
namespace {

using Mode = ObservedBackend::Mode;

constexpr std::int64_t kWarmUp = 8;
constexpr std::int64_t kRoutingPasses = 4;

// Experts that a layer touches in a pass, on average over the passes since the mode was set.
double experts_touched(const Subject& subject) {
  const RoutingCounts& counts = subject.backend.routing();
  return counts.blocks > 0 ? static_cast<double>(counts.distinct) / static_cast<double>(counts.blocks) : 0;
}

void add_traffic(const Subject& subject, double bytes, double seconds, Json& json) {
  json.add("bytes_per_pass", bytes);
  json.add("bytes_per_second", bytes / seconds);
  json.add("share_of_bandwidth", bytes / seconds / subject.best_bandwidth());
}

double median(std::vector<double> list) {
  if (list.empty()) return 0;
  std::nth_element(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(list.size() / 2), list.end());
  return list[list.size() / 2];
}

// Tokens of rows chosen as replies usually are.
class Choices {
 public:
  Choices(const Subject& subject, std::int64_t rows) : tokens_(static_cast<std::size_t>(rows)) {
    TokenChoice choice;
    choice.uniform = 0.5;
    choice.temperature = 0.7F;
    choice.top_k = 20;
    choice.top_p = 0.8F;
    choice.vocabulary = static_cast<std::int32_t>(subject.model.config().vocabulary);
    choices_.assign(tokens_.size(), choice);
  }

  Outputs outputs(std::size_t first, std::size_t rows) {
    Outputs outputs;
    outputs.rows = static_cast<std::int64_t>(rows);
    outputs.choices = std::span(choices_).subspan(first, rows);
    outputs.chosen = std::span(tokens_).subspan(first, rows);
    return outputs;
  }

 private:
  std::vector<TokenChoice> choices_;
  std::vector<TokenId> tokens_;
};

class Decoder {
 public:
  static Result<Decoder> make(Subject& subject, const DecodeCase& wanted) {
    Decoder decoder(subject, wanted);
    for (std::int64_t i = 0; i < wanted.sequences; ++i) {
      ENGINE_TRY(SequenceState state, synthetic_sequence(subject, wanted.context, wanted.kv, false));
      decoder.states_.push_back(std::move(state));
    }
    return decoder;
  }

  // Seconds of one pass.
  Result<double> pass() {
    const std::vector<TokenId> tokens = random_tokens(subject_, wanted_.sequences, 100 + passes_++);
    std::vector<Reading> readings;
    for (std::size_t i = 0; i < states_.size(); ++i) {
      readings.push_back({&states_[i], std::span(tokens).subspan(i, 1), choices_.outputs(i, 1)});
    }
    const auto begin = Clock::now();
    ENGINE_CHECK(subject_.model.advance(readings));
    return seconds_since(begin);
  }

 private:
  Decoder(Subject& subject, const DecodeCase& wanted)
      : subject_(subject), wanted_(wanted), choices_(subject, wanted.sequences) {}

  Subject& subject_;
  DecodeCase wanted_;
  Choices choices_;
  std::vector<SequenceState> states_;
  std::uint64_t passes_ = 0;
};

// A sequence that guesses ahead: the MTP module reads what was accepted, guesses on, and all guesses are checked in one
// pass. Tokens are random ones; which of them count is scripted.
class Speculator {
 public:
  struct Round {
    double draft = 0;
    double verify = 0;
    double accept = 0;
    double sum() const { return draft + verify + accept; }
  };

  static Result<Speculator> make(Subject& subject, const DecodeCase& wanted, std::int64_t rows) {
    ENGINE_TRY(SequenceState state, synthetic_sequence(subject, wanted.context, wanted.kv, true));
    Speculator speculator(subject, std::move(state), rows);
    ENGINE_CHECK(speculator.read_first());
    return speculator;
  }

  std::int64_t length() const { return state_.length(); }

  // Of `rows` - 1 guesses the first `right` are.
  Result<Round> round(std::int64_t right) {
    const std::vector<TokenId> tokens = random_tokens(subject_, rows_, 500 + rounds_++);
    Round times;
    auto begin = Clock::now();
    ENGINE_CHECK(draft(tokens));
    times.draft = seconds_since(begin);
    begin = Clock::now();
    const Outputs outputs = choices_.outputs(0, static_cast<std::size_t>(rows_));
    const Reading reading = {&state_, tokens, outputs, true, 0};
    ENGINE_CHECK(subject_.model.advance({&reading, 1}));
    times.verify = seconds_since(begin);
    begin = Clock::now();
    ENGINE_CHECK(subject_.model.accept(state_, 1 + right));
    times.accept = seconds_since(begin);
    // The MTP module reads accepted tokens with their successors: the guesses, and the token chosen behind them.
    successors_.assign(tokens.begin() + 1, tokens.begin() + 1 + right);
    return times;
  }

 private:
  Speculator(Subject& subject, SequenceState state, std::int64_t rows)
      : subject_(subject),
        state_(std::move(state)),
        rows_(rows),
        choices_(subject, rows),
        guesses_(static_cast<std::size_t>(rows - 1)) {}

  Result<void> read_first() {
    const std::vector<TokenId> token = random_tokens(subject_, 1, 499);
    const Reading reading = {&state_, token, {1, {}, {}}, false, 0};
    return subject_.model.advance({&reading, 1});
  }

  // `tokens`: the one that is known, and those that count as guesses.
  Result<void> draft(std::span<const TokenId> tokens) {
    std::vector<TokenId> known = successors_;
    known.push_back(tokens[0]);
    KvCache& cache = state_.mtp_cache();
    const std::int64_t paired = cache.length() + static_cast<std::int64_t>(known.size());
    ENGINE_CHECK(subject_.model.guess(state_, known, guesses_));
    cache.truncate(paired);
    return {};
  }

  Subject& subject_;
  SequenceState state_;
  std::int64_t rows_;
  Choices choices_;
  std::vector<TokenId> guesses_;
  std::vector<TokenId> successors_;
  std::uint64_t rounds_ = 0;
};

// Evenly spread over the rounds.
std::int64_t right_guesses(std::int64_t round, std::int64_t rows) {
  constexpr std::array<double, 3> kTogether = {0.85, 0.67, 0.51};
  const double place = std::fmod(0.6180339887 * static_cast<double>(round), 1.0);
  return std::count_if(kTogether.begin(), kTogether.begin() + (rows - 1), [&](double share) { return place < share; });
}

}  // namespace

Result<Json> measure_decode(Subject& subject, const DecodeCase& wanted) {
  ENGINE_TRY(Decoder decoder, Decoder::make(subject, wanted));
  for (std::int64_t i = 0; i < kWarmUp; ++i) ENGINE_CHECK(decoder.pass());
  std::vector<double> times;
  for (std::int64_t i = 0; i < subject.passes && Clock::now() < subject.deadline; ++i) {
    ENGINE_TRY(const double seconds, decoder.pass());
    times.push_back(seconds);
  }
  subject.backend.set_mode(Mode::kRouting);
  for (std::int64_t i = 0; i < kRoutingPasses; ++i) ENGINE_CHECK(decoder.pass());
  const double experts = experts_touched(subject);
  subject.backend.set_mode(Mode::kOff);

  Json json;
  const double sum = std::reduce(times.begin(), times.end());
  const auto sequences = static_cast<double>(wanted.sequences);
  json.add("context", wanted.context).add("sequences", wanted.sequences).add("kv", name_of(wanted.kv));
  json.add("passes", times.size());
  json.add("tokens_per_second", sequences * static_cast<double>(times.size()) / sum);
  add_times(json, times);
  json.add("experts_of_a_layer", experts);
  const double bytes = subject.traffic.decode_bytes(static_cast<double>(wanted.context), wanted.kv, sequences, experts);
  add_traffic(subject, bytes, median(times), json);
  return json;
}

Result<Json> measure_scripted(Subject& subject, const DecodeCase& wanted, std::int64_t rows) {
  constexpr std::int64_t kScriptedWarmUp = 24;  // all numbers of accepted tokens have occurred
  ENGINE_TRY(Speculator speculator, Speculator::make(subject, wanted, rows));
  std::vector<double> all;
  std::vector<double> draft;
  std::vector<double> verify;
  std::vector<double> accept;
  std::int64_t begin = 0;
  for (std::int64_t i = 0; i < kScriptedWarmUp + subject.passes && Clock::now() < subject.deadline; ++i) {
    if (i == kScriptedWarmUp) begin = speculator.length();
    ENGINE_TRY(const Speculator::Round round, speculator.round(right_guesses(i, rows)));
    if (i < kScriptedWarmUp) continue;
    all.push_back(round.sum());
    draft.push_back(round.draft);
    verify.push_back(round.verify);
    accept.push_back(round.accept);
  }
  if (all.empty()) return Error{ErrorCode::kCancelled, "There was no time for one round."};
  Json json;
  const auto tokens = static_cast<double>(speculator.length() - begin);
  json.add("scripted", true).add("acceptance_percent", std::vector<double>{85, 67, 51});
  json.add("context", wanted.context).add("rows", rows).add("kv", name_of(wanted.kv)).add("rounds", all.size());
  json.add("tokens_per_round", tokens / static_cast<double>(all.size()));
  json.add("tokens_per_second_at_scripted_acceptance", tokens / std::reduce(all.begin(), all.end()));
  add_times(json, all);
  json.add("milliseconds_draft", 1000 * median(draft)).add("milliseconds_verify", 1000 * median(verify));
  json.add("milliseconds_accept", 1000 * median(accept));
  return json;
}

Result<Json> measure_routing(Subject& subject) {
  const ModelConfig& config = subject.model.config();
  const std::int64_t rows = std::min<std::int64_t>(2048, subject.model.pass_rows());
  ENGINE_TRY(SequenceState state, subject.model.new_sequence({.kv = KvType::kBF16}));
  subject.backend.set_mode(Mode::kRouting);
  ENGINE_CHECK(subject.model.forward(state, random_tokens(subject, rows, 3), {}));
  const std::vector<std::int64_t> popularity = subject.backend.routing().popularity;
  const auto blocks = static_cast<double>(subject.backend.routing().blocks);
  Json json;
  json.add("rows", rows);
  std::vector<double> shares;  // of the rows, at ranks 1, 2, 4, ...
  for (std::size_t rank = 1; rank <= popularity.size(); rank *= 2) {
    shares.push_back(static_cast<double>(popularity[rank - 1]) / blocks / static_cast<double>(rows));
  }
  json.add("share_of_rows_at_rank_1_2_4", shares);
  for (const std::int64_t batch : {1, 2, 4, 8}) {
    subject.backend.set_mode(Mode::kRouting);
    for (std::int64_t i = 0; i < kRoutingPasses; ++i) {
      ENGINE_CHECK(subject.model.forward(state, random_tokens(subject, batch, 10 + static_cast<std::uint64_t>(i)), {}));
    }
    json.add("experts_of_" + std::to_string(batch) + "_rows", experts_touched(subject));
  }
  subject.backend.set_mode(Mode::kOff);
  json.add("experts", config.experts).add("chosen", config.experts_per_token);
  return json;
}

}  // namespace lectern::engine::bench
