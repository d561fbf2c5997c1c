// SPDX-License-Identifier: Apache-2.0
#include "tide_model.h"

#include <cmath>

#include "constituents.h"

namespace tide {
namespace {

constexpr double kRadiansPerDegree = 3.14159265358979323846 / 180.0;
constexpr double kCausewayHeight = 1.4;

// The search for turning points looks at the rate every ten minutes. Two turning points are never closer than two
// hours, so none can hide between two looks.
constexpr long long kSearchStep = 600;

double hours_since_reference(long long time) { return static_cast<double>(time - kReferenceTime) / 3600.0; }

}  // namespace

double TideModel::height_at(long long time) const {
  const double hours = hours_since_reference(time);
  double height = kMeanLevel;
  for (const Constituent& wave : constituents()) {
    const double angle = (wave.speed * hours - wave.phase) * kRadiansPerDegree;
    height += wave.amplitude * std::cos(angle);
  }
  return height;
}

double TideModel::rate_at(long long time) const {
  const double hours = hours_since_reference(time);
  double rate = 0;
  for (const Constituent& wave : constituents()) {
    const double angle = (wave.speed * hours - wave.phase) * kRadiansPerDegree;
    rate -= wave.amplitude * wave.speed * kRadiansPerDegree * std::sin(angle);
  }
  return rate;
}

std::vector<Extreme> TideModel::extremes(long long begin, long long end) const {
  std::vector<Extreme> found;
  for (long long time = begin; time < end; time += kSearchStep) {
    const double before = rate_at(time);
    const double after = rate_at(time + kSearchStep);
    if (before > 0 && after <= 0) {
      const long long moment = turning_point(time, time + kSearchStep);
      found.push_back({ExtremeKind::kHighWater, moment, height_at(moment)});
    } else if (before < 0 && after >= 0) {
      const long long moment = turning_point(time, time + kSearchStep);
      found.push_back({ExtremeKind::kLowWater, moment, height_at(moment)});
    }
  }
  return found;
}

bool TideModel::causeway_is_dry(long long time) const { return height_at(time) < kCausewayHeight; }

long long TideModel::turning_point(long long begin, long long end) const {
  const bool rising = rate_at(begin) > 0;
  while (end - begin > 1) {
    const long long middle = begin + (end - begin) / 2;
    if ((rate_at(middle) > 0) == rising) {
      begin = middle;
    } else {
      end = middle;
    }
  }
  return begin;
}

}  // namespace tide
