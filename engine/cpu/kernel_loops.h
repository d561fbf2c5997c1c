// SPDX-License-Identifier: Apache-2.0
// Included once by each kernels_<instruction set>.cpp, inside an unnamed namespace and after it defined `struct Vec`:
// kWidth numbers with zero(), broadcast(float), load(const float*), load(const BFloat16*), load(const Half*),
// load(const std::int8_t*), load_pairs(const BFloat16*, even, odd), store(float*), fma(a, b), max(a, b) and sum(), and
// the register budget kTileRows, kTileColumns (products), kTileVectors (combinations), kPanelRows and kPanelVectors
// (panels). Nothing here may call a function template of the standard library: the linker could give its copy, compiled
// for this instruction set, to code that runs everywhere.

struct BFloat16 {
  std::uint16_t bits;
};

struct Half {
  std::uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(std::int8_t value) { return value; }
inline float widen(BFloat16 value) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(value.bits) << 16); }
// The exponent is corrected by a multiplication, which also normalises what a half holds as subnormal.
inline float widen(Half value) {
  const std::uint32_t magnitude = value.bits & 0x7FFFU;
  const float finite = __builtin_bit_cast(float, magnitude << 13) * 0x1p112F;
  const std::uint32_t bits =
      magnitude >= 0x7C00U ? 0x7F800000U | magnitude << 13 : __builtin_bit_cast(std::uint32_t, finite);
  return __builtin_bit_cast(float, bits | (value.bits & 0x8000U) << 16);
}

// exp(x) for x <= 88, relative error below 2e-7: 2^n p(r), with r in [-ln 2 / 2, ln 2 / 2] and p Taylor's polynomial
// of degree 7. Written without branches so that loops over it are vectorised.
inline float exponential(float x) {
  const float clamped = x < -87.0F ? -87.0F : x > 88.0F ? 88.0F : x;
  const float rounded = clamped * 1.44269504F + 12582912.0F;  // 1.5 * 2^23: rounds to an integer in the low bits
  const float n = rounded - 12582912.0F;
  const float r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto exponent = static_cast<std::uint32_t>(static_cast<std::int32_t>(n) + 127) << 23;
  const float power = __builtin_bit_cast(float, exponent);
  return x < -87.0F ? 0.0F : p * power;
}

inline float sigmoid(float x) { return 1.0F / (1.0F + exponential(-x)); }

