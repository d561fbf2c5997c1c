// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

namespace lectern::engine {

inline constexpr int kMostDrafts = 4;

// Decides how many tokens to guess ahead, from how often guesses were right of late and what passes took: the depth
// with the most tokens per second to be expected, and none when guessing loses. Only speed depends on it.
class DraftDepth {
 public:
  explicit DraftDepth(int most);

  int next();

  // A step over the real token and `drafts` guesses, of which the first `accepted` were right; whether guess
  // `accepted + 1` was wrong is known unless the reply ended there. Seconds of all that it took: guessing, the pass,
  // and settling what stays.
  void add_step(int drafts, int accepted, double seconds);

 private:
  double tokens_per_second(int drafts) const;
  double seconds_of_step(int drafts) const;
  bool may_pay() const;

  int most_;
  bool guessing_ = true;  // is worth it, as of the last next(); when not, it is tried now and then
  std::int64_t steps_ = 0;
  std::int64_t since_other_ = 0;  // steps since guessing or not was tried instead
  std::int64_t plain_every_;
  std::int64_t probe_every_;
  std::array<double, kMostDrafts + 1> seconds_{};                 // of a step, by number of guesses; 0: unknown
  std::array<double, kMostDrafts> right_ = {0.7, 0.6, 0.5, 0.4};  // of guess i + 1, the earlier ones being right
  std::array<int, kMostDrafts> guesses_{};                        // that right_ rests on
};

}  // namespace lectern::engine
