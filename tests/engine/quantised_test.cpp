// SPDX-License-Identifier: GPL-3.0-or-later
// Products and experts with weights of every stored type against the oracle on the numbers those weights stand for.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
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

// Float sums, relative to the sum of absolute products.
constexpr double kFloatSum = 2e-6;
// Activations of 8 bits: each is wrong by at most 1/254 of the largest of its 32 neighbours, 0.0023 of it on average,
// with random signs; this is five times that. BF16 (2^-9 of either factor at most) is better.
constexpr double kRoundedFactor = 0.0115;

constexpr DType kBlockTypes[] = {DType::kQ8_0,  DType::kQ4_0,  DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                 DType::kQ2K,   DType::kQ3K,   DType::kQ4K,  DType::kQ5K,  DType::kQ6K,
                                 DType::kIq4Nl, DType::kIq4Xs, DType::kMxfp4};

std::vector<DType> all_types() {
  std::vector<DType> types;
  for (const DTypeFacts& facts : kDTypes) types.push_back(facts.type);
  return types;
}

class Quantised : public support::BackendTest {
 protected:
  // Numbers of very different size in different places, so that a scale applied to the wrong group shows.
  Matrix uneven(std::int64_t rows, std::int64_t cols) {
    Matrix matrix = random(rows, cols);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        matrix(r, c) = static_cast<float>(matrix(r, c) * std::exp2(static_cast<double>((c / 16 * 5 + r) % 7) - 3) +
                                          0.05 * static_cast<double>((c / 32) % 3));
      }
    }
    return matrix;
  }

  // y against the exact product, within what the form of the activations allows.
  void expect_product(const Matrix& x, const Matrix& w, const Matrix& exact, const Numbers& y, DType type) {
    const bool rounded = kind().rounds_activations(type, x.rows);
    const std::vector<float> got = y.read();
    double worst = 0;
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t n = 0; n < w.rows; ++n) {
        double sum = 0;
        double squares = 0;
        double largest = 0;
        for (std::int64_t k = 0; k < x.cols; ++k) {
          if (k % 32 == 0) largest = 0;
          for (std::int64_t i = k; k % 32 == 0 && i < std::min(k + 32, x.cols); ++i) {
            largest = std::max(largest, std::abs(x(t, i)));
          }
          sum += std::abs(x(t, k) * w(n, k));
          squares += largest * largest * w(n, k) * w(n, k);
        }
        const double allowed = kFloatSum * (sum + 1) + (rounded ? kRoundedFactor * std::sqrt(squares) : 0);
        const double error = std::abs(got[static_cast<std::size_t>(t * w.rows + n)] - exact(t, n));
        worst = std::max(worst, std::isnan(error) ? 1e30 : error / allowed);
      }
    }
    EXPECT_LE(worst, 1.0);
    y.expect(exact, 1e30);  // the guards
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, Quantised, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

TEST_P(Quantised, EmbedGivesTheStoredNumbers) {
  for (const DType type : all_types()) {
    SCOPED_TRACE(name_of(type));
    const HeldWeight table = weight(uneven(5, 512), type);
    const std::vector<TokenId> tokens = {3, 0, 4, 3};
    Matrix expected(4, 512);
    for (std::int64_t t = 0; t < 4; ++t) {
      for (std::int64_t c = 0; c < 512; ++c) expected(t, c) = table.values(tokens[static_cast<std::size_t>(t)], c);
    }
    Numbers y(*backend_, 4, 512);
    backend_->embed(*table.handle, tokens, y.tensor());
    y.expect(expected, 0);
  }
}

struct ProductShape {
  std::int64_t depth, cols;
  std::vector<std::int64_t> rows;
};

TEST_P(Quantised, Linear) {
  for (const DType type : all_types()) {
    const std::int64_t block = block_size(type).elements;
    // The last is deeper than what is decoded at once.
    for (const ProductShape& shape :
         {ProductShape{block, 1, {1, 2, 9, 61}}, ProductShape{block, 35, {1, 8, 10}},
          ProductShape{3 * block, 67, {1, 3, 5, 8, 9, 23}}, ProductShape{2304, 6, {4, 11}}}) {
      const HeldWeight w = weight(uneven(shape.cols, shape.depth), type);
      for (const std::int64_t rows : shape.rows) {
        SCOPED_TRACE(std::string(name_of(type)) + " " + std::to_string(rows) + " x " + std::to_string(shape.depth) +
                     " x " + std::to_string(shape.cols));
        const Matrix inputs = random(rows, shape.depth, 3.0);
        Numbers x(*backend_, inputs);
        Matrix expected = oracle::linear(inputs, w.values);
        Numbers y(*backend_, rows, shape.cols);
        backend_->linear(x.tensor(), *w.handle, false, y.tensor());
        expect_product(inputs, w.values, expected, y, type);
        x.expect_unchanged();

        const Matrix before = random(rows, shape.cols);
        for (std::size_t i = 0; i < expected.values.size(); ++i) expected.values[i] += before.values[i];
        Numbers sum(*backend_, before);
        backend_->linear(x.tensor(), *w.handle, true, sum.tensor());
        expect_product(inputs, w.values, expected, sum, type);
      }
    }
  }
}

