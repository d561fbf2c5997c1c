// SPDX-License-Identifier: Apache-2.0
#include "runtime/draft_depth.h"

#include <algorithm>

namespace lectern::engine {
namespace {

constexpr double kMemory = 0.85;           // weight of the past in every average
constexpr double kMemoryOfSlower = 0.25;   // the same for times, when a step was faster: others were interrupted
constexpr double kLargestOutlier = 1.5;    // a step that was interrupted counts for at most so many usual ones
constexpr double kPriorGuesses = 2;        // what the expectation at the beginning counts for
constexpr double kLeastGain = 1.05;        // guessing must promise more than this over not guessing
constexpr double kGuessCost = 0.35;        // of one more guess and its row, in plain steps, until it was measured
constexpr std::int64_t kPlainSteps = 4;    // at the beginning, the first of which is slower than others and not counted
constexpr std::int64_t kPlainSoon = 4;     // steps with guesses before a plain one is measured again, the first time
constexpr std::int64_t kPlainEvery = 24;   // and later
constexpr std::int64_t kProbeEvery = 128;  // steps without guesses before they are tried again, at first
constexpr std::int64_t kRarestProbe = 1024;

}  // namespace

DraftDepth::DraftDepth(int most) : most_(most), plain_every_(kPlainSoon), probe_every_(kProbeEvery) {}

int DraftDepth::next() {
  ++steps_;
  if (most_ == 0 || steps_ <= kPlainSteps) return 0;
  int best = 0;
  for (int drafts = 1; drafts <= most_; ++drafts) {
    if (tokens_per_second(drafts) > tokens_per_second(best) * (best == 0 ? kLeastGain : 1.0)) best = drafts;
  }
  guessing_ = best > 0;
  if (guessing_) probe_every_ = kProbeEvery;
  if (++since_other_ < (guessing_ ? plain_every_ : probe_every_)) return best;
  since_other_ = 0;
  if (guessing_) plain_every_ = std::min(2 * plain_every_, kPlainEvery);
  return guessing_ ? 0 : 1;
}

void DraftDepth::add_step(int drafts, int accepted, double seconds) {
  if (steps_ <= 1) return;
  double& mean = seconds_[static_cast<std::size_t>(drafts)];
  const double memory = seconds < mean ? kMemoryOfSlower : kMemory;
  mean = mean == 0 ? seconds : memory * mean + (1 - memory) * std::min(seconds, kLargestOutlier * mean);
  // A probe that failed, or could not have helped, makes the next one later.
  if (drafts > 0 && !guessing_) {
    probe_every_ = accepted > 0 && may_pay() ? kProbeEvery : std::min(2 * probe_every_, kRarestProbe);
  }
  for (int i = 0; i < std::min(drafts, accepted + 1); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const double weight = std::max(1 - kMemory, 1.0 / (kPriorGuesses + ++guesses_[at]));
    right_[at] += weight * ((i < accepted ? 1.0 : 0.0) - right_[at]);
  }
}

// A depth that was not tried yet costs for each guess what those of the next smaller one cost.
double DraftDepth::seconds_of_step(int drafts) const {
  int known = drafts;
  while (known > 0 && seconds_[static_cast<std::size_t>(known)] == 0) --known;
  const double seconds = seconds_[static_cast<std::size_t>(known)];
  const double of_guess = known == 0 ? kGuessCost * seconds : (seconds - seconds_[0]) / known;
  return seconds + (drafts - known) * std::max(0.0, of_guess);
}

// Whether guesses would pay if they were always right.
bool DraftDepth::may_pay() const {
  for (int drafts = 1; drafts <= most_; ++drafts) {
    if ((1 + drafts) * seconds_[0] > kLeastGain * seconds_of_step(drafts)) return true;
  }
  return false;
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
