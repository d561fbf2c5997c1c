// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/packed.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace lectern::retrieval {
namespace {

TEST(Packed, RunsComeBack) {
  const std::vector<TextRun> runs = {{0, 0, 0, 10}, {11, 0, 300, 5}, {16, 70'000, 4'000'000'000U, 84}};
  const auto unpacked = unpack_runs(pack_runs(runs), 100);
  ASSERT_TRUE(unpacked);
  ASSERT_EQ(unpacked->size(), runs.size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ((*unpacked)[i].chunk_offset, runs[i].chunk_offset);
    EXPECT_EQ((*unpacked)[i].page, runs[i].page);
    EXPECT_EQ((*unpacked)[i].page_offset, runs[i].page_offset);
    EXPECT_EQ((*unpacked)[i].length, runs[i].length);
  }
  EXPECT_FALSE(unpack_runs(pack_runs(runs), 99)) << "beyond the text";
}

TEST(Packed, WordsKeepTheirPlaceAndNeverLoseTheirArea) {
  const std::vector<Word> words = {{0, 3, {0, 0, 1, 1}}, {4, 9, {0.123456F, 0.2F, 0.123457F, 0.200001F}}};
  const auto unpacked = unpack_words(pack_words(words), 9);
  ASSERT_TRUE(unpacked);
  ASSERT_EQ(unpacked->size(), 2U);
  EXPECT_EQ((*unpacked)[1].begin, 4U);
  EXPECT_EQ((*unpacked)[1].end, 9U);
  EXPECT_FLOAT_EQ((*unpacked)[0].rect.right, 1);
  EXPECT_LT((*unpacked)[1].rect.left, (*unpacked)[1].rect.right);
  EXPECT_LT((*unpacked)[1].rect.top, (*unpacked)[1].rect.bottom);
  EXPECT_NEAR((*unpacked)[1].rect.left, 0.123456F, 2e-5);
}

TEST(Packed, OutOfRangeRectanglesAreClamped) {
  const std::vector<Word> words = {{0, 3, {-5, std::nanf(""), 1e30F, 2}}};
  const auto unpacked = unpack_words(pack_words(words), 3);
  ASSERT_TRUE(unpacked);
  EXPECT_FLOAT_EQ((*unpacked)[0].rect.left, 0);
  EXPECT_FLOAT_EQ((*unpacked)[0].rect.right, 1);
}

TEST(Packed, AnyBytesAreReadSafely) {
  std::mt19937 random(5);
  for (int i = 0; i < 20'000; ++i) {
    Packed bytes(random() % 40);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() % 7 == 0 ? 0xff : random() % 130);
    const std::size_t text_size = random() % 200;
    if (const auto words = unpack_words(bytes, text_size)) {
      for (const Word& word : *words) EXPECT_LE(word.end, text_size);
    }
    if (const auto runs = unpack_runs(bytes, text_size)) {
      for (const TextRun& run : *runs) EXPECT_LE(std::size_t{run.chunk_offset} + run.length, text_size);
    }
  }
}

}  // namespace
}  // namespace lectern::retrieval
