// SPDX-License-Identifier: GPL-3.0-or-later
#include "model/gguf_file.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "support/gguf_bytes.h"
#include "support/scratch.h"

namespace lectern::engine {
namespace {

using support::GgufBytes;

GgufBytes part(std::uint16_t number, std::uint16_t count, std::int32_t tensors) {
  GgufBytes builder;
  builder.number("split.no", number).number("split.count", count).number("split.tensors.count", tensors);
  return builder;
}

void expect_unopenable(const std::filesystem::path& path, ErrorCode code, std::string_view words) {
  const auto file = GgufFile::open(path);
  ASSERT_FALSE(file.ok()) << words;
  EXPECT_EQ(file.error().code, code) << file.error().message;
  EXPECT_NE(file.error().message.find(words), std::string::npos) << file.error().message;
}

class GgufParts : public ::testing::Test {
 protected:
  GgufParts() {
    put(1, part(0, 3, 2).string("general.name", "split"));
    put(2, part(1, 3, 2).tensor("a", {1}, 0, "aaaa"));
    put(3, part(2, 3, 2).tensor("b", {1}, 0, "bbbb"));
  }
  static std::string name(int number) { return "m-0000" + std::to_string(number) + "-of-00003.gguf"; }
  void put(int number, const GgufBytes& builder) const { scratch_.write(name(number), builder.bytes()); }
  std::filesystem::path first() const { return scratch_ / name(1); }

  test::Scratch scratch_;
};

TEST_F(GgufParts, AreOneModel) {
  auto opened = GgufFile::open(first());
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const GgufFile file = std::move(opened).value();
  EXPECT_EQ(*file.metadata().string("general.name"), "split");
  ASSERT_EQ(file.tensors().size(), 2U);
  EXPECT_EQ(std::to_integer<char>(file.tensors().at("a").bytes[3]), 'a');
  EXPECT_EQ(std::to_integer<char>(file.tensors().at("b").bytes[0]), 'b');
}

TEST_F(GgufParts, MustBeOpenedAtTheFirst) {
  expect_unopenable(scratch_ / name(2), ErrorCode::kInvalidArgument,
                    "part 2 of 3; open the part that ends in -00001-of-00003.gguf");
}

TEST_F(GgufParts, MustAllBeThere) {
  std::filesystem::remove(scratch_ / name(3));
  expect_unopenable(first(), ErrorCode::kNotFound, "m-00003-of-00003.gguf is missing");
}

TEST_F(GgufParts, MustKeepTheirNames) {
  std::filesystem::rename(first(), scratch_ / "renamed.gguf");
  expect_unopenable(scratch_ / "renamed.gguf", ErrorCode::kInvalidArgument, "must end in -00001-of-00003.gguf");
}

TEST_F(GgufParts, MustBeInTheirPlace) {
  put(2, part(2, 3, 2).f32("a", {1}));
  expect_unopenable(first(), ErrorCode::kCorrupt, "split.no is 2 of 3, expected 1 of 3");
  put(2, part(1, 2, 2).f32("a", {1}));
  expect_unopenable(first(), ErrorCode::kCorrupt, "expected 1 of 3");
  put(2, GgufBytes().f32("a", {1}));
  expect_unopenable(first(), ErrorCode::kCorrupt, "key split.no is missing");
}

TEST_F(GgufParts, MustNotShareATensor) {
  put(3, part(2, 3, 2).f32("a", {1}));
  expect_unopenable(first(), ErrorCode::kCorrupt, "tensor \"a\" is in another part");
}

TEST_F(GgufParts, MustHoldAllTensors) {
  put(1, part(0, 3, 5));
  expect_unopenable(first(), ErrorCode::kCorrupt, "hold 2 tensors, expected 5");
  put(1, part(0, 3, 2).without("split.tensors.count"));
  expect_unopenable(first(), ErrorCode::kCorrupt, "split.tensors.count is missing");
}

TEST_F(GgufParts, WithNumbersOutOfRange) {
  put(1, part(3, 3, 2));
  expect_unopenable(first(), ErrorCode::kCorrupt, "split.no is 3, expected 0 to 2");
  put(1, part(0, 3, 2).number<std::int32_t>("split.count", -3));
  expect_unopenable(first(), ErrorCode::kCorrupt, "split.count is -3");
  put(1, part(0, 3, 2).number<std::int32_t>("split.count", 100000));
  expect_unopenable(first(), ErrorCode::kCorrupt, "split.count is 100000");
  put(1, part(0, 3, 2).string("split.count", "3"));
  expect_unopenable(first(), ErrorCode::kCorrupt, "split.count is a value of type string");
}

TEST_F(GgufParts, ADamagedPartIsNamed) {
  scratch_.write(name(3), "GGUX");
  expect_unopenable(first(), ErrorCode::kCorrupt, "m-00003-of-00003.gguf: it does not begin with");
}

TEST(GgufFile, ASplitCountOfOneIsASingleFile) {
  const test::Scratch scratch;
  for (const std::uint16_t count : {std::uint16_t{0}, std::uint16_t{1}}) {
    const auto file = GgufFile::open(scratch.write("any.gguf", part(0, count, 9).f32("a", {1}).bytes()));
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ(file->tensors().size(), 1U);
  }
}

TEST(GgufFile, WhatIsNotAFile) {
  const test::Scratch scratch;
  expect_unopenable(scratch / "none.gguf", ErrorCode::kNotFound, "none.gguf");
  expect_unopenable(scratch.path(), ErrorCode::kCorrupt, "not a regular file");
  expect_unopenable(scratch.write("empty.gguf", ""), ErrorCode::kCorrupt, "empty");
}

}  // namespace
}  // namespace lectern::engine
