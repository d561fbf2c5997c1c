// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/vector_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "search/vector_file.h"
#include "store/durable_file.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

constexpr int kDimension = 24;

std::vector<float> random_vectors(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> vectors(count * kDimension);
  for (float& x : vectors) x = normal(random);
  return vectors;
}

std::vector<ChunkId> ids(std::size_t count, ChunkId first = 1, ChunkId step = 3) {
  std::vector<ChunkId> result(count);
  for (std::size_t i = 0; i < count; ++i) result[i] = first + step * static_cast<ChunkId>(i);
  return result;
}

// Double precision, no library.
std::vector<ChunkId> nearest(std::span<const ChunkId> chunks, std::span<const float> vectors,
                             std::span<const float> query, std::size_t limit,
                             const std::function<bool(ChunkId)>& allowed) {
  std::vector<std::pair<double, ChunkId>> scored;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (!allowed(chunks[i])) continue;
    double score = 0;
    for (std::size_t k = 0; k < kDimension; ++k) {
      score += static_cast<double>(vectors[i * kDimension + k]) * static_cast<double>(query[k]);
    }
    scored.emplace_back(-score, chunks[i]);
  }
  std::sort(scored.begin(), scored.end());
  scored.resize(std::min(limit, scored.size()));
  std::vector<ChunkId> result;
  for (const auto& [score, chunk] : scored) result.push_back(chunk);
  return result;
}

std::vector<ChunkId> chunks_of(const std::vector<VectorHit>& hits) {
  std::vector<ChunkId> chunks;
  for (const VectorHit& hit : hits) chunks.push_back(hit.chunk);
  return chunks;
}

TEST(VectorIndex, EqualsBruteForceThroughAddingRemovingAndFiltering) {
  const std::vector<ChunkId> chunks = ids(1000);
  const std::vector<float> vectors = random_vectors(1000, 1);
  const std::vector<float> queries = random_vectors(20, 2);
  VectorIndex index(kDimension);
  index.add(chunks, vectors);
  index.add(std::span(chunks).first(10), std::span(vectors).last(10 * kDimension));  // known ones stay as they are
  EXPECT_EQ(index.size(), 1000U);

  std::vector<ChunkId> removed;
  const auto check = [&](const std::vector<ChunkId>* among) {
    for (std::size_t q = 0; q < 20; ++q) {
      const std::span<const float> query(queries.data() + q * kDimension, kDimension);
      const auto allowed = [&](ChunkId chunk) {
        return !std::ranges::binary_search(removed, chunk) &&
               (among == nullptr || std::ranges::binary_search(*among, chunk));
      };
      EXPECT_EQ(chunks_of(index.search(query, 15, among)), nearest(chunks, vectors, query, 15, allowed));
    }
  };
  check(nullptr);
  const std::vector<ChunkId> among = ids(40, 4, 51);  // some of them unknown
  check(&among);
  for (const std::size_t count : {100U, 300U, 500U}) {  // 300 passes the point where rows are moved together
    std::vector<ChunkId> more;
    for (const ChunkId chunk : chunks) {
      if (more.size() < count && !std::ranges::binary_search(removed, chunk) && chunk % 2 == 1) more.push_back(chunk);
    }
    index.remove(more);
    removed.insert(removed.end(), more.begin(), more.end());
    std::ranges::sort(removed);
    check(nullptr);
    check(&among);
  }
  index.remove(chunks);
  EXPECT_EQ(index.size(), 0U);
  EXPECT_TRUE(index.search(std::span(queries).first(kDimension), 5).empty());
}

TEST(VectorIndex, EqualScoresComeByChunkAndWrongQueriesFindNothing) {
  VectorIndex index(2);
  const std::vector<ChunkId> chunks = {30, 10, 20};
  index.add(chunks, std::vector<float>{1, 0, 1, 0, 1, 0});
  EXPECT_THAT(chunks_of(index.search(std::vector<float>{1, 0}, 10)), testing::ElementsAre(10, 20, 30));
  EXPECT_TRUE(index.search(std::vector<float>{1, 0, 0}, 10).empty());
  EXPECT_TRUE(index.search(std::vector<float>{1, 0}, 0).empty());
}

