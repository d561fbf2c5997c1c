// SPDX-License-Identifier: GPL-3.0-or-later
// Every operation of the backend contract against the oracle; the gated delta rule has delta_rule_test.cpp.
#include "ops/backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/backend_fixture.h"
#include "support/kv_rows.h"
#include "support/oracle.h"

namespace lectern::engine {
namespace {

using oracle::Matrix;
using support::BackendTest;
using support::HeldWeight;
using support::Numbers;

constexpr std::int64_t kRowCounts[] = {1, 2, 5, 7, 50};

INSTANTIATE_TEST_SUITE_P(Kinds, BackendTest, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

TEST_P(BackendTest, BuffersAreZeroAndCopiesAreExact) {
  auto buffer = backend_->make_buffer(1000, MemoryUse::kState);
  ASSERT_TRUE(buffer.ok());
  ASSERT_EQ((*buffer)->size(), 1000);
  std::vector<float> values(1000, 1.0F);
  backend_->download((*buffer)->data(), values);
  EXPECT_EQ(values, std::vector<float>(1000, 0.0F));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  backend_->upload(values, (*buffer)->data());
  auto second = backend_->make_buffer(1000, MemoryUse::kState);
  ASSERT_TRUE(second.ok());
  backend_->copy((*buffer)->data(), (*second)->data(), 1000);
  std::vector<float> back(1000);
  backend_->download((*second)->data(), back);
  EXPECT_EQ(back, values);
}

TEST_P(BackendTest, AnImpossibleBufferIsAnError) {
  const auto buffer = backend_->make_buffer(std::int64_t{1} << 58, MemoryUse::kState);
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.error().code, ErrorCode::kOutOfMemory);
}

TEST_P(BackendTest, Embed) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const HeldWeight table = random_weight(11, 19, type);
    const std::vector<TokenId> tokens = {3, 0, 10, 3};
    Matrix expected(4, 19);
    for (std::int64_t t = 0; t < 4; ++t) {
      for (std::int64_t c = 0; c < 19; ++c) expected(t, c) = table.values(tokens[static_cast<std::size_t>(t)], c);
    }
    Numbers y(*backend_, 4, 19);
    backend_->embed(*table.handle, tokens, y.tensor());
    y.expect(expected, 0);
  }
}

TEST_P(BackendTest, Linear) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t rows : kRowCounts) {
      for (const std::int64_t depth : {1, 17, 48, 200}) {
        for (const std::int64_t cols : {1, 3, 70}) {
          SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(depth) + " x " + std::to_string(cols));
          const HeldWeight w = random_weight(cols, depth, type);
          const Matrix inputs = random(rows, depth);
          Numbers x(*backend_, inputs);
          Matrix expected = oracle::linear(inputs, w.values);
          Numbers y(*backend_, rows, cols);
          backend_->linear(x.tensor(), *w.handle, false, y.tensor());
          y.expect(expected, kind().product(type, rows));
          x.expect_unchanged();

          const Matrix before = random(rows, cols);
          for (std::size_t i = 0; i < expected.values.size(); ++i) expected.values[i] += before.values[i];
          Numbers sum(*backend_, before);
          backend_->linear(x.tensor(), *w.handle, true, sum.tensor());
          sum.expect(expected, kind().product(type, rows));
        }
      }
    }
  }
}

TEST_P(BackendTest, ARowOfAProductDoesNotDependOnTheOthers) {
  const HeldWeight w = random_weight(70, 200, DType::kBF16);
  const std::int64_t most = kind().large_batches_are_exact ? 50 : kSmallBatchRows;
  Numbers x(*backend_, random(most, 200));
  std::vector<std::vector<float>> alone;
  for (std::int64_t row = 0; row < most; ++row) {
    Numbers one(*backend_, 1, 70);
    backend_->linear({x.data() + row * 200, 1, 200}, *w.handle, false, one.tensor());
    alone.push_back(one.read());
  }
  for (const std::int64_t rows : {most, std::int64_t{7}, std::int64_t{4}, std::int64_t{3}, std::int64_t{2}}) {
    Numbers y(*backend_, rows, 70);
    backend_->linear({x.data(), rows, 200}, *w.handle, false, y.tensor());
    const std::vector<float> together = y.read();
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::vector<float>& one = alone[static_cast<std::size_t>(row)];
      EXPECT_EQ(0, std::memcmp(one.data(), together.data() + row * 70, 70 * sizeof(float))) << row << " of " << rows;
    }
  }
}

