// SPDX-License-Identifier: GPL-3.0-or-later
// Operations that a backend may do in one: the same bits as those they are made of, on every backend.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/backend_fixture.h"
#include "support/kv_rows.h"

namespace lectern::engine {
namespace {

using oracle::Matrix;
using support::HeldWeight;
using support::Numbers;

// Of seven experts, of which two are used, and of the shared one.
struct ExpertCase {
  DType router;
  DType gate;
  DType up;
  DType down;
  std::int64_t hidden;
};

constexpr std::int64_t kRowCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 40};
constexpr float kEps = 1e-6F;

void expect_same(const Numbers& actual, const Numbers& expected) {
  const std::vector<float> a = actual.read();
  const std::vector<float> b = expected.read();
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(float)));
}

class FusedOperations : public support::BackendTest {
 protected:
  std::vector<HeldWeight> weights(const std::vector<DType>& types, std::int64_t cols) {
    constexpr std::int64_t kRows[] = {70, 33, 5, 1};
    std::vector<HeldWeight> held;
    for (std::size_t i = 0; i < types.size(); ++i) held.push_back(random_weight(kRows[i % 4], cols, types[i]));
    return held;
  }

  // `shift`: of x from a place that is aligned to 16 bytes, in numbers.
  void compare_norm(const std::vector<DType>& types, std::int64_t cols, std::int64_t shift) {
    const std::vector<HeldWeight> held = weights(types, cols);
    const Norm norm = {on_device(random_list(cols, 0.5, 1.0)), kEps};
    for (const std::int64_t rows : kRowCounts) {
      SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(cols));
      Numbers memory(*backend_, random(1, rows * cols + shift, 3.0));
      const Tensor x = {memory.data() + shift, rows, cols};
      Numbers normed(*backend_, rows, cols);
      std::vector<Numbers> results;
      std::vector<Projection> together;
      std::vector<Projection> apart;
      results.reserve(2 * held.size());
      for (const HeldWeight& w : held) {
        together.push_back({w.handle.get(), results.emplace_back(*backend_, rows, w.handle->rows()).tensor()});
        apart.push_back({w.handle.get(), results.emplace_back(*backend_, rows, w.handle->rows()).tensor()});
      }
      backend_->linear_of_norm(x, norm, together, normed.tensor());
      backend_->Backend::linear_of_norm(x, norm, apart, normed.tensor());
      for (std::size_t i = 0; i < results.size(); i += 2) expect_same(results[i], results[i + 1]);
      memory.expect_unchanged();
    }
  }

  void compare_gated(DType type, std::int64_t cols, std::int64_t width) {
    const HeldWeight w = random_weight(37, cols, type);
    const Norm norm = {on_device(random_list(width, 0.5, 1.0)), kEps};
    for (const std::int64_t rows : kRowCounts) {
      SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(cols));
      const Matrix inputs = random(rows, cols, 3.0);
      const Matrix before = random(rows, 37);
      Numbers gate(*backend_, random(rows, cols, 3.0));
      const auto compare = [&](const auto& operation) {
        Numbers x(*backend_, inputs);
        Numbers other_x(*backend_, inputs);
        Numbers y(*backend_, before);
        Numbers other_y(*backend_, before);
        operation(x.tensor(), y.tensor(), true);
        operation(other_x.tensor(), other_y.tensor(), false);
        expect_same(y, other_y);
      };
      compare([&](const Tensor& o, const Tensor& y, bool fused) {
        fused ? backend_->linear_of_gated_norm(o, gate.tensor(), norm, width, *w.handle, y)
              : backend_->Backend::linear_of_gated_norm(o, gate.tensor(), norm, width, *w.handle, y);
      });
      compare([&](const Tensor& o, const Tensor& y, bool fused) {
        fused ? backend_->linear_of_gated(o, gate.tensor(), *w.handle, y)
              : backend_->Backend::linear_of_gated(o, gate.tensor(), *w.handle, y);
      });
      gate.expect_unchanged();
    }
  }

  void compare_conv(std::int64_t channels, std::int64_t taps) {
    const float* const w = on_device(random_list(channels * taps, 1.0, 0.0));
    for (const std::int64_t rows : kRowCounts) {
      for (const bool keeps : {false, true}) {
        SCOPED_TRACE(std::to_string(rows) + " rows, " + std::to_string(taps) + " taps");
        const Matrix before = random(taps - 1, channels);
        Numbers u(*backend_, random(rows, channels));
        Numbers state(*backend_, before);
        Numbers other_state(*backend_, before);
        Numbers y(*backend_, rows, channels);
        Numbers other_y(*backend_, rows, channels);
        Numbers kept(*backend_, rows, channels);
        backend_->step_conv(u.tensor(), w, taps, state.data(), keeps ? kept.data() : nullptr, y.tensor());
        backend_->causal_conv(u.tensor(), w, taps, other_state.data(), other_y.tensor());
        if (!keeps) backend_->advance_conv(u.tensor(), taps, other_state.data());
        expect_same(y, other_y);
        expect_same(state, other_state);
        if (keeps) expect_same(kept, u);
        u.expect_unchanged();
      }
    }
  }

  ExpertWeights experts(const ExpertCase& test, std::vector<HeldWeight>& held) {
    constexpr std::int64_t kWidth = 256;
    const auto take = [&](std::int64_t rows, std::int64_t cols, DType type) {
      held.push_back(random_weight(rows, cols, type));
      return std::move(held.back().handle);
    };
    ExpertWeights w;
    w.experts_per_token = 2;
    w.router = take(7, test.hidden, test.router);
    for (int e = 0; e < 7; ++e) {
      w.gate.push_back(take(kWidth, test.hidden, test.gate));
      w.up.push_back(take(kWidth, test.hidden, test.up));
      w.down.push_back(take(test.hidden, kWidth, test.down));
    }
    w.shared_router = take(1, test.hidden, test.router);
    w.shared_gate = take(kWidth, test.hidden, test.gate);
    w.shared_up = take(kWidth, test.hidden, test.up);
    w.shared_down = take(test.hidden, kWidth, test.down);
    EXPECT_TRUE(backend_->place_experts(w).ok());
    return w;
  }

  void compare_experts(const ExpertCase& test, std::int64_t rows) {
    SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(test.hidden));
    std::vector<HeldWeight> held;
    const ExpertWeights w = experts(test, held);
    const Norm norm = {on_device(random_list(test.hidden, 0.5, 1.0)), kEps};
    const Matrix inputs = random(rows, test.hidden, 3.0);
    Numbers x(*backend_, inputs);
    Numbers other_x(*backend_, inputs);
    Numbers normed(*backend_, rows, test.hidden);
    backend_->experts_of_norm(x.tensor(), norm, w, normed.tensor(), x.tensor());  // as the graph does
    backend_->Backend::experts_of_norm(other_x.tensor(), norm, w, normed.tensor(), other_x.tensor());
    expect_same(x, other_x);
  }

  void compare_heads(const AttentionShape& shape, KvType type, std::int64_t pairs, std::int64_t rows) {
    SCOPED_TRACE(std::to_string(rows) + " rows, heads of " + std::to_string(shape.head_dim));
    RotaryTable table;
    for (std::int64_t i = 0; i < pairs; ++i) table.inverse_frequency.push_back(1.0 / static_cast<double>(1 + 3 * i));
    table.magnitude = 1.25;
    const Norm q_norm = {on_device(random_list(shape.head_dim, 0.5, 1.0)), kEps};
    const Norm k_norm = {on_device(random_list(shape.head_dim, 0.5, 1.0)), kEps};
    const std::int64_t width = shape.kv_heads * shape.head_dim;
    const Matrix queries = random(rows, shape.query_heads * shape.head_dim);
    const Matrix keys = random(rows, width);
    const Matrix values = random(rows, width);
    const Matrix before = random(5, width);
    std::vector<Numbers> results;
    std::vector<std::vector<std::byte>> held;
    for (const bool fused : {true, false}) {
      const std::unique_ptr<KvCache> cache = backend_->make_kv_cache(shape, type).value();
      ASSERT_TRUE(backend_->reserve_kv(*cache, rows + 5).ok());
      Numbers first(*backend_, before);
      backend_->append_kv(first.tensor(), first.tensor(), *cache);
      Numbers& q = results.emplace_back(*backend_, queries);
      Numbers k(*backend_, keys);
      Numbers v(*backend_, values);
      if (fused) {
        backend_->append_heads(q.tensor(), q_norm, k.tensor(), k_norm, v.tensor(), table, shape.head_dim, *cache);
      } else {
        backend_->Backend::append_heads(q.tensor(), q_norm, k.tensor(), k_norm, v.tensor(), table, shape.head_dim,
                                        *cache);
      }
      ASSERT_EQ(cache->length(), rows + 5);
      held.push_back(support::saved_rows(*backend_, *cache, 0, rows + 5));
      v.expect_unchanged();
    }
    expect_same(results[0], results[1]);
    EXPECT_EQ(held[0], held[1]);
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, FusedOperations, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

TEST_P(FusedOperations, LinearOfNormOfNumbers) {
  compare_norm({DType::kF32}, 1, 0);
  compare_norm({DType::kF32, DType::kBF16}, 17, 0);
  compare_norm({DType::kBF16, DType::kF16, DType::kBF16, DType::kF32}, 50, 1);
  compare_norm({DType::kF8E4M3, DType::kBF16}, 600, 0);
  compare_norm({DType::kF16, DType::kF32, DType::kBF16}, 1100, 2);
}

TEST_P(FusedOperations, LinearOfNormOfCodes) {
  compare_norm({DType::kQ8_0, DType::kQ4_0}, 96, 0);
  compare_norm({DType::kQ4K, DType::kQ4K, DType::kQ6K, DType::kQ8_0}, 256, 0);
  compare_norm({DType::kQ5K, DType::kIq4Xs, DType::kMxfp4}, 768, 1);
  compare_norm({DType::kQ2K, DType::kQ3K, DType::kIq4Nl}, 2048, 0);
}

TEST_P(FusedOperations, LinearOfNormOfBoth) {
  compare_norm({DType::kQ4K, DType::kF32, DType::kF8E4M3}, 512, 0);
  compare_norm({DType::kBF16, DType::kQ5_1, DType::kQ5_0, DType::kQ4_1}, 224, 3);
}

TEST_P(FusedOperations, MoreProductsThanUsual) {
  compare_norm({DType::kF32, DType::kF32, DType::kF32, DType::kF32, DType::kF32}, 20, 0);
}

TEST_P(FusedOperations, LinearOfGated) {
  compare_gated(DType::kBF16, 64, 16);
  compare_gated(DType::kF32, 42, 7);
  compare_gated(DType::kQ4K, 512, 128);
  compare_gated(DType::kQ8_0, 1280, 640);
}

TEST_P(FusedOperations, StepConv) {
  compare_conv(130, 4);
  compare_conv(33, 2);
  compare_conv(7, 5);
}

TEST_P(FusedOperations, ExpertsOfNorm) {
  const ExpertCase cases[] = {
      {DType::kF32, DType::kF32, DType::kF32, DType::kF32, 18},
      {DType::kBF16, DType::kBF16, DType::kF16, DType::kBF16, 520},
      {DType::kF32, DType::kQ4K, DType::kQ4K, DType::kQ6K, 768},
      {DType::kF16, DType::kBF16, DType::kQ8_0, DType::kF32, 64},
      {DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, 64},
  };
  for (const ExpertCase& test : cases) {
    for (const std::int64_t rows : {1, 3, 8, 9}) compare_experts(test, rows);
  }
}

TEST_P(FusedOperations, AppendHeads) {
  for (const KvType type : support::kKvTypes) {
    for (const std::int64_t rows : kRowCounts) {
      compare_heads({4, 2, 64}, type, 16, rows);
      compare_heads({3, 1, 42}, type, 21, rows);
    }
    compare_heads({2, 1, 256}, type, 32, 3);
    compare_heads({2, 2, 520}, type, 4, 2);
  }
}

}  // namespace
}  // namespace lectern::engine
