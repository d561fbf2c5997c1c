// SPDX-License-Identifier: GPL-3.0-or-later
#include "core/json.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace lectern::engine {
namespace {

Result<JsonDocument> parse(std::string text, const JsonLimits& limits = {}) {
  return JsonDocument::parse(std::move(text), "test.json", limits);
}

std::string error_of(std::string text, const JsonLimits& limits = {}) {
  const auto document = parse(std::move(text), limits);
  if (document.ok()) return "accepted";
  EXPECT_EQ(document.error().code, ErrorCode::kCorrupt);
  return document.error().message;
}

TEST(Json, ReadsEveryKindOfValue) {
  const auto document =
      parse(R"( {"a": [1, -2.5, 1e3, "x"], "b": {"c": null, "d": true, "e": false}, "f": "", "g": [], "h": {}} )");
  ASSERT_TRUE(document.ok()) << document.error().message;
  const JsonValue root = document->root();
  EXPECT_EQ(root.size(), 5U);
  std::vector<JsonValue> numbers;
  for (const JsonValue value : root["a"].elements()) numbers.push_back(value);
  ASSERT_EQ(numbers.size(), 4U);
  EXPECT_EQ(numbers[0].integer(), 1);
  EXPECT_EQ(numbers[1].number(), -2.5);
  EXPECT_EQ(numbers[1].integer(), std::nullopt);
  EXPECT_EQ(numbers[2].integer(), 1000);
  EXPECT_EQ(numbers[3].string(), "x");
  EXPECT_TRUE(root["b"]["c"].is_null());
  EXPECT_EQ(root["b"]["d"].boolean(), true);
  EXPECT_EQ(root["b"]["e"].boolean(), false);
  EXPECT_EQ(root["f"].string(), "");
  EXPECT_TRUE(root["g"].is_array());
  EXPECT_TRUE(root["h"].is_object());
  EXPECT_EQ(root["g"].size() + root["h"].size(), 0U);
}

TEST(Json, MissingMembersMayBeChained) {
  const auto document = parse(R"({"a": 1})");
  ASSERT_TRUE(document.ok());
  const JsonValue missing = document->root()["x"]["y"]["z"];
  EXPECT_FALSE(missing.exists());
  EXPECT_EQ(missing.kind(), JsonKind::kMissing);
  EXPECT_EQ(missing.string(), std::nullopt);
  EXPECT_EQ(missing.elements().begin(), missing.elements().end());
  EXPECT_FALSE(document->root()["a"]["b"].exists());
}

TEST(Json, MembersKeepFileOrderAndSkipNestedValues) {
  const auto document = parse(R"({"z": [1, [2, {"q": 3}]], "a": {"k": [4]}, "m": 5})");
  ASSERT_TRUE(document.ok());
  std::string keys;
  for (const JsonMember member : document->root().members()) keys += member.key;
  EXPECT_EQ(keys, "zam");
}

TEST(Json, IntegersAreExactToTheEndsOfInt64) {
  const auto document = parse("[9223372036854775807, -9223372036854775808, 9223372036854775808, 2.0, 0.5, 1e300]");
  ASSERT_TRUE(document.ok());
  std::vector<JsonValue> values;
  for (const JsonValue value : document->root().elements()) values.push_back(value);
  EXPECT_EQ(values[0].integer(), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(values[1].integer(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(values[2].integer(), std::nullopt);
  EXPECT_EQ(values[2].number(), 9223372036854775808.0);
  EXPECT_EQ(values[3].integer(), 2);
  EXPECT_EQ(values[4].integer(), std::nullopt);
  EXPECT_EQ(values[5].integer(), std::nullopt);
}

TEST(Json, ResolvesEscapes) {
  const auto document = parse(R"(["\"\\\/\b\f\n\r\t", "\u0041\u00e9\u20AC\ud83d\ude00", "a\u0000b"])");
  ASSERT_TRUE(document.ok()) << document.error().message;
  std::vector<std::string> texts;
  for (const JsonValue value : document->root().elements()) texts.emplace_back(*value.string());
  EXPECT_EQ(texts[0], "\"\\/\b\f\n\r\t");
  EXPECT_EQ(texts[1], "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  EXPECT_EQ(texts[2], std::string_view("a\0b", 3));
}

TEST(Json, RejectsWhatIsNotJson) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "[1",
                           "[1,",
                           "[1,]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{1:2}",
                           "[1 2]",
                           "1 2",
                           "tru",
                           "nul",
                           "True",
                           "NaN",
                           "Infinity",
                           "+1",
                           "01",
                           "-",
                           "-a",
                           "1.",
                           ".5",
                           "1e",
                           "1e+",
                           "0x10",
                           "\"",
                           "\"\\",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "'a'",
                           "[1]]",
                           "{}}",
                           "// x\n1",
                           "\xEF\xBB\xBF{}",
                           "\"a\nb\"",
                           "]"}) {
    EXPECT_NE(error_of(text), "accepted") << text;
  }
}

TEST(Json, RejectsNumbersOutOfRange) { EXPECT_EQ(error_of("[1e999]"), "test.json: a number is out of range (byte 1)"); }

TEST(Json, RejectsLoneSurrogates) {
  for (const char* text :
       {R"("\ud83d")", R"("\ude00")", R"("\ud83dx")", R"("\ud83d\n")", R"("\ud83d\u0041")", R"("\ud83d\ud83d")"}) {
    EXPECT_NE(error_of(text), "accepted") << text;
  }
}

TEST(Json, RejectsInvalidUtf8) {
  for (const char* bytes : {"\x80", "\xC0\x80", "\xC3", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF8\x88",
                            "\xF0\x9F\x98", "\xFF"}) {
    EXPECT_NE(error_of("\"a" + std::string(bytes) + "b\""), "accepted") << testing::PrintToString(bytes);
  }
}

TEST(Json, RejectsDuplicateKeysInAnyObject) {
  EXPECT_EQ(error_of(R"({"a": 1, "b": 2, "a": 3})"), "test.json: member \"a\" appears twice in one object (byte 17)");
  EXPECT_NE(error_of(R"([{"x": {"a": 1, "\u0061": 2}}])"), "accepted");
  EXPECT_EQ(error_of(R"([{"a": {"a": 1}}, {"a": 2}])"), "accepted");
}

TEST(Json, MessagesNameTheByte) {
  EXPECT_EQ(error_of("{\"a\": 1, \"b\" 2}"), "test.json: expected ':' after a member name (byte 13)");
}

TEST(Json, DepthIsLimitedAndCostsNoStack) {
  const std::string deep(1000000, '[');
  EXPECT_EQ(error_of(deep), "test.json: nested too deeply (byte 64)");
  JsonLimits limits;
  limits.max_depth = 2000000;
  EXPECT_EQ(error_of(deep + std::string(1000000, ']'), limits), "accepted");
}

TEST(Json, SizeAndValueCountAreLimited) {
  JsonLimits limits;
  limits.max_bytes = 10;
  EXPECT_NE(error_of("[1,2,3,4,5,6]", limits), "accepted");
  limits.max_bytes = 100;
  limits.max_nodes = 5;
  EXPECT_NE(error_of("[1,2,3,4,5,6]", limits), "accepted");
  EXPECT_EQ(error_of("[1,2,3,4]", limits), "accepted");
}

TEST(Json, TypedGettersNameTheMember) {
  const auto document = parse(R"({"n": 5, "s": "x", "null": null, "big": 1e30, "half": 0.5})");
  ASSERT_TRUE(document.ok());
  const JsonValue root = document->root();
  EXPECT_EQ(*root.need_integer("n"), 5);
  EXPECT_EQ(*root.need_number("half"), 0.5);
  EXPECT_EQ(*root.need_string("s"), "x");
  EXPECT_EQ(root.need_integer("q").error().message, "test.json: \"q\" must be an integer but is missing (byte 0)");
  EXPECT_EQ(root.need_integer("s").error().message, "test.json: \"s\" must be an integer but is a string (byte 14)");
  EXPECT_FALSE(root.need_integer("big").ok());
  EXPECT_FALSE(root.need_integer("half").ok());
  EXPECT_FALSE(root.need_array("n").ok());
  EXPECT_FALSE(root.need_object("n").ok());
  EXPECT_EQ(*root.integer_or("q", 7), 7);
  EXPECT_EQ(*root.integer_or("null", 7), 7);
  EXPECT_EQ(*root.integer_or("n", 7), 5);
  EXPECT_FALSE(root.integer_or("s", 7).ok());
  EXPECT_EQ(*root.boolean_or("q", true), true);
  EXPECT_EQ(*root.string_or("q", "d"), "d");
}

TEST(Json, WideObjectsAreNotQuadratic) {
  std::string text = "{";
  for (int i = 0; i < 300000; ++i) text += "\"k" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  text.back() = '}';
  const auto document = parse(std::move(text));
  ASSERT_TRUE(document.ok()) << document.error().message;
  std::int64_t sum = 0;
  for (const JsonMember member : document->root().members()) sum += *member.value.integer();
  EXPECT_EQ(sum, 300000LL * 299999 / 2);
}

TEST(Json, FilesThatCannotBeRead) {
  EXPECT_EQ(JsonDocument::read("/nonexistent/config.json").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(JsonDocument::read("/").error().code, ErrorCode::kIo);
}

TEST(Json, QuotesWhatParsesBack) {
  const std::string text = "a\"b\\c\n\t\x01\xE2\x82\xAC";
  const auto document = parse(json_quote(text));
  ASSERT_TRUE(document.ok());
  EXPECT_EQ(document->root().string(), text);
}

}  // namespace
}  // namespace lectern::engine