TEST_P(BackendTest, AddBiasAndGelu) {
  const Matrix before = random(7, 45, 4.0);
  const std::vector<double> bias = random_list(45, 1.0, 0.0);
  Matrix expected = before;
  for (std::int64_t t = 0; t < 7; ++t) {
    for (std::int64_t c = 0; c < 45; ++c) expected(t, c) += bias[static_cast<std::size_t>(c)];
  }
  Numbers y(*backend_, before);
  backend_->add_bias(on_device(bias), y.tensor());
  y.expect(expected, oracle::kPointwise);
  Numbers activated(*backend_, before);
  expected = before;
  for (double& value : expected.values) value = oracle::gelu(value);
  backend_->gelu(activated.tensor());
  activated.expect(expected, oracle::kPointwise);
}

TEST_P(BackendTest, Norms) {
  for (const std::int64_t rows : kRowCounts) {
    const Matrix input = random(rows, 3 * 37, 5.0);
    const Matrix z = random(rows, 3 * 37, 6.0);
    const std::vector<double> gain = random_list(37, 0.3, 1.0);
    Numbers x(*backend_, input);
    Numbers y(*backend_, rows, 3 * 37);
    backend_->rms_norm(x.tensor(), on_device(gain), 37, 1e-6F, y.tensor());
    y.expect(oracle::rms_norm(input, gain, 1e-6), oracle::kPointwise);
    x.expect_unchanged();
    Numbers in_place(*backend_, input);
    backend_->rms_norm(in_place.tensor(), on_device(gain), 37, 1e-6F, in_place.tensor());
    in_place.expect(oracle::rms_norm(input, gain, 1e-6), oracle::kPointwise);

    Numbers gate(*backend_, z);
    Numbers gated(*backend_, input);
    backend_->gated_rms_norm(gate.tensor(), on_device(gain), 37, 1e-6F, gated.tensor());
    gated.expect(oracle::gated_rms_norm(input, z, gain, 1e-6), oracle::kPointwise);
    gate.expect_unchanged();

    const std::vector<double> wide = random_list(3 * 37, 0.3, 1.0);
    const std::vector<double> bias = random_list(3 * 37, 0.3, 0.0);
    Numbers layer(*backend_, rows, 3 * 37);
    backend_->layer_norm(x.tensor(), on_device(wide), on_device(bias), 1e-12F, layer.tensor());
    layer.expect(oracle::layer_norm(input, wide, bias, 1e-12), oracle::kPointwise);
  }
}

TEST_P(BackendTest, NormOfZerosIsZero) {
  Numbers x(*backend_, Matrix(2, 16));
  Numbers y(*backend_, 2, 16);
  backend_->rms_norm(x.tensor(), on_device(std::vector<double>(16, 1.0)), 16, 1e-6F, y.tensor());
  y.expect(Matrix(2, 16), 0);
}

TEST_P(BackendTest, SigmoidGate) {
  const Matrix input = random(7, 45);
  const Matrix gate = random(7, 45, 30.0);
  Matrix expected = input;
  for (std::size_t i = 0; i < expected.values.size(); ++i) expected.values[i] *= oracle::sigmoid(gate.values[i]);
  Numbers g(*backend_, gate);
  Numbers y(*backend_, input);
  backend_->sigmoid_gate(g.tensor(), y.tensor());
  y.expect(expected, oracle::kPointwise);
  g.expect_unchanged();
}

TEST_P(BackendTest, Rotate) {
  const RotaryTable table = {{1.0, 0.3, 1e-4}, 1.25};
  for (const std::int64_t first : {std::int64_t{0}, std::int64_t{262143}}) {
    const Matrix input = random(5, 2 * 9);
    Numbers x(*backend_, input);
    backend_->rotate(table, first, 9, x.tensor());
    x.expect(oracle::rotate(input, table, first, 9), oracle::kPointwise);
  }
}

// Against what the cache holds: for the rounding, see kv_cache_test.cpp.
void expect_causal_attention(Backend& backend, const AttentionShape& shape, KvType type, const Matrix& q,
                             const Matrix& k, const Matrix& v, double tolerance) {
  auto cache = std::move(backend.make_kv_cache(shape, type)).value();
  Numbers keys(backend, k);
  Numbers values(backend, v);
  ASSERT_TRUE(backend.reserve_kv(*cache, k.rows).ok());
  backend.append_kv(keys.tensor(), values.tensor(), *cache);
  const support::KvRows stored = support::stored_rows(backend, *cache, shape, type);
  Numbers queries(backend, q);
  Numbers y(backend, q.rows, q.cols);
  backend.attend(queries.tensor(), *cache, shape, y.tensor());
  y.expect(oracle::attend(
               q, stored.keys, stored.values, shape, [](std::int64_t) { return std::int64_t{0}; },
               [before = k.rows - q.rows](std::int64_t t) { return before + t + 1; }),
           tolerance);
  queries.expect_unchanged();
}

