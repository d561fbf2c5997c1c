// SPDX-License-Identifier: Apache-2.0
// The harmonic constituents of the tide at Skerry Point.
#pragma once

#include <vector>

namespace tide {

// One cosine wave of the tide.
struct Constituent {
  const char* name;
  double speed;      // degrees per hour
  double amplitude;  // metres
  double phase;      // degrees behind the reference moment
};

// The mean level of the sea, in metres above chart datum.
constexpr double kMeanLevel = 2.45;

// The reference moment of all phases is midnight UTC at the beginning of 1 January 2000, as a Unix time in seconds.
constexpr long long kReferenceTime = 946684800;

// Fitted by least squares to the gauge readings of the years 2005 to 2023.
const std::vector<Constituent>& constituents();

}  // namespace tide
