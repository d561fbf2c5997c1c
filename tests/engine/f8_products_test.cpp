// SPDX-License-Identifier: GPL-3.0-or-later
// Products with weights in F8 E4M3 on every set of kernels: each code, codes that are no numbers, the edges of tiles of
// scales, and parts of a matrix.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/formed_rows.h"
#include "cpu/kernels.h"
#include "ops/backend.h"
#include "quant/formats.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kRowCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 20};

struct F8Matrix {
  F8Matrix(std::int64_t rows, std::int64_t cols)
      : codes(static_cast<std::size_t>(rows * cols)),
        scales(static_cast<std::size_t>((rows + 127) / 128 * ((cols + 127) / 128)), 1.0F),
        host{DType::kF8E4M3, codes.data(), rows, cols, scales.data()} {}

  std::uint8_t& at(std::int64_t row, std::int64_t col) {
    return codes[static_cast<std::size_t>(row * host.cols + col)];
  }

  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
  HostMatrix host;
};

// Codes and activations at random, scales that differ by more than the codes.
struct RandomProduct {
  RandomProduct(std::int64_t rows, std::int64_t cols, std::int64_t x_rows)
      : w(rows, cols), x(static_cast<std::size_t>(x_rows * cols)) {
    std::mt19937 random(5);
    for (std::uint8_t& code : w.codes) {
      do code = static_cast<std::uint8_t>(random());
      while ((code & 0x7FU) == 0x7FU);
    }
    for (std::size_t i = 0; i < w.scales.size(); ++i)
      w.scales[i] = std::exp2(static_cast<float>(i % 7) * 3 - 20) * 1.3F;
    std::uniform_real_distribution<float> uniform(-2, 2);
    for (float& value : x) value = uniform(random);
  }

  F8Matrix w;
  std::vector<float> x;
};

// Columns [first, last) of the product, in front of which and behind which nothing is written.
std::vector<float> product(const Kernels& kernels, const HostMatrix& w, const float* x, std::int64_t rows,
                           std::int64_t first, std::int64_t last, const std::vector<float>& before = {}) {
  FormedRows formed;
  formed.reset(kernels.form_for(w.dtype, rows), rows, w.cols);
  for (std::int64_t t = 0; t < rows; ++t) formed.set(kernels, t, x + t * w.cols, w.cols);
  constexpr std::int64_t kGuards = 5;
  constexpr float kGuard = 777;
  const std::int64_t stride = last - first + kGuards;
  std::vector<float> all(static_cast<std::size_t>(rows * stride), kGuard);
  std::vector<float> y(before);
  y.resize(static_cast<std::size_t>(rows * (last - first)));
  const auto line = [&](std::vector<float>& of, std::int64_t t, std::int64_t width) { return of.begin() + t * width; };
  for (std::int64_t t = 0; t < rows; ++t) std::copy_n(line(y, t, last - first), last - first, line(all, t, stride));
  kernels.multiply_stored(
      {formed.rows(0), formed.form(), rows, &w, first, last, all.data(), stride, !before.empty(), nullptr});
  for (std::int64_t t = 0; t < rows; ++t) {
    std::copy_n(line(all, t, stride), last - first, line(y, t, last - first));
    for (std::int64_t i = 0; i < kGuards; ++i) EXPECT_EQ(*(line(all, t, stride) + last - first + i), kGuard);
  }
  return y;
}

std::vector<std::string> names_of_kernels() {
  std::vector<std::string> names;
  for (const Kernels* kernels : usable_kernels()) names.emplace_back(kernels->name);
  return names;
}

class F8Products : public testing::TestWithParam<std::string> {
 protected:
  static const Kernels& kernels() {
    const auto all = usable_kernels();
    return **std::find_if(all.begin(), all.end(), [](const Kernels* one) { return one->name == GetParam(); });
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, F8Products, testing::ValuesIn(names_of_kernels()),
                         [](const auto& test) { return test.param; });

// One code in a row of zeros, some of them negative: subnormal or not, it counts as what it is, wherever it stands.
TEST_P(F8Products, EveryCodeIsExact) {
  constexpr std::int64_t kCols = 215;
  for (const std::int64_t place : {0, 15, 16, 47, 63, 64, 127, 128, 191, 192, 207, 208, 214}) {
    F8Matrix w(256, kCols);
    for (std::int64_t code = 0; code < 256; ++code) {
      for (std::int64_t k = 1; k < kCols; k += 2) w.at(code, k) = 0x80;
      w.at(code, place) = static_cast<std::uint8_t>((code & 0x7F) == 0x7F ? 0 : code);
    }
    std::fill(w.scales.begin(), w.scales.end(), 0x1p-9F);
    for (const std::int64_t rows : kRowCounts) {
      const std::vector<float> x(static_cast<std::size_t>(rows * kCols), 4.0F);
      const std::vector<float> y = product(kernels(), w.host, x.data(), rows, 0, 256);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const float expected = 0x1p-7F * f8_e4m3_to_float(w.at(static_cast<std::int64_t>(i % 256), place));
        ASSERT_EQ(y[i], expected) << "code " << i % 256 << " in column " << place << ", " << rows << " rows";
      }
    }
  }
}

