// SPDX-License-Identifier: Apache-2.0
// Part of kernel_loops.h, under its rules: products with keys and values as a cache holds them. The budget of registers
// is kPanelRows x kPanelVectors sums, a vector or two of the panel for each of the latter, and one number of `a`.

template <int Rows>
using PanelSums = Vec[Rows][kPanelVectors];

// `ahead` is what to fetch in the meantime, at the same distance from `b` all the time.
template <int Rows, class B>
void add_lines(const float* a, std::int64_t stride, std::int64_t depth, const B* b, const B* ahead,
               PanelSums<Rows>& sums) {
  for (std::int64_t k = 0; k < depth; ++k, b += kPanelColumns, ahead += kPanelColumns) {
    Vec line[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v) {
      line[v] = Vec::load(b + v * Vec::kWidth);
      __builtin_prefetch(ahead + v * Vec::kWidth, 0, 2);
    }
    for (int r = 0; r < Rows; ++r) {
      const Vec factor = Vec::broadcast(a[r * stride + k]);
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v].fma(factor, line[v]);
    }
  }
}

template <int Rows>
void add_line_pairs(const float* a, std::int64_t stride, std::int64_t depth, const BFloat16* b, const BFloat16* ahead,
                    PanelSums<Rows>& sums) {
  std::int64_t k = 0;
  for (; k + 2 <= depth; k += 2, b += 2 * kPanelColumns, ahead += 2 * kPanelColumns) {
    Vec even[kPanelVectors];
    Vec odd[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v) {
      Vec::load_pairs(b + 2 * v * Vec::kWidth, even[v], odd[v]);
      __builtin_prefetch(ahead + 2 * v * Vec::kWidth, 0, 2);
    }
    for (int r = 0; r < Rows; ++r) {
      const Vec factor = Vec::broadcast(a[r * stride + k]);
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v].fma(factor, even[v]);
    }
    for (int r = 0; r < Rows; ++r) {
      const Vec factor = Vec::broadcast(a[r * stride + k + 1]);
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v].fma(factor, odd[v]);
    }
  }
  if (k == depth) return;
  for (int v = 0; v < kPanelVectors; ++v) {
    Vec even;
    Vec odd;
    Vec::load_pairs(b + 2 * v * Vec::kWidth, even, odd);
    for (int r = 0; r < Rows; ++r) sums[r][v].fma(Vec::broadcast(a[r * stride + k]), even);
  }
}

template <int Rows>
void load_sums(const PanelProduct& p, const float* y, PanelSums<Rows>& sums) {
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < kPanelVectors; ++v) {
      sums[r][v] = p.accumulate ? Vec::load(y + r * p.y_stride + v * Vec::kWidth) : Vec::zero();
    }
  }
}

template <int Rows>
void store_sums(const PanelProduct& p, const PanelSums<Rows>& sums, float* y) {
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < kPanelVectors; ++v) sums[r][v].store(y + r * p.y_stride + v * Vec::kWidth);
  }
}

// Some columns of a panel, from `column` on, for `Rows` rows of a and y. `ahead` as `panel`, elsewhere.
template <int Rows>
struct PanelTile {
  const PanelProduct& p;
  const float* a;
  const std::byte* panel;
  const std::byte* ahead;
  std::int64_t column;
  float* y;

  template <class B>
  static const B* at(const std::byte* memory, std::int64_t index) {
    return reinterpret_cast<const B*>(memory) + index;
  }

  void add_floats() const {
    PanelSums<Rows> sums;
    load_sums<Rows>(p, y, sums);
    add_lines<Rows>(a, p.a_stride, p.depth, at<float>(panel, column), at<float>(ahead, column), sums);
    store_sums<Rows>(p, sums, y);
  }

  void add_pairs() const {
    PanelSums<Rows> sums;
    load_sums<Rows>(p, y, sums);
    add_line_pairs<Rows>(a, p.a_stride, p.depth, at<BFloat16>(panel, 2 * column), at<BFloat16>(ahead, 2 * column),
                         sums);
    store_sums<Rows>(p, sums, y);
  }

