// SPDX-License-Identifier: GPL-3.0-or-later
#include "model/tensor_file.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/scratch.h"

namespace lectern::engine {
namespace {

std::string file_of(std::string_view header, std::size_t data_bytes, std::int64_t header_length = -1) {
  const auto length =
      static_cast<std::uint64_t>(header_length >= 0 ? header_length : static_cast<std::int64_t>(header.size()));
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(length >> (8 * i) & 0xFF));
  file += header;
  for (std::size_t i = 0; i < data_bytes; ++i) file.push_back(static_cast<char>(i));
  return file;
}

auto parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file.data(), file.size())), "model.safetensors");
}

void expect_corrupt(const std::string& file, std::string_view words) {
  const auto tensors = parse(file);
  ASSERT_FALSE(tensors.ok()) << words;
  EXPECT_EQ(tensors.error().code, ErrorCode::kCorrupt);
  EXPECT_NE(tensors.error().message.find("model.safetensors"), std::string::npos) << tensors.error().message;
  EXPECT_NE(tensors.error().message.find(words), std::string::npos) << tensors.error().message;
}

TEST(TensorFile, ReadsTensorsInAnyOrder) {
  const std::string file =
      file_of(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
              R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
              R"("none":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]}})",
              16);
  const auto tensors = parse(file);
  ASSERT_TRUE(tensors.ok()) << tensors.error().message;
  ASSERT_EQ(tensors->size(), 3U);
  const StoredTensor& b = tensors->at("b");
  EXPECT_EQ(b.dtype, "BF16");
  EXPECT_EQ(b.shape, (std::vector<std::int64_t>{2, 3}));
  ASSERT_EQ(b.bytes.size(), 12U);
  EXPECT_EQ(std::to_integer<int>(b.bytes[0]), 4);
  EXPECT_EQ(tensors->at("a").bytes.size(), 4U);
  EXPECT_TRUE(tensors->at("a").shape.empty());
  EXPECT_TRUE(tensors->at("none").bytes.empty());
}

TEST(TensorFile, NoTensorsIsAFile) { EXPECT_TRUE(parse(file_of("{}", 0)).ok()); }

TEST(TensorFile, TheHeaderMustFitTheFile) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  expect_corrupt("", "too short");
  expect_corrupt("1234567", "too short");
  expect_corrupt(file_of(header, 4, 0), "header length");
  expect_corrupt(file_of(header, 4, 1000), "header length");
  expect_corrupt(file_of(header, 4, INT64_MAX), "header length");
  expect_corrupt(std::string(8, '\xFF') + header, "header length");
  expect_corrupt(file_of(header, 4, static_cast<std::int64_t>(header.size()) - 1), "");
  expect_corrupt(file_of("[]", 0), "'{'");
  expect_corrupt(file_of("{\"a\":}", 0), "");
}

TEST(TensorFile, EveryTruncationIsNoticed) {
  const std::string file = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  ASSERT_TRUE(parse(file).ok());
  for (std::size_t length = 0; length < file.size(); ++length) {
    EXPECT_FALSE(parse(file.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(parse(file + "x").ok());
}

TEST(TensorFile, EntriesThatMakeNoSense) {
  const auto with = [](std::string_view entry) { return file_of("{\"a\":" + std::string(entry) + "}", 8); };
  const std::pair<const char*, const char*> wrong[] = {
      {R"(7)", ""},
      {R"({"shape":[2],"data_offsets":[0,8]})", "dtype"},
      {R"({"dtype":"F32","data_offsets":[0,8]})", "shape"},
      {R"({"dtype":"F32","shape":[2]})", "data_offsets"},
      {R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})", "tensor a has the unknown type F33"},
      {R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})", "dtype"},
      {R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", "tensor a"},
      {R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})", "tensor a"},
      {R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})", "tensor a"},
      {R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})", "dimensions"},
      {R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", "needs 12 bytes, but has 8"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})", "needs 4 bytes, but has 8"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", "does not fit"},
      {R"({"dtype":"F32","shape":[9223372036854775807,2],"data_offsets":[0,8]})", "does not fit"},
      {R"({"dtype":"F32","shape":[1e30],"data_offsets":[0,8]})", "does not fit"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,9]})", "outside"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", "outside"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", "outside"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[9223372036854775800,9223372036854775807]})", "outside"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})", "outside"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", "outside"},
  };
  for (const auto& [entry, words] : wrong) {
    SCOPED_TRACE(entry);
    expect_corrupt(with(entry), words);
  }
}

