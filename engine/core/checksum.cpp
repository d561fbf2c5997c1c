// SPDX-License-Identifier: Apache-2.0
#include "core/checksum.h"

#include <array>
#include <bit>
#include <cstring>

namespace lectern::engine {
namespace {

static_assert(std::endian::native == std::endian::little, "words are taken from memory as they lie");

constexpr std::size_t kLanes = 4;
constexpr std::size_t kStripe = kLanes * sizeof(std::uint64_t);
constexpr std::array<std::uint64_t, kLanes> kFactors = {0x9E3779B97F4A7C15U, 0xC2B2AE3D27D4EB4FU, 0xD6E8FEB86659FD93U,
                                                        0xA0761D6478BD642FU};

using Lanes = std::array<std::uint64_t, kLanes>;

void take(const std::byte* stripe, Lanes& lanes) {
  Lanes words;
  std::memcpy(words.data(), stripe, kStripe);
  for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = std::rotl((lanes[i] ^ words[i]) * kFactors[i], 29);
}

}  // namespace

std::uint64_t checksum(std::span<const std::byte> bytes, std::uint64_t seed) {
  std::uint64_t start = chain(seed, bytes.size());
  Lanes lanes;
  for (std::uint64_t& lane : lanes) lane = start = chain(start, kStripe);
  std::size_t at = 0;
  for (; at + kStripe <= bytes.size(); at += kStripe) take(bytes.data() + at, lanes);
  if (at < bytes.size()) {
    std::array<std::byte, kStripe> tail{};
    std::memcpy(tail.data(), bytes.data() + at, bytes.size() - at);
    take(tail.data(), lanes);
  }
  std::uint64_t sum = seed;
  for (const std::uint64_t lane : lanes) sum = chain(sum, lane);
  return sum;
}

}  // namespace lectern::engine