  void add_codes_scaled_by_column() const {
    PanelSums<Rows> totals;
    load_sums<Rows>(p, y, totals);
    store_sums<Rows>(p, totals, y);
    const float* scales = at<float>(panel + p.scales_offset, column);
    const float* scales_ahead = at<float>(ahead + p.scales_offset, column);
    for (std::int64_t k = 0; k < p.depth; k += kScaleNumbers, scales += kPanelColumns, scales_ahead += kPanelColumns) {
      __builtin_prefetch(scales_ahead, 0, 2);
      PanelSums<Rows> sums;
      for (auto& line : sums) {
        for (Vec& sum : line) sum = Vec::zero();
      }
      const std::int64_t first = k * kPanelColumns + column;
      add_lines<Rows>(a + k, p.a_stride, kScaleNumbers, at<std::int8_t>(panel, first), at<std::int8_t>(ahead, first),
                      sums);
      for (int v = 0; v < kPanelVectors; ++v) {
        const Vec scale = Vec::load(scales + v * Vec::kWidth);
        for (int r = 0; r < Rows; ++r) {
          float* to = y + r * p.y_stride + v * Vec::kWidth;
          Vec total = Vec::load(to);
          total.fma(scale, sums[r][v]);
          total.store(to);
        }
      }
    }
  }

  // A scale belongs to a line: the factors take it.
  void add_codes_scaled_by_line() const {
    float scaled[Rows * kPanelLines];
    const float* scales = at<float>(panel + p.scales_offset, 0);
    for (std::int64_t k = 0; k < p.depth; k += 16) __builtin_prefetch(at<float>(ahead + p.scales_offset, k), 0, 2);
    for (int r = 0; r < Rows; ++r) {
      for (std::int64_t k = 0; k < p.depth; ++k) scaled[r * kPanelLines + k] = a[r * p.a_stride + k] * scales[k];
    }
    PanelSums<Rows> sums;
    load_sums<Rows>(p, y, sums);
    add_lines<Rows>(scaled, kPanelLines, p.depth, at<std::int8_t>(panel, column), at<std::int8_t>(ahead, column), sums);
    store_sums<Rows>(p, sums, y);
  }
};

template <int Rows>
void multiply_panel_rows(const PanelProduct& p, const std::byte* panel, const std::byte* ahead, std::int64_t row,
                         float* y) {
  for (std::int64_t column = 0; column < kPanelColumns; column += kPanelVectors * Vec::kWidth) {
    const PanelTile<Rows> tile = {p, p.a + row * p.a_stride, panel, ahead, column, y + row * p.y_stride + column};
    switch (p.format) {
      case PanelFormat::kF32:
        tile.add_floats();
        break;
      case PanelFormat::kBF16:
        tile.add_pairs();
        break;
      case PanelFormat::kQ8ByColumn:
        tile.add_codes_scaled_by_column();
        break;
      case PanelFormat::kQ8ByLine:
        tile.add_codes_scaled_by_line();
        break;
    }
  }
}

// The rows from `row` on, as many at a time as the registers hold, then by halves.
template <int Rows>
void multiply_panel(const PanelProduct& p, const std::byte* panel, const std::byte* ahead, std::int64_t row, float* y) {
  for (; row + Rows <= p.rows; row += Rows) {
    multiply_panel_rows<Rows>(p, panel, ahead, row, y);
    ahead = panel;
  }
  if constexpr (Rows > 1) {
    if (row < p.rows) multiply_panel<Rows / 2>(p, panel, ahead, row, y);
  }
}

void multiply_panels(const PanelProduct& p) {
  for (std::int64_t i = 0; i < p.panels; ++i) {
    const std::byte* panel = p.b + i * p.panel_bytes;
    const std::byte* ahead = p.next == nullptr ? panel : p.next + i * p.panel_bytes;
    multiply_panel<kPanelRows>(p, panel, ahead, 0, p.y + i * kPanelColumns);
  }
}

float largest(const float* x, std::int64_t n) {
  float best = x[0];
  std::int64_t i = 0;
  if (n >= Vec::kWidth) {
    Vec most = Vec::load(x);
    for (i = Vec::kWidth; i + Vec::kWidth <= n; i += Vec::kWidth) most = Vec::max(Vec::load(x + i), most);
    float lanes[Vec::kWidth];
    most.store(lanes);
    for (int half = Vec::kWidth / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane)
        lanes[lane] = lanes[lane] > lanes[lane + half] ? lanes[lane] : lanes[lane + half];
    }
    best = lanes[0];
  }
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}
