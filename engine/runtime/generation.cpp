// SPDX-License-Identifier: Apache-2.0
#include "runtime/generation.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

#include "runtime/sampler.h"
#include "runtime/text_stream.h"
#include "text/unicode.h"

namespace lectern::engine {

namespace {

constexpr std::size_t kMaxStopTextBytes = 1024;

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

Result<void> check_request(const GenerationRequest& request, const GenerationLimits& limits, std::int64_t prompt) {
  if (request.max_new_tokens < 1) {
    return Error{ErrorCode::kInvalidArgument,
                 "max_new_tokens is " + std::to_string(request.max_new_tokens) + " but must be 1 or more."};
  }
  for (const std::string& text : request.stop_texts) {
    if (text.empty() || text.size() > kMaxStopTextBytes || !unicode::is_valid_utf8(text)) {
      return Error{ErrorCode::kInvalidArgument, "A stop text must be valid UTF-8 of 1 to 1024 bytes."};
    }
  }
  if (prompt == 0) return Error{ErrorCode::kInvalidArgument, "The prompt is empty."};
  if (prompt >= limits.context_tokens) {
    return Error{ErrorCode::kInvalidArgument,
                 "The prompt has " + std::to_string(prompt) + " tokens, but the context holds " +
                     std::to_string(limits.context_tokens) +
                     " with at least one for the reply; shorten the prompt or open the model with a larger context."};
  }
  return {};
}

class Run {
 public:
  Run(SequenceModel& model, const Tokenizer& tokenizer, const GenerationLimits& limits, Sampler sampler,
      TextStream stream, std::stop_token stop)
      : model_(model),
        tokenizer_(tokenizer),
        limits_(limits),
        sampler_(std::move(sampler)),
        stream_(std::move(stream)),
        stop_(std::move(stop)) {}

  // Leaves the logits of the last prompt token in logits_. False: cancelled.
  Result<bool> prefill(std::span<const TokenId> prompt, GenerationSink& sink) {
    const Stopwatch watch;
    const auto total = static_cast<std::int64_t>(prompt.size());
    sampler_.add_prompt(prompt);
    chosen_by_model_ = model_.choose_with(sampler_);
    statistics_.prompt_tokens = total;
    if (model_.length() > 0) sink.on_prefill(model_.length(), total, 0);
    for (std::int64_t done = model_.length(); done < total;) {
      if (stop_.stop_requested()) return false;
      const std::int64_t count = std::min({total - done, limits_.prefill_chunk_tokens, tokens_to_boundary(done)});
      const auto chunk = prompt.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count));
      done += count;
      ENGINE_TRY(const bool appended, append(chunk, done == total));
      if (!appended) return false;
      if (tokens_to_boundary(done - 1) == 1) model_.at_boundary();
      statistics_.prefill_seconds = watch.seconds();
      sink.on_prefill(done, total, statistics_.prefill_seconds);
    }
    return true;
  }

  Result<FinishReason> decode(std::int64_t max_new_tokens) {
    const Stopwatch watch;
    Result<FinishReason> finish = decode_tokens(max_new_tokens);
    statistics_.decode_seconds = watch.seconds();
    return finish;
  }

  GenerationResult finish(FinishReason reason) {
    stream_.finish();
    statistics_.drafted_tokens = model_.drafts().drafted;
    statistics_.accepted_tokens = model_.drafts().accepted;
    if (stream_.stopped() && reason == FinishReason::kLength) reason = FinishReason::kStop;
    return {std::move(stream_.text()), std::move(stream_.reasoning()), reason, statistics_};
  }

 private:
  std::int64_t tokens_to_boundary(std::int64_t length) const {
    const auto next = std::upper_bound(limits_.boundaries.begin(), limits_.boundaries.end(), length);
    return next == limits_.boundaries.end() ? std::numeric_limits<std::int64_t>::max() : *next - length;
  }

  // False: cancelled.
  Result<bool> append(std::span<const TokenId> tokens, bool want_logits) {
    const Result<std::span<const float>> logits = model_.append(tokens, want_logits, stop_);
    if (!logits.ok() && logits.error().code == ErrorCode::kCancelled) return false;
    if (!logits.ok()) return logits.error();
    logits_ = *logits;
    return true;
  }

  Result<FinishReason> decode_tokens(std::int64_t max_new_tokens) {
    const std::int64_t room = std::min(max_new_tokens, limits_.context_tokens - model_.length());
    while (true) {
      if (stop_.stop_requested()) return FinishReason::kCancelled;
      ENGINE_TRY(const TokenId token, chosen_by_model_ ? model_.chosen() : sampler_.sample(logits_));
      const auto& stops = limits_.stop_tokens;
      if (std::find(stops.begin(), stops.end(), token) != stops.end()) return FinishReason::kStop;
      ++statistics_.generated_tokens;
      stream_.add(tokenizer_.token_bytes(token));
      if (stream_.stopped()) return FinishReason::kStop;
      if (statistics_.generated_tokens >= room) return FinishReason::kLength;
      ENGINE_TRY(const bool appended, append(std::span(&token, 1), true));
      if (!appended) return FinishReason::kCancelled;
    }
  }

  SequenceModel& model_;
  const Tokenizer& tokenizer_;
  const GenerationLimits& limits_;
  Sampler sampler_;
  TextStream stream_;
  std::stop_token stop_;
  std::span<const float> logits_;
  bool chosen_by_model_ = false;
  GenerationStatistics statistics_;
};

}  // namespace

Result<GenerationResult> generate_reply(SequenceModel& model, const Tokenizer& tokenizer,
                                        const GenerationLimits& limits, std::span<const TokenId> prompt,
                                        const GenerationRequest& request, GenerationSink& sink, std::stop_token stop) {
  ENGINE_CHECK(check_request(request, limits, static_cast<std::int64_t>(prompt.size())));
  ENGINE_TRY(Sampler sampler, Sampler::create(request.sampling, tokenizer.size()));
  Run run(model, tokenizer, limits, std::move(sampler), TextStream(request.thinking, request.stop_texts, sink),
          std::move(stop));
  ENGINE_TRY(const bool complete, run.prefill(prompt, sink));
  if (!complete) return run.finish(FinishReason::kCancelled);
  ENGINE_TRY(const FinishReason reason, run.decode(request.max_new_tokens));
  model.at_boundary();
  return run.finish(reason);
}

}  // namespace lectern::engine
