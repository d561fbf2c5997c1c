// SPDX-License-Identifier: Apache-2.0
#include "runtime/draft_depth.h"

#include <algorithm>

namespace lectern::engine {
namespace {

constexpr double kMemory = 0.9;           // weight of the past in every average
constexpr double kPriorGuesses = 2;       // what the expectation at the beginning counts for
constexpr double kLeastGain = 1.02;       // guessing must promise more than this over not guessing
constexpr double kRowCost = 0.2;          // of one more row in a pass, as long as it was not measured
constexpr std::int64_t kPlainSteps = 3;   // at the beginning, to know what a plain pass takes
constexpr std::int64_t kProbeEvery = 96;  // steps without guessing before it is tried again

void average(double& mean, double value) { mean = mean == 0 ? value : kMemory * mean + (1 - kMemory) * value; }

}  // namespace

int DraftDepth::next() {
  ++steps_;
  if (most_ == 0 || steps_ <= kPlainSteps) return 0;
  int best = 0;
  for (int drafts = 1; drafts <= most_; ++drafts) {
    if (tokens_per_second(drafts) > tokens_per_second(best) * (best == 0 ? kLeastGain : 1.0)) best = drafts;
  }
  if (best > 0) last_probe_ = steps_;
  if (best == 0 && steps_ - last_probe_ >= kProbeEvery) {
    last_probe_ = steps_;
    return 1;
  }
  return best;
}

void DraftDepth::add_pass(int drafts, int accepted, double pass_seconds, double draft_seconds) {
  average(pass_seconds_[static_cast<std::size_t>(drafts)], pass_seconds);
  if (drafts > 0) average(draft_seconds_, draft_seconds / drafts);
  for (int i = 0; i < std::min(drafts, accepted + 1); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const double weight = std::max(1 - kMemory, 1.0 / (kPriorGuesses + ++guesses_[at]));
    right_[at] += weight * ((i < accepted ? 1.0 : 0.0) - right_[at]);
  }
}

double DraftDepth::seconds_of_pass(int drafts) const {
  int known = drafts;
  while (known > 0 && pass_seconds_[static_cast<std::size_t>(known)] == 0) --known;
  return pass_seconds_[static_cast<std::size_t>(known)] * (1 + kRowCost * (drafts - known));
}

double DraftDepth::tokens_per_second(int drafts) const {
  double tokens = 1;
  double reached = 1;
  for (int i = 0; i < drafts; ++i) {
    reached *= right_[static_cast<std::size_t>(i)];
    tokens += reached;
  }
  return tokens / (seconds_of_pass(drafts) + drafts * draft_seconds_);
}

}  // namespace lectern::engine
