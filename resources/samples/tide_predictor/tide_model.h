// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace tide {

enum class ExtremeKind { kHighWater, kLowWater };

struct Extreme {
  ExtremeKind kind;
  long long time;  // Unix time in seconds
  double height;   // metres above chart datum
};

// Adds up the constituents. A model has no state, so one object may be shared by any number of threads.
class TideModel {
 public:
  // The height of the water at a Unix time, in metres above chart datum.
  double height_at(long long time) const;

  // How fast the water rises, in metres per hour; negative while it falls.
  double rate_at(long long time) const;

  // All high and low waters in [begin, end), in order of time, each found to the second.
  std::vector<Extreme> extremes(long long begin, long long end) const;

  // Whether the causeway to the lower landing is dry: the water must be lower than 1.4 metres above chart datum.
  bool causeway_is_dry(long long time) const;

 private:
  // Halves the interval until it is one second long. The rate has different signs at its two ends.
  long long turning_point(long long begin, long long end) const;
};

}  // namespace tide
