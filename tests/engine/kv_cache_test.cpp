// SPDX-License-Identifier: GPL-3.0-or-later
// What a cache of keys and values holds, and what attention reads from it; for the numbers, see backend_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ops/backend.h"
#include "support/backend_fixture.h"
#include "support/kv_rows.h"

namespace lectern::engine {
namespace {

using oracle::Matrix;
using support::kKvTypes;
using support::KvRows;
using support::Numbers;
using support::saved_rows;

constexpr AttentionShape kShape = {4, 2, 40};
constexpr std::int64_t kWidth = kShape.kv_heads * kShape.head_dim;

// Of the stored from the given number: half a unit in the last place, and half a step of 127 up to the largest of 32.
constexpr double kBF16Rounding = 1.0 / 256;
constexpr double kQ8Rounding = 0.501 / 127;

class KvCacheTest : public support::BackendTest {
 protected:
  std::unique_ptr<KvCache> make(KvType type, const AttentionShape& shape = kShape) {
    auto cache = backend_->make_kv_cache(shape, type);
    EXPECT_TRUE(cache.ok());
    return std::move(cache).value();
  }

  void append(KvCache& cache, const Matrix& k, const Matrix& v) {
    Numbers keys(*backend_, k);
    Numbers values(*backend_, v);
    ASSERT_TRUE(backend_->reserve_kv(cache, k.rows).ok());
    backend_->append_kv(keys.tensor(), values.tensor(), cache);
    keys.expect_unchanged();
    values.expect_unchanged();
  }

  KvRows append_random(KvCache& cache, std::int64_t rows, std::int64_t width = kWidth) {
    KvRows added = {random(rows, width, 3.0), random(rows, width)};
    append(cache, added.keys, added.values);
    return added;
  }

  std::vector<std::byte> all_rows(const KvCache& cache) { return saved_rows(*backend_, cache, 0, cache.length()); }

  std::vector<float> attend(const Matrix& q, const KvCache& cache, const AttentionShape& shape = kShape) {
    Numbers queries(*backend_, q);
    Numbers y(*backend_, q.rows, q.cols);
    backend_->attend(queries.tensor(), cache, shape, y.tensor());
    return y.read();
  }

