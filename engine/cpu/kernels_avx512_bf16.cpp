// SPDX-License-Identifier: Apache-2.0
// Products with panels of BF16 or 8-bit codes by the instruction that multiplies pairs of BF16: twice the speed of
// float, for the left factor rounded to BF16, a relative error of 2^-9 in queries and in weights. Codes are exact in
// BF16. Denormal numbers count as zero.
#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels.h"

namespace lectern::engine::cpu::avx512_bf16 {
namespace {

constexpr int kRows = 8;
constexpr std::int64_t kMostPairs = 128;  // of a row that are rounded at a time

template <int Rows>
using Sums = __m512[Rows][2];

__m512bh as_pairs(__m512i bits) { return __builtin_bit_cast(__m512bh, bits); }

// Two neighbouring lines of a panel as pairs, columns 0 to 15 and 16 to 31.
struct Bf16Lines {
  static constexpr std::int64_t kBytes = 128;
  static void load(const std::byte* lines, __m512i& first, __m512i& second) {
    first = _mm512_loadu_si512(lines);
    second = _mm512_loadu_si512(lines + 64);
  }
};

struct ByteTable {
  alignas(64) std::uint8_t bytes[128];
};

// Byte `half` of the BF16 numbers 0 to 127.
constexpr ByteTable bytes_of_numbers(int half) {
  ByteTable table = {};
  for (int i = 0; i < 128; ++i) {
    const auto bits = __builtin_bit_cast(std::uint32_t, static_cast<float>(i));
    table.bytes[i] = static_cast<std::uint8_t>(bits >> (16 + 8 * half));
  }
  return table;
}

// Where the bytes of the pairs stand among 64 low bytes, a line after the other, and 64 high bytes.
constexpr ByteTable places_in_lines() {
  ByteTable table = {};
  for (int i = 0; i < 128; ++i) {
    const int column = i / 4;
    const int line = i / 2 % 2;
    table.bytes[i] = static_cast<std::uint8_t>(64 * (i % 2) + 32 * line + column);
  }
  return table;
}

constexpr ByteTable kLowBytes = bytes_of_numbers(0);
constexpr ByteTable kHighBytes = bytes_of_numbers(1);
constexpr ByteTable kPlaces = places_in_lines();

struct CodeLines {
  static constexpr std::int64_t kBytes = 64;
  static void load(const std::byte* lines, __m512i& first, __m512i& second) {
    const __m512i codes = _mm512_loadu_si512(lines);
    const __m512i magnitude = _mm512_abs_epi8(codes);
    const __m512i low = look_up(kLowBytes, magnitude);
    const __m512i sign = _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(0x80)));
    const __m512i high = _mm512_or_si512(look_up(kHighBytes, magnitude), sign);
    first = _mm512_permutex2var_epi8(low, _mm512_load_si512(kPlaces.bytes), high);
    second = _mm512_permutex2var_epi8(low, _mm512_load_si512(kPlaces.bytes + 64), high);
  }
  static __m512i look_up(const ByteTable& table, __m512i index) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table.bytes), index, _mm512_load_si512(table.bytes + 64));
  }
};

// Pairs of neighbours, each number times its scale if there are any, rounded to nearest even; an odd number at the end
// gets zero for company.
void round_row(const float* a, const float* scales, std::int64_t count, std::uint32_t* pairs) {
  for (std::int64_t k = 0; k < count; k += 32, pairs += 16) {
    const std::int64_t rest = count - k;
    const auto low = static_cast<__mmask16>(rest >= 16 ? 0xFFFF : (1U << rest) - 1);
    const auto high = static_cast<__mmask16>(rest >= 32 ? 0xFFFF : rest <= 16 ? 0 : (1U << (rest - 16)) - 1);
    __m512 first = _mm512_maskz_loadu_ps(low, a + k);
    __m512 second = _mm512_maskz_loadu_ps(high, a + k + 16);
    if (scales != nullptr) {
      first = _mm512_mul_ps(first, _mm512_maskz_loadu_ps(low, scales + k));
      second = _mm512_mul_ps(second, _mm512_maskz_loadu_ps(high, scales + k + 16));
    }
    _mm512_storeu_si512(pairs, __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(second, first)));
  }
}

template <int Rows>
void add_pair(const std::uint32_t* pairs, __m512i first, __m512i second, Sums<Rows>& sums) {
  for (int r = 0; r < Rows; ++r) {
    const __m512bh factor = as_pairs(_mm512_set1_epi32(static_cast<int>(pairs[r * kMostPairs])));
    sums[r][0] = _mm512_dpbf16_ps(sums[r][0], factor, as_pairs(first));
    sums[r][1] = _mm512_dpbf16_ps(sums[r][1], factor, as_pairs(second));
  }
}

void fetch(const std::byte* from, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T1);
}

// `depth` lines; `ahead` is fetched meanwhile.
template <int Rows, class Lines>
void add_lines(const std::uint32_t* pairs, std::int64_t depth, const std::byte* lines, const std::byte* ahead,
               Sums<Rows>& sums) {
  __m512i first;
  __m512i second;
  for (std::int64_t k = 0; k < depth / 2; ++k, lines += Lines::kBytes, ahead += Lines::kBytes) {
    fetch(ahead, Lines::kBytes);
    Lines::load(lines, first, second);
    add_pair<Rows>(pairs + k, first, second, sums);
  }
  if (depth % 2 == 0) return;
  const __m512i even = _mm512_set1_epi32(0xFFFF);  // the other line of the pair may hold anything
  Lines::load(lines, first, second);
  add_pair<Rows>(pairs + depth / 2, _mm512_and_si512(first, even), _mm512_and_si512(second, even), sums);
}

