// SPDX-License-Identifier: Apache-2.0
#include "runtime/draft_depth.h"

#include <algorithm>

namespace lectern::engine {
namespace {

constexpr double kMemory = 0.85;           // weight of the past in every average
constexpr double kLargestOutlier = 1.5;    // a step that was interrupted counts for at most so many usual ones
constexpr double kPriorGuesses = 2;        // what the expectation at the beginning counts for
constexpr double kLeastGain = 1.05;        // guessing must promise more than this over not guessing
constexpr double kGuessCost = 0.35;        // of one more guess and its row, in plain steps, until it was measured
constexpr std::int64_t kPlainSteps = 4;    // at the beginning, the first of which is slower than others and not counted
constexpr std::int64_t kPlainEvery = 24;   // steps with guesses before a plain one is measured again
constexpr std::int64_t kProbeEvery = 128;  // steps without guesses before they are tried again

}  // namespace

int DraftDepth::next() {
  ++steps_;
  if (most_ == 0 || steps_ <= kPlainSteps) return 0;
  int best = 0;
  for (int drafts = 1; drafts <= most_; ++drafts) {
    if (tokens_per_second(drafts) > tokens_per_second(best) * (best == 0 ? kLeastGain : 1.0)) best = drafts;
  }
  const std::int64_t period = best == 0 ? kProbeEvery : kPlainEvery;
  if (++since_other_ < period) return best;
  since_other_ = 0;
  return best == 0 ? 1 : 0;
}

void DraftDepth::add_step(int drafts, int accepted, double seconds) {
  if (steps_ <= 1) return;
  double& mean = seconds_[static_cast<std::size_t>(drafts)];
  mean = mean == 0 ? seconds : kMemory * mean + (1 - kMemory) * std::min(seconds, kLargestOutlier * mean);
  for (int i = 0; i < std::min(drafts, accepted + 1); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const double weight = std::max(1 - kMemory, 1.0 / (kPriorGuesses + ++guesses_[at]));
    right_[at] += weight * ((i < accepted ? 1.0 : 0.0) - right_[at]);
  }
}

double DraftDepth::seconds_of_step(int drafts) const {
  int known = drafts;
  while (known > 0 && seconds_[static_cast<std::size_t>(known)] == 0) --known;
  return seconds_[static_cast<std::size_t>(known)] + kGuessCost * (drafts - known) * seconds_[0];
}

double DraftDepth::tokens_per_second(int drafts) const {
  double tokens = 1;
  double reached = 1;
  for (int i = 0; i < drafts; ++i) {
    reached *= right_[static_cast<std::size_t>(i)];
    tokens += reached;
  }
  return tokens / seconds_of_step(drafts);
}

}  // namespace lectern::engine
