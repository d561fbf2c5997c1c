// SPDX-License-Identifier: Apache-2.0
#include "cpu/peak_rates.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lectern::engine {
namespace {

constexpr int kChains = 12;  // independent sums, enough to hide the latency of one
constexpr std::int64_t kSteps = 400'000;
constexpr int kPasses = 3;

template <class Action>
double seconds_of(const Action& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Runs `kernel`, which does `operations` operations and gives a number that depends on them, on every thread.
double best_rate(ThreadTeam& team, float (*kernel)(), double operations) {
  constexpr std::int64_t kTasks = 4;  // of each thread, so that a late one does not spoil the measurement
  const std::int64_t tasks = kTasks * team.size();
  std::vector<float> sinks(static_cast<std::size_t>(tasks));
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const double seconds = seconds_of([&] {
      team.parallel_for(tasks, [&](std::int64_t task) { sinks[static_cast<std::size_t>(task)] = kernel(); });
    });
    best = std::max(best, static_cast<double>(tasks) * operations / seconds);
  }
  return sinks.front() == -1 ? 0 : best;
}

float f32_plain() {
  constexpr int kWidth = 4;
  float sums[kChains][kWidth] = {};
  volatile float factor = 0.5F;
  const float x = factor;
  for (std::int64_t i = 0; i < kSteps / 4; ++i) {
    for (auto& sum : sums) {
      for (float& lane : sum) lane = lane * x + x;
    }
  }
  return sums[0][0] + sums[kChains - 1][kWidth - 1];
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma"))) float f32_avx2() {
  __m256 sums[kChains];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  const __m256 x = _mm256_set1_ps(0.5F);
  for (std::int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) sums[j] = _mm256_fmadd_ps(sums[j], x, x);
  }
  for (int j = 1; j < kChains; ++j) sums[0] = _mm256_add_ps(sums[0], sums[j]);
  return _mm256_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f"))) float f32_avx512() {
  __m512 sums[kChains];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512 x = _mm512_set1_ps(0.5F);
  for (std::int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) sums[j] = _mm512_fmadd_ps(sums[j], x, x);
  }
  for (int j = 1; j < kChains; ++j) sums[0] = _mm512_add_ps(sums[0], sums[j]);
  return _mm512_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f,avx512bf16"))) float bf16_avx512() {
  __m512 sums[kChains];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5F), _mm512_set1_ps(0.25F));
  for (std::int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) sums[j] = _mm512_dpbf16_ps(sums[j], x, x);
  }
  for (int j = 1; j < kChains; ++j) sums[0] = _mm512_add_ps(sums[0], sums[j]);
  return _mm512_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f,avx512vnni"))) float int8_avx512() {
  __m512i sums[kChains];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  const __m512i x = _mm512_set1_epi32(0x01010101);
  for (std::int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) sums[j] = _mm512_dpbusd_epi32(sums[j], x, x);
  }
  for (int j = 1; j < kChains; ++j) sums[0] = _mm512_add_epi32(sums[0], sums[j]);
  std::int32_t lanes[16];
  _mm512_storeu_si512(lanes, sums[0]);
  return static_cast<float>(lanes[0]);
}

#endif

double operations_of(int lanes, double per_lane) { return static_cast<double>(kSteps) * kChains * lanes * per_lane; }

}  // namespace

double measure_read_bandwidth(ThreadTeam& team) {
  constexpr std::int64_t kWords = std::int64_t{32} << 20;
  constexpr std::int64_t kSlice = std::int64_t{1} << 18;
  constexpr int kSums = 8;
  const std::vector<std::uint64_t> memory(kWords, 1);
  std::vector<std::uint64_t> sums(kWords / kSlice);
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const double seconds = seconds_of([&] {
      team.parallel_for(kWords / kSlice, [&](std::int64_t slice) {
        std::uint64_t sum[kSums] = {};
        const std::uint64_t* words = memory.data() + slice * kSlice;
        for (std::int64_t i = 0; i < kSlice; i += kSums) {
          for (int j = 0; j < kSums; ++j) sum[j] += words[i + j];
        }
        for (const std::uint64_t part : sum) sums[static_cast<std::size_t>(slice)] += part;
      });
    });
    best = std::max(best, static_cast<double>(kWords) * sizeof(std::uint64_t) / seconds);
  }
  return sums.front() == 0 ? 0 : best;
}

double measure_f32_rate(ThreadTeam& team) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return best_rate(team, f32_avx512, operations_of(16, 2));
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return best_rate(team, f32_avx2, operations_of(8, 2));
  }
#endif
  return best_rate(team, f32_plain, operations_of(4, 2) / 4);
}

double measure_bf16_rate([[maybe_unused]] ThreadTeam& team) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return best_rate(team, bf16_avx512, operations_of(16, 4));
#endif
  return 0;
}

double measure_int8_rate([[maybe_unused]] ThreadTeam& team) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return best_rate(team, int8_avx512, operations_of(16, 8));
#endif
  return 0;
}

}  // namespace lectern::engine
