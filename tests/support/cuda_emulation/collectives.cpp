// SPDX-License-Identifier: GPL-3.0-or-later
#include "support/cuda_emulation/collectives.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "support/cuda_emulation/warp_state.h"

namespace lectern::engine::cuda::emulation {
namespace {

constexpr unsigned kAll = 0xffffffffU;

// As the PTX manual defines shfl: beyond its group of `width` lanes a lane gets its own number.
int source_of(const Shuffle& shuffle, int lane) {
  if (shuffle.width < 1 || shuffle.width > 32 || (shuffle.width & (shuffle.width - 1)) != 0) {
    fail("A shuffle has the width " + std::to_string(shuffle.width));
  }
  const int first = lane & ~(shuffle.width - 1);
  const int end = first + shuffle.width;
  switch (shuffle.from) {
    case From::kIndex:
      return first + (shuffle.operand & (shuffle.width - 1));
    case From::kBelow:
      return lane - shuffle.operand < first ? lane : lane - shuffle.operand;
    case From::kAbove:
      return lane + shuffle.operand >= end ? lane : lane + shuffle.operand;
    case From::kOther:
      return (lane ^ shuffle.operand) >= end ? lane : lane ^ shuffle.operand;
  }
  return lane;
}

// Operands of one lane.
struct MatrixProduct {
  void* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

// Fragments of m16n8: lane 4 g + t holds rows g and g + 8 of d, columns 2 t and 2 t + 1; of a [16, K] and b [8, K]
// rows g, g + 8 and g, in each register the numbers that start at column (t + 4 r) * kPerRegister.
template <class Number, class Sum, int kPerRegister, int kDepth, class Unpack>
void multiply(Warp& warp, Unpack unpack) {
  constexpr int kRegisters = kDepth / kPerRegister / 4;  // of one row in one lane
  alignas(64) Number a[16][kDepth];
  alignas(64) Number b[kDepth][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const auto& operands = *static_cast<const MatrixProduct*>(warp.operands[lane]);
    const unsigned g = lane / 4;
    for (unsigned r = 0; r < kRegisters; ++r) {
      const unsigned column = (lane % 4 + 4 * r) * kPerRegister;
      for (unsigned i = 0; i < kPerRegister; ++i) {
        a[g][column + i] = unpack(operands.a[2 * r], i);
        a[g + 8][column + i] = unpack(operands.a[2 * r + 1], i);
        b[column + i][g] = unpack(operands.b[r], i);
      }
    }
  }
  for (unsigned row = 0; row < 16; ++row) {
    const auto of_lane = [&](unsigned column) -> Sum& {
      const auto& operands = *static_cast<const MatrixProduct*>(warp.operands[row % 8 * 4 + column / 2]);
      return static_cast<Sum*>(operands.d)[row / 8 * 2 + column % 2];
    };
    alignas(32) Sum sums[8];
    for (unsigned column = 0; column < 8; ++column) sums[column] = of_lane(column);
    for (unsigned k = 0; k < kDepth; ++k) {
      for (unsigned column = 0; column < 8; ++column) sums[column] += a[row][k] * b[k][column];
    }
    for (unsigned column = 0; column < 8; ++column) of_lane(column) = sums[column];
  }
}

void require_full_warp(const char* name, const Warp& warp) {
  if (warp.size != 32) fail(std::string(name) + " in a warp of fewer than 32 threads");
}

struct MatrixLoad {
  std::uint32_t* to;
  const unsigned char* row;
  bool transposed;
};

// Lane 4 g + t gets the numbers 2 t and 2 t + 1 of row g of each matrix, or of column g.
void load_matrices(Warp& warp) {
  require_full_warp("ldmatrix", warp);
  const auto of_lane = [&](unsigned lane) -> MatrixLoad& { return *static_cast<MatrixLoad*>(warp.operands[lane]); };
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (reinterpret_cast<std::uintptr_t>(of_lane(lane).row) % 16 != 0) {
      fail("ldmatrix with a row address that is no multiple of 16");
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    const bool transposed = of_lane(lane).transposed;
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
      std::uint32_t both = 0;
      for (unsigned i = 0; i < 2; ++i) {
        const unsigned row = transposed ? lane % 4 * 2 + i : lane / 4;
        const unsigned column = transposed ? lane / 4 : lane % 4 * 2 + i;
        std::uint16_t number = 0;
        std::memcpy(&number, of_lane(matrix * 8 + row).row + column * 2, sizeof number);
        both |= std::uint32_t{number} << (16 * i);
      }
      of_lane(lane).to[matrix] = both;
    }
  }
}

}  // namespace

std::uint64_t shuffle_bits(const Shuffle& shuffle, unsigned mask, std::uint64_t bits, const Place& place) {
  const int source = source_of(shuffle, static_cast<int>(running_lane.index));
  if (source < 0 || source >= running_lane.warp->size) {
    fail("A shuffle reads lane " + std::to_string(source) + ", which does not exist,");
  }
  return exchange(shuffle.name, mask, bits, place)[source];
}

namespace {

template <class Combine>
float butterfly(float value, const Place& place, const Combine& combine) {
  const std::uint64_t* bits = exchange("__shfl_xor_sync", kAll, std::bit_cast<std::uint32_t>(value), place);
  std::array<float, 32> values;
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bits[i]));
  for (std::size_t half = values.size() / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) values[i] = combine(values[i], values[i + half]);
  }
  return values[0];
}

}  // namespace

