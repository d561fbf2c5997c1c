// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "support/cuda_emulation/collectives.h"

// A warp while its block runs, for the collectives.
namespace lectern::engine::cuda::emulation {

struct Warp;

// What the collectives know of a thread.
struct Lane {
  Warp* warp = nullptr;
  unsigned index = 0;
};
extern constinit thread_local Lane running_lane;

struct Fiber;

struct Warp {
  std::array<Fiber*, 32> lanes = {};
  std::array<Fiber*, 32> by_position = {};  // in the order of their turns
  int size = 0;
  std::uint32_t ready = 0;  // positions

  // The collective they meet at.
  int arrived = 0;
  const char* name = nullptr;
  Place place;
  unsigned generation = 0;
  std::array<void*, 32> operands = {};
  std::array<std::array<std::uint64_t, 32>, 2> numbers = {};

  int ended = 0;

  std::uint32_t everyone() const { return static_cast<std::uint32_t>((std::uint64_t{1} << size) - 1); }
};

// The numbers of all lanes; valid until the lane's next collective.
const std::uint64_t* exchange(const char* name, unsigned mask, std::uint64_t number, const Place& place);

// Waits for all lanes; the last one to come calls `resolve` for all of them.
Warp& meet(const char* name, unsigned mask, const Place& place, void (*resolve)(Warp&), void* operands);

[[noreturn]] void fail(const std::string& message);

}  // namespace lectern::engine::cuda::emulation