TEST_P(BackendTest, CausalAttention) {
  const AttentionShape shapes[] = {{4, 2, 24}, {3, 1, 7}, {5, 5, 16}, {80, 1, 40}};
  for (const AttentionShape& shape : shapes) {
    for (const auto& [before, rows] :
         {std::pair<std::int64_t, std::int64_t>{0, 1}, {0, 70}, {130, 1}, {63, 9}, {900, 2}}) {
      const std::int64_t width = shape.kv_heads * shape.head_dim;
      const Matrix q = random(rows, shape.query_heads * shape.head_dim, 3.0);
      const Matrix k = random(before + rows, width, 3.0);
      const Matrix v = random(before + rows, width);
      for (const KvType type : support::kKvTypes) {
        SCOPED_TRACE(std::to_string(before) + " + " + std::to_string(rows) + std::string(support::kv_type_name(type)));
        expect_causal_attention(*backend_, shape, type, q, k, v, kind().attention(type, rows));
      }
    }
  }
}

TEST_P(BackendTest, CausalAttentionOverManyKeys) {
  for (const std::int64_t rows : {2, 30}) {
    const Matrix q = random(rows, 16, 3.0);
    expect_causal_attention(*backend_, {2, 1, 8}, KvType::kBF16, q, random(20000, 8, 3.0), random(20000, 8),
                            kind().attention(KvType::kBF16, rows));
  }
}

TEST_P(BackendTest, BidirectionalAttention) {
  const std::vector<std::int64_t> starts = {0, 1, 40, 42, 130};
  const AttentionShape shape = {3, 3, 12};
  const Matrix q = random(130, 36, 3.0);
  const Matrix k = random(130, 36, 3.0);
  const Matrix v = random(130, 36);
  const auto sequence_of = [&](std::int64_t t) {
    return static_cast<std::size_t>(std::upper_bound(starts.begin(), starts.end(), t) - starts.begin()) - 1;
  };
  Numbers queries(*backend_, q);
  Numbers keys(*backend_, k);
  Numbers values(*backend_, v);
  Numbers y(*backend_, 130, 36);
  backend_->attend_bidirectional(queries.tensor(), keys.tensor(), values.tensor(), 3, starts, y.tensor());
  y.expect(oracle::attend(
               q, k, v, shape, [&](std::int64_t t) { return starts[sequence_of(t)]; },
               [&](std::int64_t t) { return starts[sequence_of(t) + 1]; }),
           kind().bidirectional_attention);
  keys.expect_unchanged();
  values.expect_unchanged();
}

TEST_P(BackendTest, MeanPool) {
  const std::vector<std::int64_t> starts = {0, 1, 5, 12};
  const Matrix input = random(12, 21);
  Numbers x(*backend_, input);
  Numbers y(*backend_, 3, 21);
  backend_->mean_pool(x.tensor(), starts, y.tensor());
  y.expect(oracle::mean_pool(input, starts), oracle::kPointwise);
}

TEST_P(BackendTest, CausalConvolutionCarriesItsStateAcrossCuts) {
  for (const std::int64_t taps : {2, 4}) {
    const Matrix w = random(37, taps);
    Matrix expected_state = random(taps - 1, 37);
    Numbers state(*backend_, expected_state);
    for (const std::int64_t rows : {5, 1, 2, 3, 1, 1, 200}) {
      const Matrix input = random(rows, 37, 3.0);
      const Matrix expected = oracle::causal_conv(input, w, expected_state);
      Numbers u(*backend_, input);
      Numbers y(*backend_, rows, 37);
      backend_->causal_conv(u.tensor(), on_device(w.values), taps, state.data(), y.tensor());
      backend_->advance_conv(u.tensor(), taps, state.data());
      y.expect(expected, oracle::kPointwise);
      state.expect(expected_state, 0);
      u.expect_unchanged();
    }
  }
}

