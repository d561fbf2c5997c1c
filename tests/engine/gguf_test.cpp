// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/gguf_parser.h"
#include "support/gguf_bytes.h"

namespace lectern::engine {
namespace {

using support::GgufBytes;
using support::little_endian;

constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();

auto parse(const std::string& file) {
  return parse_gguf(std::as_bytes(std::span(file.data(), file.size())), "model.gguf");
}

void expect_refused(const std::string& file, ErrorCode code, std::string_view words) {
  const auto content = parse(file);
  ASSERT_FALSE(content.ok()) << words;
  EXPECT_EQ(content.error().code, code) << content.error().message;
  EXPECT_TRUE(content.error().message.starts_with("model.gguf: ")) << content.error().message;
  EXPECT_NE(content.error().message.find(words), std::string::npos) << content.error().message;
}

void expect_corrupt(const std::string& file, std::string_view words) {
  expect_refused(file, ErrorCode::kCorrupt, words);
}

// ---- good files

TEST(Gguf, ReadsKeysAndTensors) {
  for (const std::uint32_t version : {2U, 3U}) {
    GgufBytes builder;
    builder.version = version;
    const std::string file = builder.u32("a", 7)
                                 .string("text", "two words")
                                 .tensor("w", {3, 2}, 0, std::string(24, 'w'))
                                 .tensor("q", {64, 2}, 8, std::string(136, 'q'))
                                 .bytes();
    const auto content = parse(file);
    ASSERT_TRUE(content.ok()) << content.error().message;
    EXPECT_EQ(*content->metadata.integer("a"), 7);
    EXPECT_EQ(*content->metadata.string("text"), "two words");
    ASSERT_EQ(content->tensors.size(), 2U);
    const GgufTensor& w = content->tensors.at("w");
    EXPECT_EQ(w.dtype, DType::kF32);
    EXPECT_EQ(w.shape, (std::vector<std::int64_t>{2, 3}));
    ASSERT_EQ(w.bytes.size(), 24U);
    EXPECT_EQ(std::to_integer<char>(w.bytes[23]), 'w');
    const GgufTensor& q = content->tensors.at("q");
    EXPECT_EQ(q.dtype, DType::kQ8_0);
    ASSERT_EQ(q.bytes.size(), 136U);
    EXPECT_EQ(std::to_integer<char>(q.bytes[0]), 'q');
  }
}

TEST(Gguf, EveryTypeOfTheEngineHasItsNumberAndSize) {
  const std::pair<std::uint32_t, DType> types[] = {
      {0, DType::kF32},  {1, DType::kF16},    {30, DType::kBF16},  {2, DType::kQ4_0},
      {3, DType::kQ4_1}, {6, DType::kQ5_0},   {7, DType::kQ5_1},   {8, DType::kQ8_0},
      {10, DType::kQ2K}, {11, DType::kQ3K},   {12, DType::kQ4K},   {13, DType::kQ5K},
      {14, DType::kQ6K}, {20, DType::kIq4Nl}, {23, DType::kIq4Xs}, {39, DType::kMxfp4}};
  for (const auto& [number, dtype] : types) {
    const auto bytes = static_cast<std::size_t>(bytes_of(dtype, 512));
    const auto file = GgufBytes().tensor("w", {256, 2}, number, std::string(bytes, '\0')).bytes();
    const auto content = parse(file);
    ASSERT_TRUE(content.ok()) << content.error().message;
    EXPECT_EQ(content->tensors.at("w").dtype, dtype);
    EXPECT_EQ(content->tensors.at("w").bytes.size(), bytes);
  }
}

TEST(Gguf, UnusualButValidFiles) {
  EXPECT_TRUE(parse(GgufBytes().bytes()).ok());
  EXPECT_TRUE(parse(GgufBytes().u32("a", 1).header()).ok()) << "no data section";
  EXPECT_TRUE(parse(GgufBytes().f32("scalar", {}).bytes()).ok());
  EXPECT_TRUE(parse(GgufBytes().f32("none", {0, 4}).f32("four", {1, 2, 1, 2}).bytes()).ok());
  EXPECT_TRUE(parse(GgufBytes().f32("a", {8}).bytes() + "more").ok()) << "bytes after the last tensor";
  EXPECT_TRUE(parse(GgufBytes().raw_tensor("a", {8}, 0, 64).raw_tensor("b", {8}, 0, 0).data(96).bytes()).ok())
      << "any order, and a gap";
  const std::string unpadded = GgufBytes().tensor("a", {1}, 0, "1234").bytes();
  EXPECT_TRUE(parse(unpadded.substr(0, unpadded.size() - 28)).ok()) << "no padding after the last tensor";
  GgufBytes eight;
  eight.alignment = 8;
  const std::string file = eight.u32("general.alignment", 8).f32("a", {1}).tensor("b", {1}, 0, "bbbb").bytes();
  const auto content = parse(file);
  ASSERT_TRUE(content.ok()) << content.error().message;
  EXPECT_EQ(std::to_integer<char>(content->tensors.at("b").bytes[0]), 'b');
}

TEST(Gguf, NumbersOfEveryType) {
  const std::string file = GgufBytes()
                               .number<std::uint8_t>("u8", 200)
                               .number<std::int8_t>("i8", -100)
                               .number<std::uint16_t>("u16", 60000)
                               .number<std::int16_t>("i16", -30000)
                               .number<std::uint32_t>("u32", 4000000000U)
                               .number<std::int32_t>("i32", -2000000000)
                               .number<std::uint64_t>("u64", 1ULL << 60U)
                               .number<std::int64_t>("i64", -(1LL << 60U))
                               .number<float>("f32", 0.5F)
                               .number<double>("f64", 0.25)
                               .number<bool>("yes", true)
                               .numbers<std::int16_t>("list", {1, -2, 3})
                               .numbers<std::uint64_t>("none", {})
                               .numbers<bool>("flags", {true, false})
                               .strings("words", {"a", "", std::string("b\0c", 3)})
                               .bytes();
  const auto content = parse(file);
  ASSERT_TRUE(content.ok()) << content.error().message;
  const GgufMetadata& metadata = content->metadata;
  EXPECT_EQ(*metadata.integer("u8"), 200);
  EXPECT_EQ(*metadata.integer("i8"), -100);
  EXPECT_EQ(*metadata.integer("u16"), 60000);
  EXPECT_EQ(*metadata.integer("i16"), -30000);
  EXPECT_EQ(*metadata.integer("u32"), 4000000000);
  EXPECT_EQ(*metadata.integer("i32"), -2000000000);
  EXPECT_EQ(*metadata.integer("u64"), 1LL << 60U);
  EXPECT_EQ(*metadata.integer("i64"), -(1LL << 60U));
  EXPECT_EQ(*metadata.number("f32"), 0.5);
  EXPECT_EQ(*metadata.number("f64"), 0.25);
  EXPECT_EQ(*metadata.number("i8"), -100);
  EXPECT_TRUE(*metadata.boolean("yes"));
  EXPECT_EQ(*metadata.integers("list"), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_TRUE(metadata.integers("none")->empty());
  EXPECT_EQ(*metadata.booleans("flags"), (std::vector<bool>{true, false}));
  EXPECT_EQ(*metadata.strings("words"), (std::vector<std::string_view>{"a", "", std::string_view("b\0c", 3)}));
  EXPECT_FALSE(metadata.has("other"));
  EXPECT_EQ(*metadata.integer_or("other", -3), -3);
  EXPECT_EQ(*metadata.string_or("other", "x"), "x");
}

TEST(Gguf, ValuesOfAnotherKindThanAskedFor) {
  const std::string file = GgufBytes()
                               .u32("five", 5)
                               .number<float>("nan", std::nanf(""))
                               .number<double>("endless", std::numeric_limits<double>::infinity())
                               .number<std::uint64_t>("huge", kHuge)
                               .numbers<std::uint64_t>("huge list", {1, kHuge})
                               .string("text", "5")
                               .numbers<std::int32_t>("list", {5})
                               .bytes();
  const auto content = parse(file);
  ASSERT_TRUE(content.ok()) << content.error().message;
  const GgufMetadata& metadata = content->metadata;
  const auto refused = [](const auto& result, std::string_view words) {
    ASSERT_FALSE(result.ok()) << words;
    EXPECT_EQ(result.error().code, ErrorCode::kCorrupt);
    EXPECT_TRUE(result.error().message.starts_with("model.gguf: key ")) << result.error().message;
    EXPECT_NE(result.error().message.find(words), std::string::npos) << result.error().message;
  };
  refused(metadata.integer("other"), "other is missing, expected an integer");
  refused(metadata.integer("five", 6, 9), "five is 5, expected 6 to 9");
  refused(metadata.integer("text"), "text is a value of type string, expected an integer");
  refused(metadata.integer("list"), "list is an array of i32, expected an integer");
  refused(metadata.integer("huge"), "huge is larger");
  refused(metadata.number("huge"), "huge is larger");
  refused(metadata.number("nan"), "nan is not a finite number");
  refused(metadata.number("endless"), "endless is not a finite number");
  refused(metadata.number("text"), "expected a number");
  refused(metadata.boolean("five"), "five is a value of type u32, expected a bool");
  refused(metadata.string("five"), "expected a string");
  refused(metadata.integers("five"), "five is a value of type u32, expected an array of integers");
  refused(metadata.integers("huge list"), "huge list holds a number larger");
  refused(metadata.strings("list"), "list is an array of i32, expected an array of strings");
  refused(metadata.booleans("list"), "expected an array of bool");
  refused(metadata.integer_or("text", 1), "expected an integer");
}

// ---- bad files

TEST(Gguf, MagicVersionAndByteOrder) {
  expect_corrupt("", "\"GGUF\"");
  expect_corrupt("GGU", "\"GGUF\"");
  expect_corrupt("GGUF", "version");
  expect_corrupt("GGML" + std::string(60, '\0'), "\"GGUF\"");
  const auto version = [](std::uint32_t number) {
    GgufBytes builder;
    builder.version = number;
    return builder.bytes();
  };
  for (const std::uint32_t number : {0U, 1U, 4U, 1000U}) {
    expect_refused(version(number), ErrorCode::kUnsupported, "GGUF version " + std::to_string(number));
  }
  expect_refused(version(0x03000000), ErrorCode::kUnsupported, "big-endian");
  expect_refused(version(0x02000000), ErrorCode::kUnsupported, "big-endian");
}

TEST(Gguf, EveryTruncationIsNoticed) {
  GgufBytes builder;
  const std::string file = builder.u32("a", 1)
                               .string("b", "text")
                               .strings("c", {"x", "yz"})
                               .numbers<std::int64_t>("d", {1, 2})
                               .tensor("w", {8, 2}, 0, std::string(64, 'w'))
                               .bytes();
  ASSERT_TRUE(parse(file).ok());
  for (std::size_t length = 0; length < file.size(); ++length) {
    const auto content = parse(file.substr(0, length));
    ASSERT_FALSE(content.ok()) << length;
    EXPECT_EQ(content.error().code, ErrorCode::kCorrupt);
  }
}

TEST(Gguf, Counts) {
  for (const std::uint64_t count : {4ULL, 1000ULL, 1ULL << 32U, 1ULL << 63U, static_cast<unsigned long long>(kHuge)}) {
    GgufBytes builder;
    builder.u32("a", 1);
    builder.claimed_tensors = count;
    expect_corrupt(builder.bytes(), std::to_string(count) + " tensors");
    builder.claimed_tensors.reset();
    builder.claimed_keys = count;
    expect_corrupt(builder.bytes(), "key");
  }
  GgufBytes fewer;
  fewer.u32("a", 1).u32("b", 2).f32("w", {1});
  fewer.claimed_keys = 1;
  expect_corrupt(fewer.bytes(), "");
}

struct Case {
  const char* what;
  std::function<void(GgufBytes&)> spoil;
  const char* words;
};

void expect_all_corrupt(const std::vector<Case>& cases) {
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.what);
    GgufBytes builder;
    builder.u32("first", 1).f32("a", {8});
    wrong.spoil(builder);
    expect_corrupt(builder.bytes(), wrong.words);
  }
}

std::string typed(std::uint32_t type, const std::string& value) { return little_endian(type) + value; }
std::string list(std::uint32_t type, std::uint64_t count, const std::string& elements) {
  return little_endian<std::uint32_t>(9) + little_endian(type) + little_endian(count) + elements;
}

TEST(Gguf, KeysThatMakeNoSense) {
  expect_all_corrupt({
      {"empty key", [](GgufBytes& f) { f.u32("", 1); }, "a key is empty"},
      {"same key twice", [](GgufBytes& f) { f.raw_again("first", typed(4, "1234")); }, "\"first\" occurs twice"},
      {"type 13", [](GgufBytes& f) { f.raw("k", typed(13, "12345678")); }, "\"k\" has the unknown value type 13"},
      {"type -1", [](GgufBytes& f) { f.raw("k", typed(0xFFFFFFFF, "12345678")); }, "unknown value type"},
      {"element type 13", [](GgufBytes& f) { f.raw("k", list(13, 1, "12345678")); }, "unknown value type 13"},
      {"array of arrays", [](GgufBytes& f) { f.raw("k", list(9, 1, list(4, 1, "1234"))); }, "array of arrays"},
      {"key of 65537 bytes", [](GgufBytes& f) { f.u32(std::string(65537, 'k'), 1); }, "a key of 65537 bytes"},
      {"string of 2^64-1 bytes", [](GgufBytes& f) { f.raw("k", typed(8, little_endian(kHuge))); }, "longer than"},
      {"string of 2^63 bytes", [](GgufBytes& f) { f.raw("k", typed(8, little_endian(1ULL << 63U))); }, "longer than"},
      {"string past the end", [](GgufBytes& f) { f.raw("k", typed(8, little_endian<std::uint64_t>(4096))); },
       "ends inside"},
      {"string of 17 MiB", [](GgufBytes& f) { f.string("k", std::string(17U << 20U, 'x')); },
       "longer than the 16777216"},
      {"array of 2^64-1", [](GgufBytes& f) { f.raw("k", list(4, kHuge, "1234")); },
       "\"k\" claims 18446744073709551615"},
      {"array of 2^62 u32", [](GgufBytes& f) { f.raw("k", list(4, 1ULL << 62U, "1234")); }, "elements"},
      {"array past the end", [](GgufBytes& f) { f.raw("k", list(0, 4096, "1234")); }, "claims 4096 elements"},
      {"strings past the end", [](GgufBytes& f) { f.raw("k", list(8, 4096, "1234")); }, "claims 4096 elements"},
      {"string in array of 2^64-1", [](GgufBytes& f) { f.raw("k", list(8, 1, little_endian(kHuge))); }, "of key \"k\""},
      {"17 million bytes",
       [](GgufBytes& f) { f.raw("k", list(0, (1U << 24U) + 1, std::string((1U << 24U) + 1, 'x'))); },
       "claims 16777217"},
  });
}

TEST(Gguf, Alignments) {
  for (const std::uint32_t alignment : {0U, 3U, 24U, 33U, 65537U, 131072U, 0x80000000U}) {
    expect_corrupt(GgufBytes().u32("general.alignment", alignment).bytes(), "general.alignment");
  }
  expect_corrupt(GgufBytes().number<std::uint64_t>("general.alignment", 32).bytes(), "of type u32");
  expect_corrupt(GgufBytes().number<std::int32_t>("general.alignment", 32).bytes(), "of type u32");
  expect_corrupt(GgufBytes().string("general.alignment", "32  ").bytes(), "of type u32");
  expect_corrupt(GgufBytes().numbers<std::uint32_t>("general.alignment", {32}).bytes(), "of type u32");
}

TEST(Gguf, TensorsThatMakeNoSense) {
  const auto info = [](std::string_view name, std::vector<std::uint64_t> sizes, std::uint32_t type,
                       std::uint64_t offset) { return [=](GgufBytes& f) { f.raw_tensor(name, sizes, type, offset); }; };
  static const std::string kLong(64, 'n');
  expect_all_corrupt({
      {"no name", info("", {1}, 0, 0), "has no name"},
      {"zero byte in the name", info(std::string_view("a\0b", 3), {1}, 0, 0), "zero byte"},
      {"64 bytes of name", info(kLong, {1}, 0, 0), "a tensor's name of 64 bytes"},
      {"five dimensions", info("t", {1, 1, 1, 1, 1}, 0, 0), "\"t\" has 5 dimensions"},
      {"negative size", info("t", {kHuge}, 0, 0), "\"t\" has a shape that does not fit"},
      {"product overflows", info("t", {1ULL << 32U, 1ULL << 32U}, 0, 0), "does not fit"},
      {"product overflows to zero", info("t", {1ULL << 62U, 4, 1, 0}, 0, 0), "does not fit"},
      {"bytes overflow", info("t", {1ULL << 62U}, 0, 0), "does not fit"},
      {"bytes of blocks overflow", info("t", {1ULL << 62U, 1}, 8, 0), "beyond the end"},
      {"row of 31 in Q8_0", info("t", {31, 32}, 8, 0),
       "rows of 31 numbers, not a multiple of the 32 in a block of Q8_0"},
      {"row of 128 in Q4_K", info("t", {128, 2}, 12, 0), "multiple of the 256 in a block of Q4_K"},
      {"scalar in Q4_0", info("t", {}, 2, 0), "rows of 1 numbers"},
      {"offset not aligned", info("t", {1}, 0, 4), "begins at 4, not at a multiple of 32"},
      {"offset past the end", info("t", {1}, 0, 4096), "beyond the end"},
      {"offset near 2^64", info("t", {8}, 0, kHuge - 31), "beyond the end"},
      {"longer than the file", info("t", {4096}, 0, 0), "\"t\" of shape [4096] reaches beyond the end"},
      {"on top of another", info("t", {8}, 0, 0), "overlaps another"},
      {"empty but outside", info("t", {0}, 0, 4096), "beyond the end"},
      {"same name twice", [](GgufBytes& f) { f.f32("a", {8}); }, "\"a\" occurs twice"},
      {"into the middle of another", [](GgufBytes& f) { f.f32("big", {64}).raw_tensor("t", {8}, 0, 64); }, "overlaps"},
  });
}

TEST(Gguf, TensorTypesThatAreNotComputed) {
  const std::pair<std::uint32_t, const char*> types[] = {{16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
                                                         {19, "IQ1_S"},   {21, "IQ3_S"},  {22, "IQ2_S"},
                                                         {29, "IQ1_M"},   {9, "Q8_1"},    {15, "Q8_K"},
                                                         {24, "I8"},      {26, "I32"},    {28, "F64"},
                                                         {34, "TQ1_0"},   {40, "NVFP4"},  {42, "Q2_0"},
                                                         {4, "type 4"},   {31, "31"},     {36, "36"},
                                                         {43, "43"},      {144, "144"},   {0xFFFFFFFF, "4294967295"}};
  for (const auto& [number, name] : types) {
    const std::string file = GgufBytes().tensor("blk.0.w", {256}, number, std::string(1024, '\0')).bytes();
    expect_refused(file, ErrorCode::kUnsupported, name);
    expect_refused(file, ErrorCode::kUnsupported, "tensor \"blk.0.w\"");
    expect_refused(file, ErrorCode::kUnsupported, "use a file of this model quantised as Q4_K_M");
  }
}

TEST(Gguf, ControlCharactersStayOutOfMessages) {
  const auto content = parse(GgufBytes().raw("a\x1B[2J\n", typed(77, "")).bytes());
  ASSERT_FALSE(content.ok());
  EXPECT_EQ(content.error().message.find('\x1B'), std::string::npos);
  EXPECT_EQ(content.error().message.find('\n'), std::string::npos);
  EXPECT_NE(content.error().message.find("\"a\uFFFD[2J\uFFFD\""), std::string::npos) << content.error().message;
  expect_corrupt(GgufBytes().raw("a\xFF" + std::string(100, 'b'), typed(77, "")).bytes(),
                 "\"a\uFFFD" + std::string(78, 'b') + "\" has");
}

}  // namespace
}  // namespace lectern::engine