float butterfly_sum(float value, const Place& place) {
  return butterfly(value, place, [](float a, float b) { return a + b; });
}

float butterfly_max(float value, const Place& place) {
  return butterfly(value, place, [](float a, float b) { return std::fmax(a, b); });
}

unsigned ballot(const char* name, unsigned mask, bool predicate, const Place& place) {
  const std::uint64_t* votes = exchange(name, mask, predicate ? 1 : 0, place);
  unsigned result = 0;
  for (unsigned lane = 0; lane < static_cast<unsigned>(running_lane.warp->size); ++lane) {
    result |= static_cast<unsigned>(votes[lane]) << lane;
  }
  return result;
}

void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Place& place) {
  MatrixProduct operands = {d, a, b};
  const auto resolve = [](Warp& warp) {
    require_full_warp("mma", warp);
    multiply<float, float, 2, 16>(warp, [](std::uint32_t both, unsigned i) {
      return std::bit_cast<float>(i == 0 ? both << 16 : both & 0xffff0000U);
    });
  };
  meet("mma_bf16", kAll, place, resolve, &operands);
}

void mma_m16n8k32_s8(int (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Place& place) {
  MatrixProduct operands = {d, a, b};
  const auto resolve = [](Warp& warp) {
    require_full_warp("mma", warp);
    multiply<int, int, 4, 32>(
        warp, [](std::uint32_t four, unsigned i) { return int{static_cast<std::int8_t>(four >> (8 * i) & 255U)}; });
  };
  meet("mma_s8", kAll, place, resolve, &operands);
}

void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Place& place) {
  MatrixProduct operands = {d, a, b};
  const auto resolve = [](Warp& warp) {
    require_full_warp("mma", warp);
    multiply<float, float, 1, 8>(
        warp, [](std::uint32_t bits, unsigned /*i*/) { return std::bit_cast<float>(bits & 0xffffe000U); });
  };
  meet("mma_tf32", kAll, place, resolve, &operands);
}

void ldmatrix_x4(std::uint32_t (&to)[4], const void* row, bool transposed, const Place& place) {
  MatrixLoad operands = {to, static_cast<const unsigned char*>(row), transposed};
  meet("ldmatrix", kAll, place, &load_matrices, &operands);
}

int dp4a(std::uint32_t a, std::uint32_t b, int sum) {
  for (unsigned shift = 0; shift < 32; shift += 8) {
    sum += static_cast<std::int8_t>(a >> shift & 255U) * static_cast<std::int8_t>(b >> shift & 255U);
  }
  return sum;
}

}  // namespace lectern::engine::cuda::emulation