// A tile of Rows rows of x against Columns rows of w; the loop keeps every partial sum in a register.
template <int Rows, int Columns, class W>
void multiply_tile(const Product& p, const W* w, std::int64_t row, std::int64_t column) {
  Vec sums[Rows][Columns];
  for (auto& line : sums) {
    for (Vec& sum : line) sum = Vec::zero();
  }
  const float* x[Rows];
  for (int r = 0; r < Rows; ++r) x[r] = p.x_rows != nullptr ? p.x_rows[row + r] : p.x + (row + r) * p.x_stride;
  const W* weights = w + column * p.w_stride;
  std::int64_t k = 0;
  for (; k + Vec::kWidth <= p.depth; k += Vec::kWidth) {
    Vec columns[Columns];
    for (int c = 0; c < Columns; ++c) columns[c] = Vec::load(weights + c * p.w_stride + k);
    for (int r = 0; r < Rows; ++r) {
      const Vec values = Vec::load(x[r] + k);
      for (int c = 0; c < Columns; ++c) sums[r][c].fma(values, columns[c]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      float sum = sums[r][c].sum();
      for (std::int64_t i = k; i < p.depth; ++i) sum += x[r][i] * widen(weights[c * p.w_stride + i]);
      float& y = p.y[(row + r) * p.y_stride + column + c];
      y = p.accumulate ? y + sum : sum;
    }
  }
}

// The last rows, fewer than kTileRows, as one tile: w is read once for all of them.
template <int Rows, int Columns, class W>
void multiply_rest(const Product& p, const W* w, std::int64_t row, std::int64_t column) {
  if constexpr (Rows > 0) {
    if (p.rows - row == Rows) {
      multiply_tile<Rows, Columns>(p, w, row, column);
    } else {
      multiply_rest<Rows - 1, Columns>(p, w, row, column);
    }
  }
}

template <int Columns, class W>
void multiply_columns(const Product& p, const W* w, std::int64_t column) {
  std::int64_t row = 0;
  for (; row + kTileRows <= p.rows; row += kTileRows) multiply_tile<kTileRows, Columns>(p, w, row, column);
  multiply_rest<kTileRows - 1, Columns>(p, w, row, column);
}

template <class W>
void multiply_as(const Product& p, const W* w) {
  std::int64_t column = p.first;
  for (; column + kTileColumns <= p.last; column += kTileColumns) multiply_columns<kTileColumns>(p, w, column);
  for (; column < p.last; ++column) multiply_columns<1>(p, w, column);
}

void multiply(const Product& p) {
  if (p.dtype == DType::kBF16) {
    multiply_as(p, static_cast<const BFloat16*>(p.w));
  } else if (p.dtype == DType::kF16) {
    multiply_as(p, static_cast<const Half*>(p.w));
  } else {
    multiply_as(p, static_cast<const float*>(p.w));
  }
}

template <int Rows, int Vectors>
void combine_tile(const Combination& p, std::int64_t row, std::int64_t column) {
  const float* a = p.a + row * p.a_stride;
  const float* b = p.b + column;
  float* y = p.y + row * p.y_stride + column;
  Vec sums[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Vectors; ++c) sums[r][c] = Vec::load(y + r * p.y_stride + c * Vec::kWidth);
  }
  for (std::int64_t k = 0; k < p.depth; ++k) {
    Vec values[Vectors];
    for (int c = 0; c < Vectors; ++c) values[c] = Vec::load(b + k * p.b_stride + c * Vec::kWidth);
    for (int r = 0; r < Rows; ++r) {
      const Vec factor = Vec::broadcast(a[r * p.a_stride + k]);
      for (int c = 0; c < Vectors; ++c) sums[r][c].fma(factor, values[c]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Vectors; ++c) sums[r][c].store(y + r * p.y_stride + c * Vec::kWidth);
  }
}

template <int Rows>
void combine_rows(const Combination& p, std::int64_t row) {
  std::int64_t column = 0;
  for (; column + kTileVectors * Vec::kWidth <= p.columns; column += kTileVectors * Vec::kWidth) {
    combine_tile<Rows, kTileVectors>(p, row, column);
  }
  for (; column + Vec::kWidth <= p.columns; column += Vec::kWidth) combine_tile<Rows, 1>(p, row, column);
  for (; column < p.columns; ++column) {
    for (std::int64_t r = row; r < row + Rows; ++r) {
      float sum = p.y[r * p.y_stride + column];
      for (std::int64_t k = 0; k < p.depth; ++k) sum += p.a[r * p.a_stride + k] * p.b[k * p.b_stride + column];
      p.y[r * p.y_stride + column] = sum;
    }
  }
}

void combine(const Combination& p) {
  std::int64_t row = 0;
  for (; row + 4 <= p.rows; row += 4) combine_rows<4>(p, row);
  for (; row + 2 <= p.rows; row += 2) combine_rows<2>(p, row);
  for (; row < p.rows; ++row) combine_rows<1>(p, row);
}

float dot(const float* a, const float* b, std::int64_t n) {
  Vec sum = Vec::zero();
  std::int64_t i = 0;
  for (; i + Vec::kWidth <= n; i += Vec::kWidth) sum.fma(Vec::load(a + i), Vec::load(b + i));
  float total = sum.sum();
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

void add_scaled(float factor, const float* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

void blend(float keep, float factor, const float* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = keep * y[i] + factor * x[i];
}

void scale(float factor, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] *= factor;
}

void norm(float factor, const float* x, const float* gain, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * factor * gain[i];
}

void add_product(const float* x, const float* w, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] += x[i] * w[i];
}

void silu(float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= sigmoid(x[i]);
}

void silu_multiply(const float* gate, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] *= gate[i] * sigmoid(gate[i]);
}

void sigmoid_multiply(const float* gate, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] *= sigmoid(gate[i]);
}

float exponentials(float largest, float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = exponential(x[i] - largest);
  const Vec ones = Vec::broadcast(1.0F);
  Vec sums = Vec::zero();
  float total = 0;
  std::int64_t i = 0;
  for (; i + Vec::kWidth <= n; i += Vec::kWidth) sums.fma(Vec::load(x + i), ones);
  for (; i < n; ++i) total += x[i];
  return total + sums.sum();
}

#include "cpu/panel_loops.h"

#include "cpu/block_codes.h"

#include "cpu/stored_loops.h"

constexpr Kernels make_kernels(std::string_view name) {
  return {name,          multiply,
          combine,       dot,
          add_scaled,    blend,
          scale,         norm,
          add_product,   silu,
          silu_multiply, sigmoid_multiply,
          exponentials,  multiply_panels,
          largest,       multiply_floats,
          always_float,  convert_to_float};
}