template <int Rows>
void clear(Sums<Rows>& sums) {
  for (auto& row : sums) row[0] = row[1] = _mm512_setzero_ps();
}

// y (+)= sums, or with scales for the columns y (+)= sums * scale.
template <int Rows>
void give(const Sums<Rows>& sums, const float* scales, bool accumulate, float* y, std::int64_t stride) {
  for (int v = 0; v < 2; ++v) {
    const __m512 scale = scales == nullptr ? _mm512_set1_ps(1.0F) : _mm512_loadu_ps(scales + v * 16);
    for (int r = 0; r < Rows; ++r) {
      float* to = y + r * stride + v * 16;
      const __m512 before = accumulate ? _mm512_loadu_ps(to) : _mm512_setzero_ps();
      _mm512_storeu_ps(to, _mm512_fmadd_ps(sums[r][v], scale, before));
    }
  }
}

// Rows of `a` against every panel. Each panel keeps its own sum in y while the depth is worked off in parts.
template <int Rows>
struct RowsOfProduct {
  const PanelProduct& p;
  const float* a;
  float* y;
  const std::byte* next;

  void round(std::int64_t k, std::int64_t depth, const float* scales, std::uint32_t* pairs) const {
    for (int r = 0; r < Rows; ++r) round_row(a + r * p.a_stride + k, scales, depth, pairs + r * kMostPairs);
  }

  void add_numbers() const {
    std::uint32_t pairs[Rows * kMostPairs];
    for (std::int64_t k = 0; k < p.depth; k += 2 * kMostPairs) {
      const std::int64_t depth = p.depth - k < 2 * kMostPairs ? p.depth - k : 2 * kMostPairs;
      round(k, depth, nullptr, pairs);
      for (std::int64_t i = 0; i < p.panels; ++i) {
        const std::int64_t at = i * p.panel_bytes + k * 2 * kPanelColumns;
        Sums<Rows> sums;
        clear<Rows>(sums);
        add_lines<Rows, Bf16Lines>(pairs, depth, p.b + at, next + at, sums);
        give<Rows>(sums, nullptr, p.accumulate || k > 0, y + i * kPanelColumns, p.y_stride);
      }
    }
  }

  void add_codes_scaled_by_column() const {
    std::uint32_t pairs[Rows * kMostPairs];
    for (std::int64_t k = 0; k < p.depth; k += kScaleNumbers) {
      round(k, kScaleNumbers, nullptr, pairs);
      for (std::int64_t i = 0; i < p.panels; ++i) {
        const std::int64_t at = i * p.panel_bytes + k * kPanelColumns;
        const std::int64_t scales_at = i * p.panel_bytes + p.scales_offset + 4 * k / kScaleNumbers * kPanelColumns;
        fetch(next + scales_at, 4 * kPanelColumns);
        Sums<Rows> sums;
        clear<Rows>(sums);
        add_lines<Rows, CodeLines>(pairs, kScaleNumbers, p.b + at, next + at, sums);
        give<Rows>(sums, reinterpret_cast<const float*>(p.b + scales_at), p.accumulate || k > 0, y + i * kPanelColumns,
                   p.y_stride);
      }
    }
  }

  void add_codes_scaled_by_line() const {
    std::uint32_t pairs[Rows * kMostPairs];
    for (std::int64_t i = 0; i < p.panels; ++i) {
      const std::byte* panel = p.b + i * p.panel_bytes;
      fetch(next + i * p.panel_bytes + p.scales_offset, 4 * p.depth);
      round(0, p.depth, reinterpret_cast<const float*>(panel + p.scales_offset), pairs);
      Sums<Rows> sums;
      clear<Rows>(sums);
      add_lines<Rows, CodeLines>(pairs, p.depth, panel, next + i * p.panel_bytes, sums);
      give<Rows>(sums, nullptr, p.accumulate, y + i * kPanelColumns, p.y_stride);
    }
  }

  void add() const {
    if (p.format == PanelFormat::kBF16) return add_numbers();
    if (p.format == PanelFormat::kQ8ByColumn) return add_codes_scaled_by_column();
    add_codes_scaled_by_line();
  }
};

// The rows from `row` on, as many at a time as the registers hold, then by halves.
template <int Rows>
void multiply_from(const PanelProduct& p, std::int64_t row, const std::byte* next) {
  for (; row + Rows <= p.rows; row += Rows, next = p.b) {
    RowsOfProduct<Rows>{p, p.a + row * p.a_stride, p.y + row * p.y_stride, next}.add();
  }
  if constexpr (Rows > 1) {
    if (row < p.rows) multiply_from<Rows / 2>(p, row, next);
  }
}

}  // namespace

void multiply_panels(const PanelProduct& p) {
  if (p.format == PanelFormat::kF32) return avx512::kKernels.multiply_panels(p);
  multiply_from<kRows>(p, 0, p.next == nullptr ? p.b : p.next);
}

}  // namespace lectern::engine::cpu::avx512_bf16