TEST(TensorFile, HolesOverlapsAndTwins) {
  const auto two = [](std::string_view first, std::string_view second, std::size_t bytes) {
    return file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + std::string(first) +
                       R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" + std::string(second) + "}}",
                   bytes);
  };
  EXPECT_TRUE(parse(two("[4,8]", "[0,4]", 8)).ok());
  expect_corrupt(two("[0,4]", "[0,4]", 4), "overlaps");
  expect_corrupt(two("[0,4]", "[2,6]", 6), "overlaps");
  expect_corrupt(two("[0,4]", "[5,9]", 9), "belong to no tensor");
  expect_corrupt(two("[1,5]", "[5,9]", 9), "belong to no tensor");
  expect_corrupt(two("[0,4]", "[4,8]", 9), "belong to no tensor");
  expect_corrupt(file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                         R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                         8),
                 "");
}

// ---- directories

const std::string kOne = file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4);
const std::string kTwo = file_of(R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);

TEST(TensorFiles, ASingleFile) {
  const test::Scratch scratch;
  scratch.write("model.safetensors", kOne);
  const auto files = TensorFiles::open(scratch.path());
  ASSERT_TRUE(files.ok()) << files.error().message;
  EXPECT_EQ(files->tensors().size(), 1U);
}

TEST(TensorFiles, Shards) {
  const test::Scratch scratch;
  scratch.write("model-1.safetensors", kOne);
  scratch.write("model-2.safetensors", kTwo);
  scratch.write("model.safetensors.index.json",
                R"({"metadata":{},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})");
  auto files = TensorFiles::open(scratch.path());
  ASSERT_TRUE(files.ok()) << files.error().message;
  const TensorFiles moved = std::move(files).value();
  ASSERT_EQ(moved.tensors().size(), 2U);
  EXPECT_EQ(std::to_integer<int>(moved.tensors().at("b").bytes[7]), 7);
}

TEST(TensorFiles, MissingFiles) {
  const test::Scratch scratch;
  EXPECT_EQ(TensorFiles::open(scratch.path()).error().code, ErrorCode::kNotFound);
  scratch.write("model-1.safetensors", kOne);
  scratch.write("model.safetensors.index.json",
                R"({"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})");
  const auto files = TensorFiles::open(scratch.path());
  ASSERT_FALSE(files.ok());
  EXPECT_EQ(files.error().code, ErrorCode::kNotFound);
  EXPECT_NE(files.error().message.find("model-2.safetensors"), std::string::npos) << files.error().message;
}

TEST(TensorFiles, IndexThatCannotBeTrusted) {
  for (const char* shard : {"\"../a.safetensors\"", "\"/etc/passwd\"", "\"..\"", "\"\"", "7", "null"}) {
    const test::Scratch scratch;
    scratch.write("model.safetensors.index.json", R"({"weight_map":{"a":)" + std::string(shard) + "}}");
    const auto files = TensorFiles::open(scratch.path());
    ASSERT_FALSE(files.ok()) << shard;
    EXPECT_EQ(files.error().code, ErrorCode::kCorrupt) << files.error().message;
  }
}

TEST(TensorFiles, ATensorInTwoShards) {
  const test::Scratch scratch;
  scratch.write("model-1.safetensors", kOne);
  scratch.write("model-2.safetensors", kOne);
  scratch.write("model.safetensors.index.json",
                R"({"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})");
  const auto files = TensorFiles::open(scratch.path());
  ASSERT_FALSE(files.ok());
  EXPECT_NE(files.error().message.find("another shard"), std::string::npos) << files.error().message;
}

TEST(TensorFiles, WhatIsNotARegularFile) {
  const test::Scratch scratch;
  std::filesystem::create_directory(scratch / "model.safetensors");
  EXPECT_FALSE(TensorFiles::open(scratch.path()).ok());
  const test::Scratch empty;
  empty.write("model.safetensors", "");
  EXPECT_EQ(TensorFiles::open(empty.path()).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace lectern::engine