TEST_P(Quantised, ARowOfASmallBatchDoesNotDependOnTheOthers) {
  for (const DType type : all_types()) {
    SCOPED_TRACE(name_of(type));
    const HeldWeight w = weight(uneven(13, 768), type);
    Numbers x(*backend_, random(kSmallBatchRows, 768));
    Numbers one_by_one(*backend_, kSmallBatchRows, 13);
    for (std::int64_t row = 0; row < kSmallBatchRows; ++row) {
      backend_->linear({x.data() + row * 768, 1, 768}, *w.handle, false, {one_by_one.data() + row * 13, 1, 13});
    }
    const std::vector<float> alone = one_by_one.read();
    for (std::int64_t rows = 2; rows <= kSmallBatchRows; ++rows) {
      Numbers y(*backend_, rows, 13);
      backend_->linear({x.data(), rows, 768}, *w.handle, false, y.tensor());
      const std::vector<float> together = y.read();
      EXPECT_EQ(0, std::memcmp(alone.data(), together.data(), together.size() * sizeof(float))) << rows;
    }
  }
}

// Blocks of one repeated byte, whose codes are the largest their type has, or the smallest, against equal activations:
// sums that any narrow addition would cut off. Bytes that make a scale too large for a float are left out.
TEST_P(Quantised, CodesAtTheEndsOfTheirRange) {
  constexpr std::int64_t kDepth = 512;
  for (const DType type : kBlockTypes) {
    for (const int byte : {0x00, 0x7B, 0x80, 0x8B, 0xEF, 0xF7, 0xFB}) {
      HeldWeight w;
      w.memory.assign(static_cast<std::size_t>(bytes_of(type, kDepth)), static_cast<std::byte>(byte));
      const HostMatrix host = {type, w.memory.data(), 1, kDepth, nullptr};
      std::vector<float> numbers(kDepth);
      read_row(host, 0, numbers.data());
      if (std::abs(numbers[0]) > 1e12F) continue;
      SCOPED_TRACE(std::string(name_of(type)) + " " + std::to_string(byte));
      w.values = Matrix(1, kDepth);
      w.values.values.assign(numbers.begin(), numbers.end());
      auto taken = backend_->take_weight(host);
      ASSERT_TRUE(taken.ok());
      Matrix inputs(3, kDepth);
      for (std::int64_t k = 0; k < kDepth; ++k) {
        inputs(0, k) = 3;
        inputs(1, k) = -3;
        inputs(2, k) = numbers[static_cast<std::size_t>(k)] < 0 ? -3 : 3;
      }
      Numbers x(*backend_, inputs);
      Numbers y(*backend_, 3, 1);
      backend_->linear(x.tensor(), **taken, false, y.tensor());
      expect_product(inputs, w.values, oracle::linear(inputs, w.values), y, type);
    }
  }
}

// The numbers of other rows may be none; a row of zeros gives zeros.
TEST_P(Quantised, ARowOfNumbersThatAreNoneSpoilsNoOther) {
  for (const DType type : all_types()) {
    for (const std::int64_t rows : {3, 20}) {
      SCOPED_TRACE(std::string(name_of(type)) + " " + std::to_string(rows));
      const HeldWeight w = weight(uneven(19, 256), type);
      Matrix inputs = random(rows, 256);
      inputs(0, 77) = std::numeric_limits<double>::quiet_NaN();
      for (std::int64_t k = 0; k < 256; ++k) inputs(1, k) = 0;
      Numbers x(*backend_, inputs);
      Numbers y(*backend_, rows, 19);
      backend_->linear(x.tensor(), *w.handle, false, y.tensor());
      const std::vector<float> got = y.read();
      for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isfinite(got[i]), i >= 19);
      for (std::size_t i = 19; i < 38; ++i) EXPECT_EQ(got[i], 0.0F);
    }
  }
}

