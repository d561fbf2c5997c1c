// SPDX-License-Identifier: Apache-2.0
// A block of 256 keeps one or two halves and a small integer factor for each sub-block. Each sub-block is fitted alone;
// the halves follow from the largest fits; then the factors are chosen by the error they leave.
#include "quant/superblocks.h"

#include <cmath>

namespace lectern::engine {
namespace {

using Numbers = std::span<const float, 256>;
using Codes = std::array<std::uint8_t, 256>;

template <std::size_t kSize>
std::span<const float, kSize> part_of(Numbers x, std::size_t index) {
  return x.subspan(index * kSize).template first<kSize>();
}

// Q2_K, Q4_K, Q5_K: x ~ d scale code - m minimum, the factors from 0 to kHighestFactor.
template <std::size_t kSize, int kHighestCode, int kHighestFactor>
class LineBlock {
 public:
  static constexpr std::size_t kParts = 256 / kSize;

  explicit LineBlock(Numbers x) {
    std::array<Line, kParts> lines;
    float largest_scale = 0.0F;
    float largest_minimum = 0.0F;
    for (std::size_t part = 0; part < kParts; ++part) {
      lines[part] = search_line(part_of<kSize>(x, part), kHighestCode, Base::kNotPositive);
      largest_scale = std::max(largest_scale, lines[part].scale);
      largest_minimum = std::max(largest_minimum, -lines[part].base);
    }
    d_ = store(largest_scale / kHighestFactor, scale);
    m_ = store(largest_minimum / kHighestFactor, minimum);
    for (std::size_t part = 0; part < kParts; ++part) {
      const auto numbers = part_of<kSize>(x, part);
      factors[part] = best_factors(numbers, lines[part]);
      const Line line = line_of(factors[part]);
      const float inverse = inverse_of(line.scale);
      for (std::size_t i = 0; i < kSize; ++i) {
        const float code = nearest_code(inverse * (numbers[i] - line.base), 0.0F, kHighestCode);
        codes[part * kSize + i] = static_cast<std::uint8_t>(code);
      }
    }
  }

  StoredHalf scale{};
  StoredHalf minimum{};
  std::array<ScaleAndMinimum, kParts> factors{};
  Codes codes{};

 private:
  Line line_of(const ScaleAndMinimum& factor) const {
    return {d_ * static_cast<float>(factor.scale), -m_ * static_cast<float>(factor.minimum)};
  }

  // The nearest factors are not always the best, since both round.
  ScaleAndMinimum best_factors(std::span<const float, kSize> x, const Line& line) const {
    const ScaleAndMinimum nearest{static_cast<int>(nearest_code(line.scale * inverse_of(d_), 0.0F, kHighestFactor)),
                                  static_cast<int>(nearest_code(-line.base * inverse_of(m_), 0.0F, kHighestFactor))};
    ScaleAndMinimum best = nearest;
    float least = line_error(x, line_of(nearest), kHighestCode);
    for (int s = std::max(nearest.scale - 1, 0); s <= std::min(nearest.scale + 1, kHighestFactor); ++s) {
      for (int t = std::max(nearest.minimum - 1, 0); t <= std::min(nearest.minimum + 1, kHighestFactor); ++t) {
        const float error = line_error(x, line_of({s, t}), kHighestCode);
        if (error >= least) continue;
        least = error;
        best = {s, t};
      }
    }
    return best;
  }

  float d_ = 0.0F;
  float m_ = 0.0F;
};

// Six bits each for eight scales and minima.
Bytes<12> pack_six_bits(const std::array<ScaleAndMinimum, 8>& factors) {
  Bytes<12> packed{};
  for (std::size_t j = 0; j < 4; ++j) {
    packed[j] = static_cast<std::uint8_t>(factors[j].scale | factors[j + 4].scale >> 4 << 6);
    packed[j + 4] = static_cast<std::uint8_t>(factors[j].minimum | factors[j + 4].minimum >> 4 << 6);
    packed[j + 8] = static_cast<std::uint8_t>((factors[j + 4].scale & 15) | (factors[j + 4].minimum & 15) << 4);
  }
  return packed;
}

// Pairs of 32 elements share 32 bytes.
Bytes<128> pack_nibble_pairs(const Codes& codes) {
  Bytes<128> nibbles;
  for (std::size_t i = 0; i < 128; ++i) {
    const std::size_t low = 64 * (i / 32) + i % 32;
    nibbles[i] = static_cast<std::uint8_t>((codes[low] & 15) | (codes[low + 32] & 15) << 4);
  }
  return nibbles;
}

// Two bits of each code, from bit `from` on: four elements 32 apart share a byte.
Bytes<64> pack_two_bits(const Codes& codes, int from) {
  Bytes<64> packed{};
  for (std::size_t i = 0; i < 256; ++i) {
    packed[32 * (i / 128) + i % 32] |= static_cast<std::uint8_t>((codes[i] >> from & 3) << (2 * (i % 128 / 32)));
  }
  return packed;
}

// One bit of each code: eight elements 32 apart share a byte.
Bytes<32> pack_bit(const Codes& codes, int bit) {
  Bytes<32> packed{};
  for (std::size_t i = 0; i < 256; ++i) packed[i % 32] |= static_cast<std::uint8_t>((codes[i] >> bit & 1) << (i / 32));
  return packed;
}

// Codes that are whole numbers, stored as 0 for the lowest.
template <int kLowest, int kHighest>
struct WholeCodes {
  template <std::size_t kSize>
  static float search(std::span<const float, kSize> x) {
    return search_scale(x, kLowest, kHighest);
  }
  template <std::size_t kSize>
  static float error(std::span<const float, kSize> x, float scale) {
    return scale_error(x, scale, kLowest, kHighest);
  }
  static std::uint8_t code(float x) { return static_cast<std::uint8_t>(nearest_code(x, kLowest, kHighest) - kLowest); }
};

struct Iq4Codes {
  static float search(std::span<const float, 32> x) { return search_scale(x, kIq4Codebook); }
  static float error(std::span<const float, 32> x, float scale) { return scale_error(x, scale, kIq4Codebook); }
  static std::uint8_t code(float x) { return kIq4Codebook.nearest(x); }
};

// Q3_K, Q6_K, IQ4_XS: x ~ d factor code, the factors from -kFactors to kFactors - 1.
template <std::size_t kSize, int kFactors, class Kind>
class ScaleBlock {
 public:
  static constexpr std::size_t kParts = 256 / kSize;

