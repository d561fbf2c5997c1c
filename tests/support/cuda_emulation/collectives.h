// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "support/cuda_emulation/language.h"

// What the threads of a warp or a block do together. All threads must meet at the same call of the source.
namespace lectern::engine::cuda::emulation {

using Place = std::source_location;

// From which lane a lane gets its number: that of an index, one above or below, or one with other bits in its index.
enum class From : std::uint8_t { kIndex, kAbove, kBelow, kOther };
struct Shuffle {
  const char* name;
  From from;
  int operand;
  int width;
};
std::uint64_t shuffle_bits(const Shuffle& shuffle, unsigned mask, std::uint64_t bits, const Place& place);
// The outcome of five __shfl_xor_sync() with 16, 8, 4, 2 and 1, each followed by an addition or a maximum, for one
// meeting of the warp instead of five.
float butterfly_sum(float value, const Place& place = Place::current());
float butterfly_max(float value, const Place& place = Place::current());
unsigned ballot(const char* name, unsigned mask, bool predicate, const Place& place);

struct BarrierCounts {
  int threads = 0;
  int nonzero = 0;  // threads whose argument was not zero
};
BarrierCounts barrier(const char* name, int argument, const Place& place);

template <class T>
T shuffle_value(const Shuffle& shuffle, unsigned mask, T value, const Place& place) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA shuffles 4 and 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle_bits(shuffle, mask, bits, place);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// --- as in mma.h ----------------------------------------------------------------------------------------------------
void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                       const Place& place = Place::current());
void mma_m16n8k32_s8(int (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     const Place& place = Place::current());
// Takes the upper 19 bits of its inputs as they are.
void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                      const Place& place = Place::current());
void ldmatrix_x4(std::uint32_t (&to)[4], const void* row, bool transposed, const Place& place = Place::current());
int dp4a(std::uint32_t a, std::uint32_t b, int sum);

// A copy takes place when a wait covers its group; until then its destination holds 0xff.
void cp_async_16(void* to_shared, const void* from_global, bool valid);
void cp_async_commit();
void cp_async_wait(int pending);

// Of the running block.
unsigned char* dynamic_shared_memory();

}  // namespace lectern::engine::cuda::emulation

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): CUDA's own names
#define LECTERN_HERE const std::source_location& place = std::source_location::current()

inline void __syncthreads(LECTERN_HERE) { lectern::engine::cuda::emulation::barrier("__syncthreads", 0, place); }
inline int __syncthreads_or(int predicate, LECTERN_HERE) {
  return lectern::engine::cuda::emulation::barrier("__syncthreads_or", predicate, place).nonzero > 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, LECTERN_HERE) {
  const auto counts = lectern::engine::cuda::emulation::barrier("__syncthreads_and", predicate, place);
  return counts.nonzero == counts.threads ? 1 : 0;
}
inline int __syncthreads_count(int predicate, LECTERN_HERE) {
  return lectern::engine::cuda::emulation::barrier("__syncthreads_count", predicate, place).nonzero;
}

inline void __syncwarp(unsigned mask = 0xffffffffU, LECTERN_HERE) {
  lectern::engine::cuda::emulation::ballot("__syncwarp", mask, false, place);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, LECTERN_HERE) {
  using namespace lectern::engine::cuda::emulation;
  return shuffle_value({"__shfl_sync", From::kIndex, lane, width}, mask, value, place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, LECTERN_HERE) {
  using namespace lectern::engine::cuda::emulation;
  return shuffle_value({"__shfl_up_sync", From::kBelow, static_cast<int>(delta), width}, mask, value, place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, LECTERN_HERE) {
  using namespace lectern::engine::cuda::emulation;
  return shuffle_value({"__shfl_down_sync", From::kAbove, static_cast<int>(delta), width}, mask, value, place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, LECTERN_HERE) {
  using namespace lectern::engine::cuda::emulation;
  return shuffle_value({"__shfl_xor_sync", From::kOther, lane_mask, width}, mask, value, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, LECTERN_HERE) {
  return lectern::engine::cuda::emulation::ballot("__ballot_sync", mask, predicate != 0, place);
}
inline int __any_sync(unsigned mask, int predicate, LECTERN_HERE) {
  return lectern::engine::cuda::emulation::ballot("__any_sync", mask, predicate != 0, place) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, LECTERN_HERE) {
  return lectern::engine::cuda::emulation::ballot("__all_sync", mask, predicate == 0, place) == 0 ? 1 : 0;
}
inline int __dp4a(int a, int b, int sum) {
  return lectern::engine::cuda::emulation::dp4a(static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b), sum);
}
#undef LECTERN_HERE
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