struct ExpertCase {
  DType gate, up, down, shared;
  bool with_shared;
};

class QuantisedExperts : public Quantised {
 protected:
  static constexpr std::int64_t kWidth = 256;
  static constexpr std::int64_t kInner = 256;
  static constexpr std::int64_t kExperts = 5;

  void make(const ExpertCase& test) {
    w_.experts_per_token = 3;
    const auto add = [&](std::int64_t rows, std::int64_t cols, DType type, WeightHandle& handle) -> Matrix {
      held_.push_back(weight(random(rows, cols, std::sqrt(3.0 / static_cast<double>(cols))), type));
      handle = std::move(held_.back().handle);
      return held_.back().values;
    };
    router_ = add(kExperts, kWidth, DType::kF32, w_.router);
    for (std::int64_t e = 0; e < kExperts; ++e) {
      experts_.push_back({add(kInner, kWidth, test.gate, w_.gate.emplace_back()),
                          add(kInner, kWidth, test.up, w_.up.emplace_back()),
                          add(kWidth, kInner, test.down, w_.down.emplace_back())});
    }
    shared_router_ = Matrix(1, kWidth);
    shared_ = {Matrix(kInner, kWidth), Matrix(kInner, kWidth), Matrix(kWidth, kInner)};
    if (!test.with_shared) return;
    shared_router_ = add(1, kWidth, DType::kF32, w_.shared_router);
    shared_ = {add(512, kWidth, test.shared, w_.shared_gate), add(512, kWidth, test.shared, w_.shared_up),
               add(kWidth, 512, test.shared, w_.shared_down)};
  }

  ExpertWeights w_;
  std::vector<HeldWeight> held_;
  Matrix router_, shared_router_;
  std::vector<oracle::Mlp> experts_;
  oracle::Mlp shared_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, QuantisedExperts, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

// The types that one layer of a published file mixes, with and without a shared expert.
TEST_P(QuantisedExperts, MatchTheOracle) {
  // Three products in a row and numbers that cancel: relative to the largest result.
  constexpr double kThreeProducts = 0.02;
  for (const ExpertCase& test : {ExpertCase{DType::kQ4K, DType::kQ4K, DType::kQ6K, DType::kQ8_0, true},
                                 ExpertCase{DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, DType::kBF16, true},
                                 ExpertCase{DType::kF8E4M3, DType::kF8E4M3, DType::kF8E4M3, DType::kF32, true},
                                 ExpertCase{DType::kIq4Nl, DType::kQ5K, DType::kMxfp4, DType::kF32, false}}) {
    w_ = {};
    held_.clear();
    experts_.clear();
    make(test);
    ASSERT_TRUE(backend_->place_experts(w_).ok());
    for (const std::int64_t rows : {1, 4, 8, 9, 70}) {
      SCOPED_TRACE(std::string(name_of(test.gate)) + " " + std::to_string(rows));
      const Matrix input = random(rows, kWidth, 2.0);
      Matrix expected = random(rows, kWidth);
      Numbers x(*backend_, input);
      Numbers y(*backend_, expected);
      oracle::mixture_of_experts(input, router_, experts_, shared_router_, shared_, 3, true, expected);
      backend_->mixture_of_experts(x.tensor(), w_, y.tensor());
      y.expect(expected, kThreeProducts);
      x.expect_unchanged();
    }
  }
}

TEST_P(QuantisedExperts, ARowOfASmallBatchDoesNotDependOnTheOthers) {
  make({DType::kQ4K, DType::kQ4K, DType::kQ6K, DType::kQ8_0, true});
  ASSERT_TRUE(backend_->place_experts(w_).ok());
  Numbers x(*backend_, random(kSmallBatchRows, kWidth, 2.0));
  Numbers together(*backend_, Matrix(kSmallBatchRows, kWidth));
  backend_->mixture_of_experts(x.tensor(), w_, together.tensor());
  const std::vector<float> all = together.read();
  for (std::int64_t row = 0; row < kSmallBatchRows; ++row) {
    Numbers alone(*backend_, Matrix(1, kWidth));
    backend_->mixture_of_experts({x.data() + row * kWidth, 1, kWidth}, w_, alone.tensor());
    EXPECT_EQ(0, std::memcmp(alone.read().data(), all.data() + row * kWidth, kWidth * sizeof(float))) << row;
  }
}

}  // namespace
}  // namespace lectern::engine