  Matrix queries(std::int64_t rows, const AttentionShape& shape = kShape) {
    return random(rows, shape.query_heads * shape.head_dim, 3.0);
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, KvCacheTest, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void expect_near(const Matrix& stored, const Matrix& given, std::int64_t head_dim, KvType type) {
  ASSERT_EQ(stored.values.size(), given.values.size());
  for (std::int64_t row = 0; row < given.rows; ++row) {
    for (std::int64_t i = 0; i < given.cols; ++i) {
      double allowed = type == KvType::kBF16 ? kBF16Rounding * std::abs(given(row, i)) : 0;
      for (std::int64_t j = i % head_dim / 32 * 32; type == KvType::kQ8 && j < head_dim && j / 32 == i % head_dim / 32;
           ++j) {
        allowed = std::max(allowed, kQ8Rounding * std::abs(given(row, i / head_dim * head_dim + j)));
      }
      ASSERT_LE(std::abs(stored(row, i) - given(row, i)), allowed) << row << ", " << i;
    }
  }
}

TEST_P(KvCacheTest, HoldsRowsRoundedToItsType) {
  for (const KvType type : kKvTypes) {
    for (const AttentionShape& shape : {kShape, AttentionShape{3, 3, 7}, AttentionShape{2, 1, 256}}) {
      const std::int64_t width = shape.kv_heads * shape.head_dim;
      auto cache = make(type, shape);
      EXPECT_EQ(cache->length(), 0);
      Matrix keys(0, width);
      Matrix values(0, width);
      for (const std::int64_t rows : {1, 62, 2, 190, 300}) {
        const KvRows added = append_random(*cache, rows, width);
        keys.values.insert(keys.values.end(), added.keys.values.begin(), added.keys.values.end());
        values.values.insert(values.values.end(), added.values.values.begin(), added.values.values.end());
      }
      keys.rows = values.rows = 555;
      ASSERT_EQ(cache->length(), 555);
      const KvRows stored = support::stored_rows(*backend_, *cache, shape, type);
      expect_near(stored.keys, keys, shape.head_dim, type);
      expect_near(stored.values, values, shape.head_dim, type);
    }
  }
}

TEST_P(KvCacheTest, HalfwayNumbersBecomeTheEvenNeighbour) {
  auto cache = make(KvType::kBF16, {1, 1, 4});
  Matrix given(1, 4);
  given.values = {1 + 1.0 / 256, 1 + 3.0 / 256, -(1 + 1.0 / 256), 1 + 1.0 / 256 + 1.0 / 65536};
  append(*cache, given, given);
  const KvRows stored = support::stored_rows(*backend_, *cache, {1, 1, 4}, KvType::kBF16);
  EXPECT_EQ(stored.keys.values, (std::vector<double>{1, 1 + 4.0 / 256, -1, 1 + 2.0 / 256}));
}

TEST_P(KvCacheTest, SavedRowsComeBackBitByBit) {
  for (const KvType type : kKvTypes) {
    auto cache = make(type);
    append_random(*cache, 333);
    const std::vector<std::byte> bytes = all_rows(*cache);
    auto copy = make(type);
    const std::size_t cut = static_cast<std::size_t>(100 * cache->bytes_of_row());
    for (const auto part : {std::span(bytes).first(cut), std::span(bytes).subspan(cut)}) {
      ASSERT_TRUE(backend_->reserve_kv(*copy, 233).ok());
      backend_->load_rows(part, *copy);
    }
    EXPECT_EQ(copy->length(), 333);
    EXPECT_EQ(all_rows(*copy), bytes);
    EXPECT_EQ(
        saved_rows(*backend_, *cache, 60, 10),
        std::vector<std::byte>(bytes.begin() + 60 * cache->bytes_of_row(), bytes.begin() + 70 * cache->bytes_of_row()));
    const Matrix q = queries(3);
    EXPECT_TRUE(same_bits(attend(q, *cache), attend(q, *copy)));
  }
}

TEST_P(KvCacheTest, ForksShareWhatTheyHoldAndNothingElse) {
  for (const std::int64_t shared : {0, 1, 255, 256, 300}) {
    SCOPED_TRACE(shared);
    auto first = make(KvType::kBF16);
    if (shared > 0) append_random(*first, shared);
    const std::vector<std::byte> before = all_rows(*first);
    ASSERT_TRUE(backend_->reserve_kv(*first, 400).ok());
    auto second = first->fork();
    EXPECT_EQ(second->length(), shared);
    EXPECT_EQ(all_rows(*second), before);
    EXPECT_LE(second->bytes(), first->bytes());

    auto alone = make(KvType::kBF16);
    const KvRows added = append_random(*first, 5);
    append(*alone, added.keys, added.values);
    EXPECT_EQ(all_rows(*second), before);
    append_random(*second, 7);
    auto third = second->fork();
    append_random(*third, 300);
    EXPECT_EQ(saved_rows(*backend_, *first, shared, 5), all_rows(*alone));
    for (KvCache* cache : {first.get(), second.get(), third.get()}) {
      EXPECT_EQ(saved_rows(*backend_, *cache, 0, shared), before);
    }
    EXPECT_EQ(saved_rows(*backend_, *third, 0, shared + 7), all_rows(*second));
    const std::vector<std::byte> rows = all_rows(*second);
    first.reset();
    third.reset();
    EXPECT_EQ(all_rows(*second), rows);
  }
}

// Blocks of a megabyte: the third and fourth come from one piece of memory, of which a fork must not take what is left.
TEST_P(KvCacheTest, ForksOfLargeCachesGrowApart) {
  constexpr AttentionShape kLarge = {2, 2, 256};
  constexpr std::int64_t kLargeWidth = kLarge.kv_heads * kLarge.head_dim;
  auto cache = make(KvType::kF32, kLarge);
  const KvRows shared = append_random(*cache, 600, kLargeWidth);
  auto fork = cache->fork();
  const KvRows own = append_random(*cache, 300, kLargeWidth);
  const KvRows others = append_random(*fork, 300, kLargeWidth);
  const auto expect_rows = [&](const KvCache& grown, const KvRows& last) {
    auto anew = make(KvType::kF32, kLarge);
    append(*anew, shared.keys, shared.values);
    append(*anew, last.keys, last.values);
    EXPECT_TRUE(all_rows(grown) == all_rows(*anew));
  };
  expect_rows(*cache, own);
  expect_rows(*fork, others);
}

TEST_P(KvCacheTest, AForkForgetsRowsForItselfAlone) {
  auto first = make(KvType::kQ8);
  append_random(*first, 600);
  const std::vector<std::byte> before = all_rows(*first);
  auto second = first->fork();
  second->truncate(270);
  append_random(*second, 100);
  EXPECT_EQ(all_rows(*first), before);
  EXPECT_EQ(saved_rows(*backend_, *second, 0, 270), saved_rows(*backend_, *first, 0, 270));
}

TEST_P(KvCacheTest, ForgottenRowsLeaveNoTrace) {
  for (const KvType type : kKvTypes) {
    for (const std::int64_t kept : {0, 1, 63, 64, 255, 256, 257}) {
      auto cache = make(type);
      auto clean = make(type);
      if (kept > 0) {
        const KvRows rows = append_random(*cache, kept);
        append(*clean, rows.keys, rows.values);
      }
      Matrix broken(70, kWidth);
      std::fill(broken.values.begin(), broken.values.end(), std::numeric_limits<double>::quiet_NaN());
      append(*cache, broken, broken);
      cache->truncate(kept);
      EXPECT_EQ(cache->length(), kept);
      const KvRows rows = append_random(*cache, 3);
      append(*clean, rows.keys, rows.values);
      EXPECT_EQ(all_rows(*cache), all_rows(*clean));
      const Matrix q = queries(3);
      EXPECT_TRUE(same_bits(attend(q, *cache), attend(q, *clean))) << kept;
    }
  }
}

TEST_P(KvCacheTest, TakesMemoryInStepsAndGivesItBack) {
  auto cache = make(KvType::kBF16);
  EXPECT_EQ(cache->bytes(), 0);
  append_random(*cache, 1);
  const std::int64_t step = cache->bytes();
  EXPECT_GE(step, cache->bytes_of_row());
  ASSERT_TRUE(backend_->reserve_kv(*cache, 1000).ok());
  const std::int64_t reserved = cache->bytes();
  EXPECT_EQ(reserved % step, 0);
  EXPECT_GE(reserved, 1001 * cache->bytes_of_row());
  append_random(*cache, 1000);
  EXPECT_EQ(cache->bytes(), reserved);
  EXPECT_LT(reserved, 2 * 1001 * cache->bytes_of_row());
  cache->truncate(1);
  EXPECT_EQ(cache->bytes(), step);
  cache->truncate(0);
  EXPECT_EQ(cache->bytes(), 0);
}

TEST_P(KvCacheTest, TooManyRowsAreAnErrorAndChangeNothing) {
  auto cache = make(KvType::kBF16);
  append_random(*cache, 10);
  const std::vector<std::byte> before = all_rows(*cache);
  const std::int64_t bytes = cache->bytes();
  for (const std::int64_t rows : {std::int64_t{1} << 50, std::numeric_limits<std::int64_t>::max()}) {
    const auto reserved = backend_->reserve_kv(*cache, rows);
    ASSERT_FALSE(reserved.ok());
    EXPECT_EQ(reserved.error().code, ErrorCode::kOutOfMemory);
  }
  EXPECT_EQ(cache->bytes(), bytes);
  EXPECT_EQ(all_rows(*cache), before);
}

TEST_P(KvCacheTest, HeadsThatCannotBeAreAnError) {
  for (const AttentionShape& shape : {AttentionShape{1, 0, 64}, AttentionShape{1, 1, 0}, AttentionShape{1, -1, 64},
                                      AttentionShape{1, 1 << 20, 1 << 20}}) {
    EXPECT_FALSE(backend_->make_kv_cache(shape, KvType::kF32).ok());
  }
}

// Drafts are checked several at a time; the result must be that of one after the other.
TEST_P(KvCacheTest, AFewRowsAtOnceAreTheSameBitsAsOneByOne) {
  const AttentionShape shapes[] = {{4, 2, 40}, {16, 1, 16}, {3, 3, 7}};
  for (const AttentionShape& shape : shapes) {
    for (const KvType type : kKvTypes) {
      // About the borders of groups, blocks and ranges, and where ranges become longer.
      for (const std::int64_t before : {0, 60, 253, 4093, 16380}) {
        // One type and shape of each way to compute is enough there.
        const bool plain = type == KvType::kF32 && shape.head_dim == 40 && before < 5000;
        const bool tiled = type == KvType::kBF16 && shape.head_dim == 16;
        if (kind().slow && before > 4000 && !plain && !tiled) continue;
        const std::int64_t rows = before % 2 == 0 ? 5 : kSmallBatchRows;
        auto cache = make(type, shape);
        append_random(*cache, before + rows, shape.kv_heads * shape.head_dim);
        const Matrix q = queries(rows, shape);
        const std::vector<float> together = attend(q, *cache, shape);
        std::vector<float> alone;
        auto shorter = cache->fork();
        for (std::int64_t row = rows - 1; row >= 0; --row) {
          shorter->truncate(before + row + 1);
          Matrix one(1, q.cols);
          std::copy_n(q.values.begin() + row * q.cols, q.cols, one.values.begin());
          const std::vector<float> y = attend(one, *shorter, shape);
          alone.insert(alone.begin(), y.begin(), y.end());
        }
        EXPECT_TRUE(same_bits(together, alone)) << support::kv_type_name(type) << " " << before;
      }
    }
  }
}

TEST_P(KvCacheTest, AFewRowsDoNotDependOnTheNumberOfThreads) {
  if (!kind().with_threads) return;
  auto cache = make(KvType::kBF16);
  append_random(*cache, 5000);
  const Matrix q = queries(5);
  const std::vector<float> expected = attend(q, *cache);
  for (const int threads : {1, 3, 5}) {
    backend_ = kind().with_threads(threads);
    EXPECT_TRUE(same_bits(attend(q, *cache), expected)) << threads;
  }
}

TEST_P(KvCacheTest, ABrokenRowSpoilsNoneBeforeIt) {
  for (const KvType type : kKvTypes) {
    auto cache = make(type);
    append_random(*cache, 67);
    Matrix broken = random(3, kWidth);
    for (std::int64_t i = 0; i < kWidth; ++i) broken(1, i) = std::numeric_limits<double>::infinity();
    append(*cache, broken, broken);
    const std::vector<float> y = attend(queries(3), *cache);
    const std::size_t row = y.size() / 3;
    for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isfinite(y[i]), i < row) << i;
  }
}

}  // namespace
}  // namespace lectern::engine
