// SPDX-License-Identifier: Apache-2.0
#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

namespace lectern::engine {

namespace {

constexpr std::size_t kFirstSorted = 256;  // a nucleus is rarely larger; beyond it the sorted part doubles

constexpr std::size_t kHeapSorted = 1024;  // up to here one scan with a heap beats partitioning

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ULL;

std::uint64_t mix(std::uint64_t value) {  // finaliser of SplitMix64
  value = (value ^ (value >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27U)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31U);
}

// Compares magnitudes as integers, which compilers vectorise.
bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kInfinity = 0x7F800000U;
  std::uint32_t largest = 0;
  for (const float value : values) largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFU);
  return largest < kInfinity;
}

Error out_of_range(const char* option, double value, const char* range) {
  return {ErrorCode::kInvalidArgument,
          std::string(option) + " is " + std::to_string(value) + " but must be " + range + "."};
}

Error not_a_number() {
  return {ErrorCode::kDevice,
          "The model computed a value that is not a number; the weights may be damaged or the device faulty."};
}

Result<void> check(const SamplingOptions& options) {
  const auto within = [](float value, float low, float high) { return value >= low && value <= high; };
  if (!within(options.temperature, 0, 100)) return out_of_range("temperature", options.temperature, "0 to 100");
  if (options.top_k < 0) return out_of_range("top_k", options.top_k, "0 (off) or more");
  if (!within(options.top_p, 0, 1)) return out_of_range("top_p", options.top_p, "0 to 1");
  if (!within(options.min_p, 0, 1)) return out_of_range("min_p", options.min_p, "0 to 1");
  if (!within(options.presence_penalty, -100, 100)) {
    return out_of_range("presence_penalty", options.presence_penalty, "-100 to 100");
  }
  if (!within(options.repetition_penalty, 0.01F, 100)) {
    return out_of_range("repetition_penalty", options.repetition_penalty, "0.01 to 100");
  }
  return {};
}

}  // namespace

CounterRandom::CounterRandom(std::uint64_t seed) : key_(mix(seed + kGolden)) {}

double CounterRandom::next() {
  const double number = after(0);
  ++counter_;
  return number;
}

double CounterRandom::after(std::uint64_t numbers) const {
  return static_cast<double>(mix(key_ + (counter_ + numbers + 1) * kGolden) >> 11U) * 0x1.0p-53;
}

Sampler::Sampler(const SamplingOptions& options, TokenId vocabulary)
    : options_(options),
      vocabulary_(vocabulary),
      random_(options.seed),
      seen_(static_cast<std::size_t>(vocabulary), std::uint8_t{0}) {}

Result<Sampler> Sampler::create(const SamplingOptions& options, TokenId vocabulary) {
  ENGINE_CHECK(check(options));
  if (vocabulary < 1) return Error{ErrorCode::kInvalidArgument, "The vocabulary is empty."};
  return Sampler(options, vocabulary);
}

void Sampler::mark(TokenId token, std::uint8_t where) {
  if (token < 0 || token >= vocabulary_) return;
  std::uint8_t& seen = seen_[static_cast<std::size_t>(token)];
  seen = static_cast<std::uint8_t>(seen | where);
}

void Sampler::add_prompt(std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) mark(token, kInPrompt);
}

Result<TokenId> Sampler::sample(std::span<const float> logits) {
  const auto count = static_cast<std::size_t>(vocabulary_);
  if (logits.size() < count) {
    return Error{ErrorCode::kCorrupt, "The model gives " + std::to_string(logits.size()) + " logits for " +
                                          std::to_string(count) + " tokens."};
  }
  logits = logits.first(count);
  if (!all_finite(logits)) return not_a_number();
  const TokenId token = options_.temperature == 0 ? best(logits) : draw(logits);
  mark(token, kGenerated);
  return token;
}

TokenChoice Sampler::choice(std::uint64_t ahead) const {
  TokenChoice choice;
  choice.uniform = random_.after(ahead);
  choice.temperature = options_.temperature;
  choice.top_k = options_.top_k;
  choice.top_p = options_.top_p;
  choice.min_p = options_.min_p;
  choice.presence_penalty = options_.presence_penalty;
  choice.repetition_penalty = options_.repetition_penalty;
  choice.vocabulary = vocabulary_;
  return choice;
}

Result<TokenId> Sampler::take(TokenId chosen) {
  if (chosen == kNoToken) return not_a_number();
  if (options_.temperature != 0) random_.next();
  mark(chosen, kGenerated);
  return chosen;
}

float Sampler::penalised(std::size_t token, float logit) const {
  const std::uint8_t seen = seen_[token];
  if (seen == 0) return logit;
  logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  return (seen & kGenerated) != 0 ? logit - options_.presence_penalty : logit;
}

TokenId Sampler::best(std::span<const float> logits) const {
  std::size_t best = 0;
  float best_logit = penalised(0, logits[0]);
  for (std::size_t i = 1; i < logits.size(); ++i) {
    const float logit = penalised(i, logits[i]);
    if (logit <= best_logit) continue;
    best = i;
    best_logit = logit;
  }
  return static_cast<TokenId>(best);
}

// Makes candidates_[0, count) the best `count` in order.
void Sampler::sort_first(std::size_t count) {
  if (count <= sorted_) return;
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  const auto first = candidates_.begin() + static_cast<std::ptrdiff_t>(sorted_);
  const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
  if (count - sorted_ <= kHeapSorted) {
    std::partial_sort(first, last, candidates_.end(), better);
  } else {
    if (last != candidates_.end()) std::nth_element(first, last, candidates_.end(), better);
    std::sort(first, last, better);
  }
  sorted_ = count;
}

std::size_t Sampler::keep_top_k() {
  const std::size_t count = candidates_.size();
  if (options_.top_k == 0 || static_cast<std::size_t>(options_.top_k) >= count) return count;
  sort_first(static_cast<std::size_t>(options_.top_k));
  return sorted_;
}

// The fewest best candidates whose probabilities, among the first `count`, add up to top_p.
std::size_t Sampler::keep_top_p(std::size_t count) {
  if (options_.top_p >= 1) return count;
  sort_first(std::min(count, kFirstSorted));
  const double top = candidates_.front().logit;
  const auto weight = [&](std::size_t i) { return std::exp((candidates_[i].logit - top) / options_.temperature); };
  double total = 0;
  for (std::size_t i = 0; i < count; ++i) total += weight(i);
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (i == sorted_) sort_first(std::min(count, sorted_ * 2));
    sum += weight(i);
    if (sum >= options_.top_p * total) return i + 1;
  }
  return count;
}

TokenId Sampler::draw(std::span<const float> logits) {
  candidates_.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    candidates_[i] = {penalised(i, logits[i]), static_cast<TokenId>(i)};
  }
  sorted_ = 0;
  const std::size_t count = keep_top_p(keep_top_k());
  const auto first = candidates_.begin();
  const auto last = first + static_cast<std::ptrdiff_t>(count);
  const auto worse = [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; };
  const double top = std::max_element(first, last, worse)->logit;
  const auto weight = [&](const Candidate& candidate) {
    const double value = std::exp((candidate.logit - top) / options_.temperature);
    return value >= options_.min_p ? value : 0.0;
  };
  double total = 0;
  for (auto it = first; it != last; ++it) total += weight(*it);
  double left = random_.next() * total;
  TokenId drawn = first->token;
  for (auto it = first; it != last; ++it) {
    const double value = weight(*it);
    if (value == 0) continue;
    drawn = it->token;  // rounding may leave a rest after the last one
    left -= value;
    if (left < 0) break;
  }
  return drawn;
}

}  // namespace lectern::engine
