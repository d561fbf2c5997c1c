// SPDX-License-Identifier: GPL-3.0-or-later
// The mixture of experts of the CUDA backend where its kernels change their ways: many experts, crowded and empty ones,
// every type of weight, and numbers of rows on both sides of each limit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
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

// Three products in a row with activations of 8 bits or BF16, relative to the largest result.
constexpr double kThreeProducts = 0.02;

struct Sizes {
  std::int64_t experts = 0;
  std::int64_t chosen = 0;
  std::int64_t hidden = 256;
  std::int64_t width = 256;
  std::int64_t shared = 512;  // 0: none
};

struct Types {
  DType gate, up, down, shared;
  DType router = DType::kF32;
};

class CudaExperts : public support::BackendTest {
 protected:
  void make(const Sizes& sizes, const Types& types) {
    sizes_ = sizes;
    w_ = {};
    held_.clear();
    experts_.clear();
    w_.experts_per_token = sizes.chosen;
    router_ = add(random(sizes.experts, sizes.hidden, 0.2), types.router, w_.router);
    for (std::int64_t e = 0; e < sizes.experts; ++e) {
      experts_.push_back({add(sizes.width, sizes.hidden, types.gate, w_.gate.emplace_back()),
                          add(sizes.width, sizes.hidden, types.up, w_.up.emplace_back()),
                          add(sizes.hidden, sizes.width, types.down, w_.down.emplace_back())});
    }
    shared_router_ = Matrix(1, sizes.hidden);
    shared_ = {Matrix(1, sizes.hidden), Matrix(1, sizes.hidden), Matrix(sizes.hidden, 1)};
    if (sizes.shared > 0) {
      shared_router_ = add(1, sizes.hidden, types.router, w_.shared_router);
      shared_ = {add(sizes.shared, sizes.hidden, types.shared, w_.shared_gate),
                 add(sizes.shared, sizes.hidden, types.shared, w_.shared_up),
                 add(sizes.hidden, sizes.shared, types.shared, w_.shared_down)};
    }
    ASSERT_TRUE(backend_->place_experts(w_).ok());
  }

  Matrix add(const Matrix& matrix, DType type, WeightHandle& handle) {
    held_.push_back(weight(matrix, type));
    handle = std::move(held_.back().handle);
    return held_.back().values;
  }
  Matrix add(std::int64_t rows, std::int64_t cols, DType type, WeightHandle& handle) {
    return add(random(rows, cols, std::sqrt(3.0 / static_cast<double>(cols))), type, handle);
  }

  void expect_oracle(const Matrix& input, double tolerance) {
    Matrix expected = random(input.rows, sizes_.hidden);
    Numbers x(*backend_, input);
    Numbers y(*backend_, expected);
    oracle::mixture_of_experts(input, router_, experts_, shared_router_, shared_, sizes_.chosen, true, expected);
    backend_->mixture_of_experts(x.tensor(), w_, y.tensor());
    y.expect(expected, tolerance);
    x.expect_unchanged();
  }

  // Every row of a small batch alone gives the same, to the last bit.
  void expect_rows_alone(std::int64_t rows) {
    Numbers x(*backend_, random(rows, sizes_.hidden, 2.0));
    Numbers together(*backend_, Matrix(rows, sizes_.hidden));
    backend_->mixture_of_experts(x.tensor(), w_, together.tensor());
    const std::vector<float> all = together.read();
    const auto bytes = static_cast<std::size_t>(sizes_.hidden) * sizeof(float);
    for (std::int64_t row = 0; row < rows; ++row) {
      Numbers alone(*backend_, Matrix(1, sizes_.hidden));
      backend_->mixture_of_experts({x.data() + row * sizes_.hidden, 1, sizes_.hidden}, w_, alone.tensor());
      EXPECT_EQ(0, std::memcmp(alone.read().data(), all.data() + row * sizes_.hidden, bytes)) << row << " of " << rows;
    }
  }

