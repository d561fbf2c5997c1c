// SPDX-License-Identifier: GPL-3.0-or-later
// Dense products by NVIDIA's library against the oracle and against the own kernels. Skipped where there is no library.
#include "cuda/library_products.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "support/backend_fixture.h"
#include "support/oracle.h"

namespace lectern::engine {
namespace {

using oracle::Matrix;
using support::HeldWeight;
using support::Numbers;

constexpr std::int64_t kPanelRows = 128;

// BF16 weights are exact, their activations have two parts of 8 bits; relative to the largest result.
constexpr double kTwoParts = 2e-5;
// The same rounded numbers, added up in another order.
constexpr double kOtherOrder = 1e-5;

class CudaLibraryProducts : public support::BackendTest {
 protected:
  void SetUp() override {
    if (!use(64)) GTEST_SKIP() << backend_->dense_products();
  }

  // Everything that the few-row kernels leave, in panels of kPanelRows rows of `depth` columns.
  bool use(std::int64_t depth) { return use_library_products(*backend_, {1, 1, 2 * kPanelRows * depth}); }

  static double tolerance(DType type) { return type == DType::kBF16 ? kTwoParts : oracle::kRoundedProduct; }

  void expect_as_oracle(std::int64_t rows, std::int64_t depth, std::int64_t cols, DType type) {
    SCOPED_TRACE(std::string(name_of(type)) + " " + std::to_string(rows) + " x " + std::to_string(depth) + " x " +
                 std::to_string(cols));
    const HeldWeight w = random_weight(cols, depth, type);
    const Matrix inputs = random(rows, depth);
    Numbers x(*backend_, inputs);
    Matrix expected = oracle::linear(inputs, w.values);
    Numbers y(*backend_, rows, cols);
    backend_->linear(x.tensor(), *w.handle, false, y.tensor());
    y.expect(expected, tolerance(type));
    x.expect_unchanged();

    const Matrix before = random(rows, cols);
    for (std::size_t i = 0; i < expected.values.size(); ++i) expected.values[i] += before.values[i];
    Numbers sum(*backend_, before);
    backend_->linear(x.tensor(), *w.handle, true, sum.tensor());
    sum.expect(expected, tolerance(type));
  }

  std::vector<float> product(const Tensor& x, const HeldWeight& w) {
    Numbers y(*backend_, x.rows, w.values.rows);
    backend_->linear(x, *w.handle, false, y.tensor());
    return y.read();
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, CudaLibraryProducts, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

// Two whole panels and the rest of a third.
TEST_P(CudaLibraryProducts, EveryTypeInPanels) {
  for (const DTypeFacts& facts : kDTypes) {
    const std::int64_t depth = std::max<std::int64_t>(64, facts.block.elements);
    ASSERT_TRUE(use(depth));
    expect_as_oracle(33, depth, 2 * kPanelRows + 37, facts.type);
  }
}

TEST_P(CudaLibraryProducts, OddShapes) {
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    for (const auto& [depth, cols] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {17, 3}, {130, 129}, {200, 128}}) {
      ASSERT_TRUE(use((depth + 31) / 32 * 32));
      expect_as_oracle(41, depth, cols, type);
    }
  }
}

TEST_P(CudaLibraryProducts, ResultsMayBeginAnywhere) {
  ASSERT_TRUE(use(96));
  const HeldWeight w = random_weight(131, 96, DType::kF16);
  const Matrix inputs = random(40, 96);
  Numbers x(*backend_, inputs);
  Numbers y(*backend_, Matrix(41, 131));
  backend_->linear(x.tensor(), *w.handle, false, y.tensor().last_rows(40));
  Matrix expected(41, 131);
  const Matrix product = oracle::linear(inputs, w.values);
  std::copy(product.values.begin(), product.values.end(), expected.values.begin() + 131);
  y.expect(expected, oracle::kRoundedProduct);
}

// Both round the same numbers in the same way.
TEST_P(CudaLibraryProducts, OwnKernelsGiveTheSame) {
  const std::int64_t size = kind().slow ? 1 : 8;
  for (const DType type : {DType::kBF16, DType::kF8E4M3, DType::kQ4K, DType::kQ6K, DType::kMxfp4}) {
    SCOPED_TRACE(name_of(type));
    const std::int64_t depth = 256 * size;
    const HeldWeight w = random_weight(200 * size, depth, type);
    Numbers x(*backend_, random(36 * size, depth));
    ASSERT_TRUE(use(depth));
    const std::vector<float> by_library = product(x.tensor(), w);
    const std::vector<float> again = product(x.tensor(), w);
    EXPECT_EQ(by_library, again);
    use_own_products(*backend_);
    const std::vector<float> own = product(x.tensor(), w);
    float largest = 0;
    float worst = 0;
    for (std::size_t i = 0; i < own.size(); ++i) {
      largest = std::max(largest, std::abs(own[i]));
      worst = std::max(worst, std::abs(own[i] - by_library[i]));
    }
    EXPECT_LE(worst, kOtherOrder * largest);
  }
}

}  // namespace
}  // namespace lectern::engine
