// SPDX-License-Identifier: Apache-2.0
// Included once by each kernels_<instruction set>.cpp, inside its namespace and after it defined `struct Vec`:
// kWidth floats with zero(), load(const float*), load(const bfloat16*), fma(a, b) and sum().

struct BFloat16 {
  std::uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(BFloat16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

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
  const float power = std::bit_cast<float>(exponent);
  return x < -87.0F ? 0.0F : p * power;
}

inline float sigmoid(float x) { return 1.0F / (1.0F + exponential(-x)); }

// A tile of Rows rows of x against Columns rows of w; the K loop keeps every partial sum in a register.
template <int Rows, int Columns, class W>
void multiply_tile(const Product& p, const W* w, std::int64_t row, std::int64_t column) {
  Vec sums[Rows][Columns];
  for (auto& line : sums) {
    for (Vec& sum : line) sum = Vec::zero();
  }
  const float* x = p.x + row * p.depth;
  const W* weights = w + column * p.depth;
  std::int64_t k = 0;
  for (; k + Vec::kWidth <= p.depth; k += Vec::kWidth) {
    Vec columns[Columns];
    for (int c = 0; c < Columns; ++c) columns[c] = Vec::load(weights + c * p.depth + k);
    for (int r = 0; r < Rows; ++r) {
      const Vec values = Vec::load(x + r * p.depth + k);
      for (int c = 0; c < Columns; ++c) sums[r][c].fma(values, columns[c]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      float sum = sums[r][c].sum();
      for (std::int64_t i = k; i < p.depth; ++i) sum += x[r * p.depth + i] * widen(weights[c * p.depth + i]);
      float& y = p.y[(row + r) * p.y_stride + column + c];
      y = p.accumulate ? y + sum : sum;
    }
  }
}

template <int Columns, class W>
void multiply_columns(const Product& p, const W* w, std::int64_t column) {
  std::int64_t row = 0;
  for (; row + 4 <= p.rows; row += 4) multiply_tile<4, Columns>(p, w, row, column);
  for (; row < p.rows; ++row) multiply_tile<1, Columns>(p, w, row, column);
}

template <class W>
void multiply_as(const Product& p, const W* w) {
  std::int64_t column = p.first;
  for (; column + 4 <= p.last; column += 4) multiply_columns<4>(p, w, column);
  for (; column < p.last; ++column) multiply_columns<1>(p, w, column);
}

void multiply(const Product& p) {
  if (p.dtype == DType::kBF16) {
    multiply_as(p, static_cast<const BFloat16*>(p.w));
  } else {
    multiply_as(p, static_cast<const float*>(p.w));
  }
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

void scale(float factor, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] *= factor;
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
  float one[Vec::kWidth];
  for (float& value : one) value = 1.0F;
  const Vec ones = Vec::load(one);
  Vec sums = Vec::zero();
  float total = 0;
  std::int64_t i = 0;
  for (; i + Vec::kWidth <= n; i += Vec::kWidth) sums.fma(Vec::load(x + i), ones);
  for (; i < n; ++i) total += x[i];
  return total + sums.sum();
}

constexpr Kernels make_kernels(std::string_view name) {
  return {name, multiply, dot, add_scaled, scale, silu, silu_multiply, sigmoid_multiply, exponentials};
}
