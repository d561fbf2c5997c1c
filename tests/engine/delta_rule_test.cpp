// SPDX-License-Identifier: GPL-3.0-or-later
// The gated delta rule against the oracle's recurrence: token by token, in chunks, with any cut and any decay.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "support/backend_fixture.h"
#include "support/oracle.h"

namespace lectern::engine {
namespace {

using oracle::Matrix;
using support::Numbers;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b, std::size_t numbers) {
  return std::memcmp(a.data(), b.data(), numbers * sizeof(float)) == 0;
}

struct DeltaCase {
  DeltaShape shape;
  double a_log;  // centre; exp() of it is the decay rate
  double tolerance;
};

class DeltaRule : public support::BackendTest {
 protected:
  static std::vector<float> rates(const std::vector<double>& a_log) {
    std::vector<float> list;
    for (const double value : a_log) list.push_back(static_cast<float>(-std::exp(value)));
    return list;
  }

  // Runs `cuts` one after another from a random state and compares every output and the final state.
  void compare(const DeltaCase& test, const std::vector<std::int64_t>& cuts) {
    const DeltaShape& s = test.shape;
    const std::vector<double> a_log = random_list(s.value_heads, 0.5, test.a_log);
    const std::vector<double> dt_bias = random_list(s.value_heads, 1.0, -1.0);
    const DeltaGates decay = {on_device(rates(a_log)), on_device(dt_bias)};
    Matrix expected_state = random(s.value_heads * s.key_dim, s.value_dim, 0.3);
    Numbers state(*backend_, expected_state);
    for (const std::int64_t rows : cuts) {
      const Matrix qkv = random(rows, 2 * s.key_heads * s.key_dim + s.value_heads * s.value_dim, 2.0);
      const Matrix ba = random(rows, 2 * s.value_heads, 3.0);
      const Matrix expected = oracle::delta_rule(qkv, ba, a_log, dt_bias, s, expected_state);
      Numbers inputs(*backend_, qkv);
      Numbers gates(*backend_, ba);
      Numbers o(*backend_, rows, s.value_heads * s.value_dim);
      backend_->delta_rule(inputs.tensor(), gates.tensor(), decay, s, state.data(), o.tensor());
      o.expect(expected, test.tolerance);
      inputs.expect_unchanged();
      gates.expect_unchanged();
    }
    state.expect(expected_state, test.tolerance);
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, DeltaRule, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

TEST_P(DeltaRule, EveryLengthAndCut) {
  const DeltaShape shapes[] = {{2, 4, 16, 16}, {1, 5, 12, 20}, {3, 3, 7, 33}, {1, 2, 128, 128}};
  for (const DeltaShape& shape : shapes) {
    compare({shape, 0.0, kind().recurrence}, {1, 1, 1, 2, 3});
    compare({shape, 0.0, kind().recurrence}, {8});
    compare({shape, 0.0, kind().recurrence}, {9, 1, 64});
    compare({shape, 0.0, kind().recurrence}, {63, 65, 2});
    compare({shape, 0.0, kind().recurrence}, {200});
  }
}

TEST_P(DeltaRule, WeakAndStrongDecay) {
  for (const double a_log : {-8.0, 1.5, 4.0, 8.0, 60.0, 200.0}) {
    SCOPED_TRACE(a_log);
    compare({{2, 4, 16, 16}, a_log, kind().recurrence}, {150, 1, 20});
  }
}

TEST_P(DeltaRule, KeysOfZeroAreHarmless) {
  const DeltaShape shape = {1, 1, 4, 4};
  Numbers inputs(*backend_, Matrix(20, 12));
  Numbers gates(*backend_, Matrix(20, 2));
  Numbers state(*backend_, Matrix(4, 4));
  Numbers o(*backend_, 20, 4);
  const DeltaGates decay = {on_device(std::vector{-1.0}), on_device(std::vector{0.0})};
  backend_->delta_rule(inputs.tensor(), gates.tensor(), decay, shape, state.data(), o.tensor());
  o.expect(Matrix(20, 4), 0);
}

// Drafts that are taken back: nothing of them may stay, and those accepted must count as if read one by one.
TEST_P(DeltaRule, TentativeRowsTakeEffectOnlyAsFarAsTheyAreApplied) {
  const DeltaShape s = {2, 6, 20, 28};
  constexpr std::int64_t kRows = 5;
  const DeltaGates decay = {on_device(std::vector<float>(6, -0.7F)), on_device(std::vector<float>(6, 0.2F))};
  const Matrix qkv = random(kRows, 2 * s.key_heads * s.key_dim + s.value_heads * s.value_dim, 2.0);
  const Matrix ba = random(kRows, 2 * s.value_heads, 3.0);
  const Matrix start = random(s.value_heads * s.key_dim, s.value_dim, 0.3);
  for (std::int64_t accepted = 0; accepted <= kRows; ++accepted) {
    Numbers inputs(*backend_, qkv);
    Numbers gates(*backend_, ba);
    Numbers tentative(*backend_, start);
    Numbers outputs(*backend_, kRows, s.value_heads * s.value_dim);
    Numbers changes(*backend_, kRows, s.value_heads * (s.key_dim + s.value_dim + 1));
    backend_->delta_rule_tentative(inputs.tensor(), gates.tensor(), decay, s, tentative.data(), changes.data(),
                                   outputs.tensor());
    tentative.expect_unchanged();
    backend_->apply_changes(changes.data(), accepted, s, tentative.data());

    Numbers plain(*backend_, start);
    Numbers plain_outputs(*backend_, kRows, s.value_heads * s.value_dim);
    for (std::int64_t t = 0; t < accepted; ++t) {
      const auto row = [t](Numbers& all) { return Tensor{all.tensor().row(t), 1, all.tensor().cols}; };
      backend_->delta_rule(row(inputs), row(gates), decay, s, plain.data(), row(plain_outputs));
    }
    EXPECT_TRUE(same_bits(tentative.read(), plain.read(), start.values.size())) << accepted << " accepted";
    const auto output_numbers = static_cast<std::size_t>(accepted * s.value_heads * s.value_dim);
    EXPECT_TRUE(same_bits(outputs.read(), plain_outputs.read(), output_numbers)) << accepted << " accepted";
  }
}

// A worked example in float64, token by token and as one chunk.
TEST_P(DeltaRule, WorkedExample) {
  constexpr double kOutputs[5][2] = {{0.076067954037, 0.076067954037},
                                     {0.218057570668, 0.265203505004},
                                     {0.324949528350, 0.371080690887},
                                     {0.345290498314, 0.325227709549},
                                     {0.222506775271, 0.107532396944}};
  constexpr double kState[4][2] = {{-0.000036802935, 0.128812448693},
                                   {-0.375641937881, -0.152753180303},
                                   {-0.466968743240, -0.318718247815},
                                   {-0.204902913456, -0.243483699521}};
  const DeltaShape shape = {1, 1, 4, 2};
  Matrix qkv(5, 10);
  Matrix ba(5, 2);
  Matrix expected(5, 2);
  for (int t = 0; t < 5; ++t) {
    for (int i = 0; i < 4; ++i) {
      qkv(t, i) = std::sin(0.7 * t + 1.3 * i + 0.1);
      qkv(t, 4 + i) = std::cos(0.5 * t + 0.9 * i + 0.2);
    }
    for (int j = 0; j < 2; ++j) {
      qkv(t, 8 + j) = std::sin(0.3 * t * (j + 1) + 0.5);
      expected(t, j) = kOutputs[t][j];
    }
    ba(t, 0) = std::sin(0.9 * t + 0.3);
    ba(t, 1) = std::cos(1.1 * t);
  }
  Matrix final_state(4, 2);
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 2; ++j) final_state(i, j) = kState[i][j];
  }
  const DeltaGates decay = {on_device(std::vector{-std::exp(0.3F)}), on_device(std::vector{-0.4F})};
  for (const bool together : {false, true}) {
    // More rows than go one by one, of which only the first five matter: later ones cannot reach back.
    const std::int64_t rows = together ? 20 : 5;
    Matrix padded(rows, 10);
    Matrix padded_gates(rows, 2);
    std::copy(qkv.values.begin(), qkv.values.end(), padded.values.begin());
    std::copy(ba.values.begin(), ba.values.end(), padded_gates.values.begin());
    Numbers inputs(*backend_, padded);
    Numbers gates(*backend_, padded_gates);
    Numbers state(*backend_, Matrix(4, 2));
    Numbers o(*backend_, rows, 2);
    backend_->delta_rule(inputs.tensor(), gates.tensor(), decay, shape, state.data(), o.tensor());
    const std::vector<float> got = o.read();
    for (std::size_t i = 0; i < expected.values.size(); ++i) EXPECT_NEAR(got[i], expected.values[i], 1e-6);
    if (!together) state.expect(final_state, 2e-6);
  }
}

}  // namespace
}  // namespace lectern::engine
