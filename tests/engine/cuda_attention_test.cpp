// SPDX-License-Identifier: GPL-3.0-or-later
// Attention where the CUDA kernels divide the work differently: shapes of real models, rows that share a block or do
// not, few blocks and many, sizes of splits that change, and passes that are repeated.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
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
using support::Numbers;

class CudaAttentionTest : public support::BackendTest {
 protected:
  std::unique_ptr<KvCache> make(const AttentionShape& shape, KvType type, const Matrix& k, const Matrix& v) {
    auto cache = std::move(backend_->make_kv_cache(shape, type)).value();
    append(*cache, k, v);
    return cache;
  }

  std::unique_ptr<KvCache> make_random(const AttentionShape& shape, KvType type, std::int64_t rows) {
    const std::int64_t width = shape.kv_heads * shape.head_dim;
    return make(shape, type, random(rows, width, 3.0), random(rows, width));
  }

  void append(KvCache& cache, const Matrix& k, const Matrix& v) {
    Numbers keys(*backend_, k);
    Numbers values(*backend_, v);
    EXPECT_TRUE(backend_->reserve_kv(cache, k.rows).ok());
    backend_->append_kv(keys.tensor(), values.tensor(), cache);
  }

  Matrix queries(const AttentionShape& shape, std::int64_t rows) {
    return random(rows, shape.query_heads * shape.head_dim, 3.0);
  }

  std::vector<float> attend(const Matrix& q, const KvCache& cache, const AttentionShape& shape) {
    Numbers given(*backend_, q);
    Numbers y(*backend_, q.rows, q.cols);
    backend_->attend(given.tensor(), cache, shape, y.tensor());
    return y.read();
  }

  void expect_as_oracle(const AttentionShape& shape, KvType type, std::int64_t before, std::int64_t rows) {
    SCOPED_TRACE(std::to_string(shape.query_heads) + " x " + std::to_string(shape.head_dim) + ", " +
                 std::to_string(before) + " + " + std::to_string(rows) + ", " +
                 std::string(support::kv_type_name(type)));
    const auto cache = make_random(shape, type, before + rows);
    const support::KvRows stored = support::stored_rows(*backend_, *cache, shape, type);
    const Matrix q = queries(shape, rows);
    Numbers given(*backend_, q);
    Numbers y(*backend_, rows, q.cols);
    backend_->attend(given.tensor(), *cache, shape, y.tensor());
    y.expect(oracle::attend(
                 q, stored.keys, stored.values, shape, [](std::int64_t) { return std::int64_t{0}; },
                 [before](std::int64_t t) { return before + t + 1; }),
             kind().attention(type, rows));
    given.expect_unchanged();
  }