class VectorFileTest : public testing::Test {
 protected:
  void SetUp() override {
    index.add(chunks, vectors);
    ASSERT_TRUE(save_vectors(file, key(), index));
    bytes = read_bounded(file, 1 << 20).value();
  }

  VectorFileKey key() const { return {version, model, chunks}; }

  bool loads(const VectorFileKey& with) const { return load_vectors(file, with) != nullptr; }

  void write(const std::string& content) const { std::ofstream(file, std::ios::binary) << content; }

  test::Scratch scratch;
  const std::filesystem::path file = scratch / "vectors.faiss";
  const std::vector<ChunkId> chunks = ids(50);
  const std::vector<float> vectors = random_vectors(50, 3);
  StoreVersion version{hash_of("library"), 17};
  EmbeddingModel model{1, "model", kDimension};
  VectorIndex index{kDimension};
  std::string bytes;
};

TEST_F(VectorFileTest, RoundTripAnswersAlike) {
  const auto loaded = load_vectors(file, key());
  ASSERT_NE(loaded, nullptr);
  const std::vector<float> query = random_vectors(1, 9);
  EXPECT_EQ(chunks_of(loaded->search(query, 50)), chunks_of(index.search(query, 50)));
}

TEST_F(VectorFileTest, StaleOrForeignFilesAreNotUsed) {
  VectorFileKey other = key();
  other.version.generation = 18;
  EXPECT_FALSE(loads(other)) << "older state of the library";
  other = key();
  other.version.library = hash_of("another library");
  EXPECT_FALSE(loads(other));
  other = key();
  other.model.name = "another model";
  EXPECT_FALSE(loads(other));
  other = key();
  other.model.dimension = kDimension / 2;
  EXPECT_FALSE(loads(other));
  other = key();
  const std::vector<ChunkId> moved = ids(50, 2);
  other.chunks = moved;
  EXPECT_FALSE(loads(other));
  other.chunks = std::span(chunks).first(49);
  EXPECT_FALSE(loads(other));
  EXPECT_TRUE(loads(key()));
}

TEST_F(VectorFileTest, AnyTruncationIsNoticed) {
  for (std::size_t size = 0; size < bytes.size(); size += size < 300 ? 1 : 97) {
    write(bytes.substr(0, size));
    EXPECT_FALSE(loads(key())) << size;
  }
  write(bytes + "x");
  EXPECT_FALSE(loads(key()));
}

TEST_F(VectorFileTest, AnyFlippedBitIsNoticed) {
  for (std::size_t at = 0; at < bytes.size(); at += at < 400 ? 1 : 31) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    write(damaged);
    EXPECT_FALSE(loads(key())) << at;
  }
}

TEST_F(VectorFileTest, HostilePayloadWithARightChecksumIsRefused) {
  // Somebody who can write the file can make a right envelope, so the shape is checked once more behind FAISS.
  VectorIndex other(kDimension);
  other.add(std::span(chunks).first(10), std::span(vectors).first(10 * kDimension));
  EXPECT_EQ(VectorIndex::deserialize(*other.serialize(std::span(chunks).first(10)), kDimension, chunks), nullptr);
  EXPECT_EQ(VectorIndex::deserialize("", kDimension, chunks), nullptr);
  EXPECT_EQ(VectorIndex::deserialize("no FAISS index at all", kDimension, chunks), nullptr);
  EXPECT_FALSE(other.serialize(chunks).has_value());
}

TEST_F(VectorFileTest, MissingFileOrDirectoryInItsPlaceIsNoFile) {
  std::filesystem::remove(file);
  EXPECT_FALSE(loads(key()));
  std::filesystem::create_directory(file);
  EXPECT_FALSE(loads(key()));
}

}  // namespace
}  // namespace lectern::retrieval