  explicit ScaleBlock(Numbers x) {
    std::array<float, kParts> scales;
    float extreme = 0.0F;
    for (std::size_t part = 0; part < kParts; ++part) {
      scales[part] = Kind::search(part_of<kSize>(x, part));
      if (std::fabs(scales[part]) > std::fabs(extreme)) extreme = scales[part];
    }
    d_ = store(extreme / -kFactors, scale);
    for (std::size_t part = 0; part < kParts; ++part) {
      const auto numbers = part_of<kSize>(x, part);
      factors[part] = best_factor(numbers, scales[part]);
      const float inverse = inverse_of(d_ * static_cast<float>(factors[part]));
      for (std::size_t i = 0; i < kSize; ++i) codes[part * kSize + i] = Kind::code(inverse * numbers[i]);
    }
  }

  StoredHalf scale{};
  std::array<int, kParts> factors{};
  Codes codes{};

 private:
  // The nearest factor is not always the best, since it rounds.
  int best_factor(std::span<const float, kSize> x, float part_scale) const {
    const int nearest = static_cast<int>(nearest_code(part_scale * inverse_of(d_), -kFactors, kFactors - 1));
    int best = nearest;
    float least = Kind::error(x, d_ * static_cast<float>(nearest));
    for (const int factor : {std::max(nearest - 1, -kFactors), std::min(nearest + 1, kFactors - 1)}) {
      const float error = Kind::error(x, d_ * static_cast<float>(factor));
      if (error >= least) continue;
      least = error;
      best = factor;
    }
    return best;
  }

  float d_ = 0.0F;
};

}  // namespace

void encode(Numbers x, BlockQ2K& block) {
  const LineBlock<16, 3, 15> fit(x);
  block.scale = fit.scale;
  block.minimum = fit.minimum;
  for (std::size_t k = 0; k < 16; ++k)
    block.scales[k] = static_cast<std::uint8_t>(fit.factors[k].scale | fit.factors[k].minimum << 4);
  block.codes = pack_two_bits(fit.codes, 0);
}

void encode(Numbers x, BlockQ3K& block) {
  const ScaleBlock<16, 32, WholeCodes<-4, 3>> fit(x);
  block.scale = fit.scale;
  block.scales = {};
  for (std::size_t k = 0; k < 16; ++k) {
    const int factor = fit.factors[k] + 32;
    block.scales[k % 8] |= static_cast<std::uint8_t>((factor & 15) << (k < 8 ? 0 : 4));
    block.scales[8 + k % 4] |= static_cast<std::uint8_t>(factor >> 4 << (2 * (k / 4)));
  }
  block.low = pack_two_bits(fit.codes, 0);
  block.high = pack_bit(fit.codes, 2);
}

void encode(Numbers x, BlockQ4K& block) {
  const LineBlock<32, 15, 63> fit(x);
  block.scale = fit.scale;
  block.minimum = fit.minimum;
  block.scales = pack_six_bits(fit.factors);
  block.nibbles = pack_nibble_pairs(fit.codes);
}

void encode(Numbers x, BlockQ5K& block) {
  const LineBlock<32, 31, 63> fit(x);
  block.scale = fit.scale;
  block.minimum = fit.minimum;
  block.scales = pack_six_bits(fit.factors);
  block.fifth = pack_bit(fit.codes, 4);
  block.nibbles = pack_nibble_pairs(fit.codes);
}

void encode(Numbers x, BlockQ6K& block) {
  const ScaleBlock<16, 128, WholeCodes<-32, 31>> fit(x);
  block.scale = fit.scale;
  for (std::size_t k = 0; k < 16; ++k) block.scales[k] = static_cast<std::int8_t>(fit.factors[k]);
  for (std::size_t i = 0; i < 128; ++i) {
    const std::size_t low = 128 * (i / 64) + i % 64;
    block.low[i] = static_cast<std::uint8_t>((fit.codes[low] & 15) | (fit.codes[low + 64] & 15) << 4);
  }
  block.high = pack_two_bits(fit.codes, 4);
}

void encode(Numbers x, BlockIq4Xs& block) {
  const ScaleBlock<32, 32, Iq4Codes> fit(x);
  block.scale = fit.scale;
  block.scales_high = {};
  block.scales_low = {};
  for (std::size_t j = 0; j < 8; ++j) {
    const int factor = fit.factors[j] + 32;
    block.scales_low[j / 2] |= static_cast<std::uint8_t>((factor & 15) << (4 * (j % 2)));
    block.scales_high[j / 4] |= static_cast<std::uint8_t>(factor >> 4 << (2 * (j % 4)));
  }
  for (std::size_t i = 0; i < 128; ++i) {
    const std::size_t low = 32 * (i / 16) + i % 16;
    block.nibbles[i] = static_cast<std::uint8_t>(fit.codes[low] | fit.codes[low + 16] << 4);
  }
}

}  // namespace lectern::engine