  // Each row read alone, from a cache that ends with it.
  std::vector<float> one_by_one(const Matrix& q, const KvCache& cache, const AttentionShape& shape) {
    std::vector<float> all;
    for (std::int64_t row = 0; row < q.rows; ++row) {
      auto shorter = cache.fork();
      shorter->truncate(cache.length() - q.rows + row + 1);
      Matrix one(1, q.cols);
      std::copy_n(q.values.begin() + row * q.cols, q.cols, one.values.begin());
      const std::vector<float> y = attend(one, *shorter, shape);
      all.insert(all.end(), y.begin(), y.end());
    }
    return all;
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, CudaAttentionTest, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(CudaAttentionTest, ShapesOfModels) {
  const AttentionShape shapes[] = {{16, 2, 256}, {4, 4, 64}, {6, 2, 128}, {3, 1, 80}, {2, 1, 208}, {40, 1, 32}};
  for (const AttentionShape& shape : shapes) {
    for (const auto& [before, rows] : {std::pair<std::int64_t, std::int64_t>{0, 1}, {31, 1}, {250, 8}, {100, 19}}) {
      for (const KvType type : kKvTypes) expect_as_oracle(shape, type, before, rows);
    }
  }
}

TEST_P(CudaAttentionTest, HeadsWiderThanABlockOfThreads) {
  for (const KvType type : kKvTypes) {
    expect_as_oracle({2, 1, 300}, type, 40, 2);
    expect_as_oracle({2, 1, 512}, type, 40, 9);
  }
}

// Nine rows occupy a GPU only when their keys are cut into splits; 140 rows of 256 heads do without.
TEST_P(CudaAttentionTest, ManyRowsInFewBlocksAndInMany) {
  for (const KvType type : kKvTypes) expect_as_oracle({2, 1, 16}, type, 2500, 9);
  expect_as_oracle({256, 1, 16}, KvType::kQ8, 0, 140);
  expect_as_oracle({144, 1, 8}, KvType::kF32, 0, 60);
}

TEST_P(CudaAttentionTest, LengthsAroundTilesAndBlocks) {
  for (const std::int64_t before : {30, 62, 127, 254, 510, 1022}) {
    for (const std::int64_t rows : {1, 3, 10}) expect_as_oracle({4, 2, 64}, KvType::kQ8, before, rows);
    expect_as_oracle({2, 1, 256}, KvType::kBF16, before, 3);
  }
}

TEST_P(CudaAttentionTest, UpToEightRowsAreTheSameBitsAsOneByOne) {
  for (const AttentionShape& shape : {AttentionShape{16, 2, 256}, AttentionShape{2, 1, 128}}) {
    for (const KvType type : kKvTypes) {
      if (type == KvType::kF32 && shape.head_dim > 128) continue;
      const auto cache = make_random(shape, type, 263);
      const Matrix q = queries(shape, kSmallBatchRows);
      const std::vector<float> expected = one_by_one(q, *cache, shape);
      for (std::int64_t rows = 2; rows <= kSmallBatchRows; ++rows) {
        Matrix last(rows, q.cols);
        std::copy(q.values.end() - rows * q.cols, q.values.end(), last.values.begin());
        const std::vector<float> y = attend(last, *cache, shape);
        EXPECT_TRUE(same_bits(y, {expected.end() - rows * q.cols, expected.end()}))
            << rows << support::kv_type_name(type);
      }
    }
  }
}

// Splits become longer behind 8,192 keys: rows on both sides of it in one pass.
TEST_P(CudaAttentionTest, RowsWithDifferentSplitsAreTheSameBitsAsOneByOne) {
  const AttentionShape shape = {3, 1, 16};
  for (const KvType type : {KvType::kF32, KvType::kQ8}) {
    const auto cache = make_random(shape, type, 8194);
    const Matrix q = queries(shape, 4);
    EXPECT_TRUE(same_bits(attend(q, *cache, shape), one_by_one(q, *cache, shape))) << support::kv_type_name(type);
  }
}

TEST_P(CudaAttentionTest, ARepeatedPassSeesTheRowsOfItsOwn) {
  const AttentionShape shape = {8, 2, 64};
  const std::int64_t width = shape.kv_heads * shape.head_dim;
  const std::array<std::uint64_t, 1> key = {77};
  for (const KvType type : kKvTypes) {
    auto cache = make_random(shape, type, 200);
    ASSERT_TRUE(backend_->reserve_kv(*cache, 600).ok());
    auto direct = cache->fork();
    ASSERT_TRUE(backend_->reserve_kv(*direct, 600).ok());
    Numbers k(*backend_, 3, width);
    Numbers v(*backend_, 3, width);
    Numbers q(*backend_, 3, shape.query_heads * shape.head_dim);
    Numbers y(*backend_, 3, shape.query_heads * shape.head_dim);
    for (int pass = 0; pass < 5; ++pass) {
      const Matrix filler = random(100, width, 3.0);
      for (KvCache* each : {cache.get(), direct.get()}) append(*each, filler, filler);
      const std::vector<float> keys = floats(random(3, width, 3.0).values);
      const std::vector<float> values = floats(random(3, width).values);
      const std::vector<float> asked = floats(queries(shape, 3).values);
      std::vector<float> repeated(asked.size());
      backend_->begin_pass(key);
      backend_->upload(keys, k.data());
      backend_->upload(values, v.data());
      backend_->upload(asked, q.data());
      backend_->append_kv(k.tensor(), v.tensor(), *cache);
      backend_->attend(q.tensor(), *cache, shape, y.tensor());
      backend_->download(y.data(), repeated);
      ASSERT_TRUE(backend_->end_pass().ok());
      backend_->append_kv(k.tensor(), v.tensor(), *direct);
      backend_->attend(q.tensor(), *direct, shape, y.tensor());
      EXPECT_TRUE(same_bits(y.read(), repeated)) << pass << support::kv_type_name(type);
    }
  }
}

TEST_P(CudaAttentionTest, ABrokenRowSpoilsNoneBeforeIt) {
  const AttentionShape shape = {2, 1, 64};
  for (const KvType type : kKvTypes) {
    for (const std::int64_t rows : {4, 20}) {
      for (const bool keys_too : {false, true}) {
        Matrix k = random(70 + rows, shape.head_dim);
        Matrix v = random(70 + rows, shape.head_dim);
        const std::int64_t broken = 70 + rows / 2;
        v(broken, 5) = std::numeric_limits<double>::infinity();
        if (keys_too) k(broken, 9) = std::numeric_limits<double>::quiet_NaN();
        const auto cache = make(shape, type, k, v);
        const std::vector<float> y = attend(queries(shape, rows), *cache, shape);
        for (std::int64_t row = 0; row < rows; ++row) {
          const auto first = y.begin() + row * 2 * shape.head_dim;
          const bool finite = std::all_of(first, first + 2 * shape.head_dim, [](float x) { return std::isfinite(x); });
          EXPECT_EQ(finite, row < rows / 2) << row << " of " << rows << support::kv_type_name(type);
        }
      }
    }
  }
}

// Memory for the table of a cache and a few of its blocks, 128 KiB each.
TEST(CudaKvCacheTest, AFullGpuIsAnErrorAndChangesNothing) {
  auto backend = std::move(make_cuda_backend(0, {0, std::int64_t{1} << 20, std::int64_t{1} << 20})).value();
  const AttentionShape shape = {2, 2, 64};
  auto cache = std::move(backend->make_kv_cache(shape, KvType::kBF16)).value();
  ASSERT_TRUE(backend->reserve_kv(*cache, 1000).ok());
  const std::vector<std::byte> rows(static_cast<std::size_t>(600 * cache->bytes_of_row()), std::byte{17});
  backend->load_rows(rows, *cache);
  const std::int64_t bytes = cache->bytes();
  const auto reserved = backend->reserve_kv(*cache, 5000);
  ASSERT_FALSE(reserved.ok());
  EXPECT_EQ(reserved.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(reserved.error().message.find("5000"), std::string::npos) << reserved.error().message;
  EXPECT_EQ(cache->bytes(), bytes);
  EXPECT_EQ(support::saved_rows(*backend, *cache, 0, 600), rows);
  EXPECT_TRUE(backend->status().ok());

  // What a fork shares is not taken again; what it changes is.
  auto fork = cache->fork();
  ASSERT_TRUE(backend->reserve_kv(*fork, 100).ok());
  EXPECT_FALSE(backend->reserve_kv(*fork, 1500).ok());
  cache->truncate(0);
  EXPECT_TRUE(backend->reserve_kv(*fork, 500).ok());
  EXPECT_EQ(support::saved_rows(*backend, *fork, 0, 600), rows);
}

}  // namespace
}  // namespace lectern::engine