  Sizes sizes_;
  ExpertWeights w_;
  std::vector<HeldWeight> held_;
  Matrix router_, shared_router_;
  std::vector<oracle::Mlp> experts_;
  oracle::Mlp shared_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, CudaExperts, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

TEST_P(CudaExperts, TenOfFiveHundredAndTwelve) {
  make({512, 10, 64, 32, 32}, {DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, DType::kQ8_0});
  for (const std::int64_t rows : {1, 8, 9, 300}) expect_oracle(random(rows, 64, 2.0), kThreeProducts);
  expect_rows_alone(8);
}

TEST_P(CudaExperts, TwoOfFive) {
  make({5, 2, 256, 256, 0}, {DType::kQ4K, DType::kQ4K, DType::kQ6K, DType::kQ4K});
  for (const std::int64_t rows : {1, 3, 8, 9, 300}) expect_oracle(random(rows, 256, 2.0), kThreeProducts);
}

// One expert has all rows and most have none.
TEST_P(CudaExperts, EveryRowChoosesTheSame) {
  make({40, 3, 64, 64, 96}, {DType::kBF16, DType::kBF16, DType::kBF16, DType::kBF16, DType::kBF16});
  const Matrix row = random(1, 64, 2.0);
  for (const std::int64_t rows : {2, 8, 9, 300}) {
    Matrix input(rows, 64);
    for (std::int64_t t = 0; t < rows; ++t) {
      for (std::int64_t c = 0; c < 64; ++c) input(t, c) = row(0, c);
    }
    expect_oracle(input, rows <= kSmallBatchRows ? oracle::kProduct : kThreeProducts);
  }
  expect_rows_alone(8);
}

// Odd sizes: rows of 44 and 20 columns are no whole chunks.
TEST_P(CudaExperts, NumbersOfAllTypesAndOddSizes) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    SCOPED_TRACE(std::string(name_of(type)));
    make({6, 2, 45, 21, 67}, {type, type, type, type, type});
    for (const std::int64_t rows : {1, 5, 8}) expect_oracle(random(rows, 45, 2.0), oracle::kProduct);
    for (const std::int64_t rows : {9, 70}) expect_oracle(random(rows, 45, 2.0), kThreeProducts);
    expect_rows_alone(5);
  }
}

TEST_P(CudaExperts, EveryTypeOfWeight) {
  for (const DTypeFacts& facts : kDTypes) {
    SCOPED_TRACE(std::string(facts.name));
    make({5, 2, 256, 256, 0}, {facts.type, facts.type, facts.type, facts.type});
    for (const std::int64_t rows : {3, 10, 11}) expect_oracle(random(rows, 256, 2.0), kThreeProducts);
    expect_rows_alone(2);
  }
}

// Gate and up of different types, a router in blocks, and a shared expert unlike the others.
TEST_P(CudaExperts, MixedTypes) {
  for (const Types& types : {Types{DType::kQ4K, DType::kQ5K, DType::kQ6K, DType::kBF16},
                             Types{DType::kQ8_0, DType::kBF16, DType::kF8E4M3, DType::kQ4_0, DType::kQ8_0},
                             Types{DType::kF32, DType::kQ4K, DType::kQ3K, DType::kF16}}) {
    SCOPED_TRACE(std::string(name_of(types.gate)));
    // Rounded activations may choose others, unless all are chosen.
    make({5, types.router == DType::kF32 ? 2 : 5, 256, 256, 256}, types);
    for (const std::int64_t rows : {1, 6, 10, 14}) expect_oracle(random(rows, 256, 2.0), kThreeProducts);
    expect_rows_alone(6);
  }
}

// Experts of one block may differ, too.
TEST_P(CudaExperts, ExpertsOfDifferentTypes) {
  make({6, 3, 256, 256, 0}, {DType::kQ4K, DType::kQ4K, DType::kQ6K, DType::kQ4K});
  for (std::size_t e = 1; e < 6; e += 2) {
    experts_[e].up = add(256, 256, DType::kQ8_0, w_.up[e]);
    experts_[e].down = add(256, 256, DType::kBF16, w_.down[e]);
  }
  ASSERT_TRUE(backend_->place_experts(w_).ok());
  for (const std::int64_t rows : {1, 8, 20}) expect_oracle(random(rows, 256, 2.0), kThreeProducts);
  expect_rows_alone(8);
}

TEST_P(CudaExperts, TooManyExpertsAreAnError) {
  make({2, 1, 32, 32, 0}, {DType::kF32, DType::kF32, DType::kF32, DType::kF32});
  w_.experts_per_token = 65;
  const auto placed = backend_->place_experts(w_);
  ASSERT_FALSE(placed.ok());
  EXPECT_EQ(placed.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace lectern::engine