TEST_P(BackendTest, MixtureOfExperts) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const bool normalise : {true, false}) {
      const std::int64_t d = 44;
      ExpertWeights w;
      w.experts_per_token = 3;
      w.normalise_top_k = normalise;
      std::vector<HeldWeight> held;
      const auto add = [&](std::int64_t rows, std::int64_t cols, WeightHandle& handle) -> Matrix {
        held.push_back(random_weight(rows, cols, type));
        handle = std::move(held.back().handle);
        return held.back().values;
      };
      const Matrix router = add(7, d, w.router);
      std::vector<oracle::Mlp> experts(7);
      for (oracle::Mlp& expert : experts) {
        expert.gate = add(20, d, w.gate.emplace_back());
        expert.up = add(20, d, w.up.emplace_back());
        expert.down = add(d, 20, w.down.emplace_back());
      }
      const Matrix shared_router = add(1, d, w.shared_router);
      const oracle::Mlp shared = {add(67, d, w.shared_gate), add(67, d, w.shared_up), add(d, 67, w.shared_down)};
      ASSERT_TRUE(backend_->place_experts(w).ok());
      for (const std::int64_t rows : kRowCounts) {
        const Matrix input = random(rows, d, 2.0);
        Matrix expected = random(rows, d);
        Numbers x(*backend_, input);
        Numbers y(*backend_, expected);
        oracle::mixture_of_experts(input, router, experts, shared_router, shared, 3, normalise, expected);
        backend_->mixture_of_experts(x.tensor(), w, y.tensor());
        y.expect(expected, kind().product(type, rows));
        x.expect_unchanged();
      }
    }
  }
}

// Equal router products: the lower index wins. Only the chosen experts' weights are not zero.
TEST_P(BackendTest, TiesGoToTheLowerExpert) {
  ExpertWeights w;
  w.experts_per_token = 2;
  std::vector<HeldWeight> held;
  const auto add = [&](const Matrix& matrix, WeightHandle& handle) {
    held.push_back(weight(matrix, DType::kF32));
    handle = std::move(held.back().handle);
  };
  Matrix ones(1, 1);
  ones(0, 0) = 1;
  Matrix expert_id(1, 1);
  add(Matrix(6, 1), w.router);
  for (int e = 0; e < 6; ++e) {
    add(ones, w.gate.emplace_back());
    add(ones, w.up.emplace_back());
    expert_id(0, 0) = std::pow(10.0, e);
    add(expert_id, w.down.emplace_back());
  }
  add(Matrix(1, 1), w.shared_router);
  add(Matrix(1, 1), w.shared_gate);
  add(Matrix(1, 1), w.shared_up);
  add(Matrix(1, 1), w.shared_down);
  ASSERT_TRUE(backend_->place_experts(w).ok());
  Numbers x(*backend_, ones);
  Numbers y(*backend_, Matrix(1, 1));
  backend_->mixture_of_experts(x.tensor(), w, y.tensor());
  Matrix expected(1, 1);
  expected(0, 0) = oracle::silu(1.0) * (0.5 * 1 + 0.5 * 10);
  y.expect(expected, oracle::kPointwise);
}

TEST_P(BackendTest, RoutingSurvivesNumbersThatAreNone) {
  ExpertWeights w;
  w.experts_per_token = 2;
  std::vector<HeldWeight> held;
  const auto add = [&](std::int64_t rows, std::int64_t cols, WeightHandle& handle) {
    held.push_back(random_weight(rows, cols, DType::kF32));
    handle = std::move(held.back().handle);
  };
  add(5, 8, w.router);
  for (int e = 0; e < 5; ++e) {
    add(4, 8, w.gate.emplace_back());
    add(4, 8, w.up.emplace_back());
    add(8, 4, w.down.emplace_back());
  }
  add(1, 8, w.shared_router);
  add(4, 8, w.shared_gate);
  add(4, 8, w.shared_up);
  add(8, 4, w.shared_down);
  ASSERT_TRUE(backend_->place_experts(w).ok());
  Matrix input = random(3, 8);
  for (std::int64_t i = 0; i < 8; ++i) input(1, i) = std::numeric_limits<double>::quiet_NaN();
  Numbers x(*backend_, input);
  Numbers y(*backend_, Matrix(3, 8));
  backend_->mixture_of_experts(x.tensor(), w, y.tensor());
  const std::vector<float> got = y.read();
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_TRUE(std::isfinite(got[i]));
    EXPECT_TRUE(std::isfinite(got[16 + i]));
  }
}

}  // namespace
}  // namespace lectern::engine