TEST_P(F8Products, CodesThatAreNoneSpoilTheirOwnRowAlone) {
  constexpr std::int64_t kCols = 2307;
  constexpr std::int64_t kRows = 22;
  RandomProduct random(kRows, kCols, 20);
  for (const std::int64_t place : {0, 17, 63, 64, 1023, 2047, 2048, 2303, 2306}) {
    for (const int none : {0x7F, 0xFF}) {
      RandomProduct spoilt = random;
      spoilt.w.host.data = spoilt.w.codes.data();
      spoilt.w.at(9, place) = static_cast<std::uint8_t>(none);
      spoilt.w.at(21, place) = static_cast<std::uint8_t>(none);
      for (std::int64_t t = 0; t < 20; ++t) spoilt.x[static_cast<std::size_t>(t * kCols + place)] = 0;
      for (const std::int64_t rows : kRowCounts) {
        const std::vector<float> y = product(kernels(), spoilt.w.host, spoilt.x.data(), rows, 0, kRows);
        for (std::size_t i = 0; i < y.size(); ++i) {
          const bool spoils = i % kRows == 9 || i % kRows == 21;
          ASSERT_EQ(std::isnan(y[i]), spoils) << "row " << i % kRows << ", code in column " << place;
        }
      }
    }
  }
}

// Tiles of scales that the matrix does not fill, and more columns than are added up at once.
TEST_P(F8Products, ScalesEndWithTheMatrix) {
  for (const auto& [rows_of_w, cols] : {std::pair{131, 129}, {1, 1}, {257, 127}, {5, 128}, {130, 2177}, {18, 4229}}) {
    const RandomProduct random(rows_of_w, cols, 20);
    std::vector<float> weights(static_cast<std::size_t>(cols));
    for (const std::int64_t rows : kRowCounts) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(cols) + " x " + std::to_string(rows_of_w));
      const bool rounded = kernels().form_for(DType::kF8E4M3, rows) != Form::kFloat;
      const std::vector<float> y = product(kernels(), random.w.host, random.x.data(), rows, 0, rows_of_w);
      for (std::int64_t n = 0; n < rows_of_w; ++n) {
        read_row(random.w.host, n, weights.data());
        for (std::int64_t t = 0; t < rows; ++t) {
          double exact = 0;
          double sum = 0;
          for (std::size_t k = 0; k < weights.size(); ++k) {
            const double term = static_cast<double>(weights[k]) * random.x[static_cast<std::size_t>(t * cols) + k];
            exact += term;
            sum += std::abs(term);
          }
          ASSERT_NEAR(y[static_cast<std::size_t>(t * rows_of_w + n)], exact, (rounded ? 0x1p-7 : 2e-6) * sum) << n;
        }
      }
    }
  }
}

// Some columns computed alone, added to what is there, and with other rows: the same bits.
TEST_P(F8Products, ANumberDoesNotDependOnTheOthers) {
  for (const std::int64_t cols : {64, 768, 2048, 4229}) {
    constexpr std::int64_t kRows = 150;
    const RandomProduct random(kRows, cols, 20);
    const std::vector<float> ones(20 * kRows, 1.0F);
    const auto value = [&](const std::vector<float>& y, std::int64_t t, std::int64_t n) {
      return y[static_cast<std::size_t>(t * kRows + n)];
    };
    const std::vector<float> all = product(kernels(), random.w.host, random.x.data(), 8, 0, kRows);
    for (const std::int64_t rows : kRowCounts) {
      if (kernels().form_for(DType::kF8E4M3, rows) != kernels().form_for(DType::kF8E4M3, 8)) continue;
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(cols));
      for (const auto& [first, last] : {std::pair{0, 16}, {5, 6}, {17, 59}, {120, 137}, {127, 150}}) {
        const std::vector<float> part = product(kernels(), random.w.host, random.x.data(), rows, first, last);
        const std::vector<float> more = product(kernels(), random.w.host, random.x.data(), rows, first, last, ones);
        for (std::int64_t t = 0; t < std::min<std::int64_t>(8, rows); ++t) {
          for (std::int64_t n = first; n < last; ++n) {
            const auto i = static_cast<std::size_t>(t * (last - first) + n - first);
            ASSERT_EQ(part[i], value(all, t, n)) << t << ", " << n;
            ASSERT_NEAR(more[i], 1 + part[i], 1e-6 * (1 + std::abs(part[i]))) << t << ", " << n;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lectern::engine::cpu
