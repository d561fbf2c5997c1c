// SPDX-License-Identifier: Apache-2.0
#include "runtime/draft_bench.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "runtime/pass_scheduler.h"
#include "runtime/sample_texts.h"
#include "runtime/sampler.h"
#include "runtime/spread.h"
#include "runtime/transformer_sequence.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kLongestPrompt = 2048;  // what is guessed depends little on more

struct Continuation {
  std::vector<TokenId> tokens;
  double seconds = 0;
  DraftCounts drafts;
};

class DraftBench {
 public:
  DraftBench(OpenedModel& model, const BenchOptions& options, const std::stop_token& stop)
      : model_(model), options_(options), stop_(stop), scheduler_(*model.transformer) {}

  Result<DraftReport> run() {
    DraftReport report;
    report.most_drafts = options_.engine.draft_tokens;
    report.tokens = options_.decode_tokens;
    report.same_tokens = true;
    const std::vector<TokenId> prompt = make_prompt();
    report.prompt_tokens = static_cast<std::int64_t>(prompt.size());
    ENGINE_TRY(SequenceSnapshot base, read(prompt));
    std::vector<double> plain_speeds;
    std::vector<double> speeds;
    const auto count = static_cast<double>(options_.decode_tokens);
    for (int run = 0; run < options_.repeats; ++run) {
      ENGINE_TRY(const Continuation plain, go_on(base, 0));
      ENGINE_TRY(const Continuation drafted, go_on(base, report.most_drafts));
      plain_speeds.push_back(count / plain.seconds);
      speeds.push_back(count / drafted.seconds);
      report.same_tokens = report.same_tokens && plain.tokens == drafted.tokens;
      report.drafted += drafted.drafts.drafted;
      report.accepted += drafted.drafts.accepted;
    }
    report.plain_tokens_per_second = spread_of(std::move(plain_speeds));
    report.tokens_per_second = spread_of(std::move(speeds));
    return report;
  }

 private:
  // Sample texts, over again until the wanted depth is reached.
  std::vector<TokenId> make_prompt() const {
    const std::int64_t wanted =
        std::clamp<std::int64_t>(options_.depth_tokens + options_.prefill_tokens, 1, kLongestPrompt);
    std::vector<TokenId> prompt;
    for (std::size_t i = 0; static_cast<std::int64_t>(prompt.size()) < wanted; ++i) {
      const std::string text = std::string(kSampleTexts[i % kSampleTexts.size()]) + "\n\n";
      const std::vector<TokenId> tokens = model_.tokenizer->encode(text, Tokenizer::SpecialTokens::kIgnore);
      prompt.insert(prompt.end(), tokens.begin(), tokens.end());
    }
    prompt.resize(static_cast<std::size_t>(wanted));
    return prompt;
  }

  Result<SequenceSnapshot> read(std::span<const TokenId> prompt) {
    const SequenceOptions options = model_.sequence_options(static_cast<std::int64_t>(prompt.size()), true);
    ENGINE_TRY(SequenceState state, model_.transformer->new_sequence(options));
    TransformerSequence sequence(scheduler_, std::move(state), options_.engine.draft_tokens);
    const auto chunk = static_cast<std::size_t>(model_.chunk_tokens());
    for (std::size_t first = 0; first < prompt.size(); first += chunk) {
      const bool last = first + chunk >= prompt.size();
      ENGINE_TRY(const std::span<const float> logits,
                 sequence.append(prompt.subspan(first, std::min(chunk, prompt.size() - first)), last, stop_));
      if (last) first_token_ = most_likely_token(logits);
    }
    return sequence.snapshot();
  }

  Result<Continuation> go_on(const SequenceSnapshot& base, int drafts) {
    ENGINE_TRY(SequenceState state, model_.transformer->fork(base.state));
    TransformerSequence sequence(scheduler_, SequenceSnapshot{base.tokens, std::move(state), base.hidden}, drafts);
    ENGINE_TRY(Sampler greedy, Sampler::create({}, static_cast<TokenId>(model_.vocabulary())));
    const bool chosen_there = sequence.choose_with(greedy);
    Continuation continuation;
    const auto start = std::chrono::steady_clock::now();
    TokenId token = first_token_;
    for (std::int64_t i = 0; i < options_.decode_tokens; ++i) {
      ENGINE_TRY(const std::span<const float> logits, sequence.append(std::span(&token, 1), true, stop_));
      ENGINE_TRY(token, chosen_there ? sequence.chosen() : greedy.sample(logits));
      continuation.tokens.push_back(token);
    }
    continuation.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    continuation.drafts = sequence.drafts();
    return continuation;
  }

  OpenedModel& model_;
  const BenchOptions& options_;
  const std::stop_token& stop_;
  PassScheduler scheduler_;
  TokenId first_token_ = 0;
};

}  // namespace

Result<DraftReport> measure_drafts(OpenedModel& model, const BenchOptions& options, const std::stop_token& stop) {
  return DraftBench(model, options, stop).run();
}

}  // namespace lectern::engine
