// SPDX-License-Identifier: GPL-3.0-or-later
#include "terminal.h"

#include <gtest/gtest.h>

#include <string>

namespace lectern::app {
namespace {

TEST(PrintableTest, KeepsOrdinaryText) {
  const std::string text = "Größe: 43 m\tΩ 漢字 😀\n";
  EXPECT_EQ(printable(text), text);
}

TEST(PrintableTest, DropsWhatATerminalObeys) {
  EXPECT_EQ(printable("\x1b[31mred\x1b[0m"), "[31mred[0m");
  EXPECT_EQ(printable("\x1b]0;title\x07 text"), "]0;title text");
  EXPECT_EQ(printable("a\rb\bc\x7f"), "abc");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m"),
            "31m");  // C1 control sequence introducer
  EXPECT_EQ(printable(std::string("a\0b", 3)), "ab");
}

TEST(PrintableTest, DropsBidiOverridesAndTags) {
  EXPECT_EQ(printable("a\xE2\x80\xAE"
                      "b\xE2\x81\xA6"
                      "c\xD8\x9C"),
            "abc");
  EXPECT_EQ(printable("x\xF3\xA0\x81\x81y"), "xy");
}

TEST(PrintableTest, ReplacesInvalidUtf8) {
  const std::string replacement = "\xEF\xBF\xBD";
  EXPECT_EQ(printable("a\xff"
                      "b"),
            "a" + replacement + "b");
  EXPECT_EQ(printable("\xC0\x9B"), replacement + replacement);                    // overlong escape
  EXPECT_EQ(printable("\xED\xA0\x80"), replacement + replacement + replacement);  // surrogate
  EXPECT_EQ(printable("end\xE2\x82"), "end" + replacement + replacement);
}

TEST(PrintableTest, LineHasNoBreaks) { EXPECT_EQ(printableLine(" a\n\n b\t c \n"), "a b c"); }

TEST(DurationTest, ReadsLikeSpeech) {
  EXPECT_EQ(duration(3.2), "3 s");
  EXPECT_EQ(duration(125), "2 min 5 s");
  EXPECT_EQ(duration(4200), "1 h 10 min");
  EXPECT_EQ(duration(-1), "");
}

TEST(ByteCountTest, UsesThousands) {
  EXPECT_EQ(byteCount(512), "512 bytes");
  EXPECT_EQ(byteCount(3'200'000), "3.2 MB");
}

TEST(LoadingLineTest, NamesRateAndTimeLeft) {
  EXPECT_EQ(loadingLine(3, 0, 0), "Loading the model: 3 s");
  EXPECT_EQ(loadingLine(4, 2'000'000'000, 6'000'000'000), "Loading the model: 2.0 GB of 6.0 GB, 500.0 MB/s, 8 s left");
}

}  // namespace
}  // namespace lectern::app
