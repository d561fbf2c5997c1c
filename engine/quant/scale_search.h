// SPDX-License-Identifier: Apache-2.0
// Scales that make a few numbers cost little as codes: those of the least sum of squared errors among some candidates,
// each improved by turns (codes for the scale, then the least-squares scale for the codes). Deterministic.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace lectern::engine {

// A whole number from `lowest` to `highest`, the one nearest to `x`.
inline float nearest_code(float x, float lowest, float highest) {
  constexpr float kWhole = 0x1.8p23F;  // the numbers of a float are 1 apart here
  const float above = x > lowest ? x : lowest;
  const float inside = above < highest ? above : highest;
  return (inside + kWhole) - kWhole;
}

// A scale of 0 makes all codes 0.
inline float inverse_of(float scale) { return scale == 0.0F ? 0.0F : 1.0F / scale; }

// The sixteen numbers that codes of four bits stand for, in any order.
class Codebook {
 public:
  explicit constexpr Codebook(const std::array<std::int8_t, 16>& values) : values_(values) {
    for (int place = 0; place < kPlaces; ++place) {
      // x is from twice / 2 to (twice + 1) / 2: no middle of two values lies between.
      const int twice = place - 2 * kLargest;
      int best = 0;
      for (int code = 1; code < 16; ++code)
        if (distance(twice, code) < distance(twice, best)) best = code;
      nearest_[static_cast<std::size_t>(place)] = static_cast<std::uint8_t>(best);
    }
  }

  std::uint8_t nearest(float x) const {
    constexpr float kEnd = kLargest;
    const float above = x > -kEnd ? x : -kEnd;
    const float inside = above < kEnd ? above : kEnd;
    return nearest_[static_cast<std::size_t>(static_cast<int>(2.0F * inside + 2.0F * kEnd))];
  }
  float value(std::uint8_t code) const { return values_[code]; }

 private:
  static constexpr int kLargest = 127;
  static constexpr int kPlaces = 4 * kLargest + 1;

  // Four times the distance from the middle of the interval.
  constexpr int distance(int twice, int code) const {
    const int difference = 2 * twice + 1 - 4 * values_[static_cast<std::size_t>(code)];
    return difference < 0 ? -difference : difference;
  }

  std::array<std::int8_t, 16> values_;
  std::array<std::uint8_t, kPlaces> nearest_{};
};

// The searches are there for 16 and 32 numbers of at most 1e9; both sizes are known to the compiler for the speed's
// sake.

// x ~ scale code with codes from `lowest` (below zero) to `highest`. The scale may be negative; 0 if all x are.
template <std::size_t kSize>
float search_scale(std::span<const float, kSize> x, float lowest, float highest);
template <std::size_t kSize>
float search_scale(std::span<const float, kSize> x, const Codebook& book);

// Sum of (x - scale code)^2 with the best codes.
template <std::size_t kSize>
float scale_error(std::span<const float, kSize> x, float scale, float lowest, float highest);
template <std::size_t kSize>
float scale_error(std::span<const float, kSize> x, float scale, const Codebook& book);

// x ~ scale code + base with codes from 0 to `highest`.
struct Line {
  float scale = 0.0F;  // not negative
  float base = 0.0F;
};
// kNotPositive: base is at most 0.
enum class Base { kAny, kNotPositive };

template <std::size_t kSize>
Line search_line(std::span<const float, kSize> x, float highest, Base kind);
// Sum of (x - scale code - base)^2 with the best codes.
template <std::size_t kSize>
float line_error(std::span<const float, kSize> x, const Line& line, float highest);

}  // namespace lectern::engine
