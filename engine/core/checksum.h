// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace lectern::engine {

// A 64-bit checksum against accidents (not against forgery), at memory speed: four lanes take 8 bytes each in turn,
//   lane = rotl((lane ^ word) * K_lane, 29)   with odd K_lane, lanes starting from the seed and the number of bytes,
// a zero-padded tail counts as one more stripe, and the lanes are folded with the same kind of step. Every step is a
// bijection of the word it takes, so damage within 8 aligned bytes is always noticed, any other with probability
// 1 - 2^-64. Part of file formats: never change it.
std::uint64_t checksum(std::span<const std::byte> bytes, std::uint64_t seed = 0);

// Extends a checksum by one number: a chain whose every prefix has its own value.
constexpr std::uint64_t chain(std::uint64_t sum, std::uint64_t number) {
  sum = (sum ^ number) * 0x9E3779B97F4A7C15U;
  return sum ^ sum >> 32U;
}

}  // namespace lectern::engine
