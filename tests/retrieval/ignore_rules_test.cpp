// SPDX-License-Identifier: GPL-3.0-or-later
#include "documents/ignore_rules.h"

#include <gtest/gtest.h>

#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

IgnoreRules rules(std::string_view text) {
  IgnoreRules result;
  result.add("", text);
  return result;
}

TEST(IgnoreRules, MatchNamesAtAnyDepth) {
  const IgnoreRules r = rules("*.log\nout\n# comment\n\n");
  EXPECT_TRUE(r.ignored("a.log", false));
  EXPECT_TRUE(r.ignored("x/y/a.log", false));
  EXPECT_FALSE(r.ignored("a.logs", false));
  EXPECT_TRUE(r.ignored("x/out", false));
  EXPECT_TRUE(r.ignored("x/out/deep/file", false));
  EXPECT_FALSE(r.ignored("x/outer", false));
  EXPECT_FALSE(r.ignored("# comment", false));
}

TEST(IgnoreRules, AnchorPatternsWithASlash) {
  const IgnoreRules r = rules("/top\nsrc/gen\n");
  EXPECT_TRUE(r.ignored("top", false));
  EXPECT_FALSE(r.ignored("a/top", false));
  EXPECT_TRUE(r.ignored("src/gen/x", false));
  EXPECT_FALSE(r.ignored("a/src/gen", true));
}

TEST(IgnoreRules, MatchDirectoriesOnly) {
  const IgnoreRules r = rules("build/\n");
  EXPECT_TRUE(r.ignored("build", true));
  EXPECT_TRUE(r.ignored("a/build/x.txt", false));
  EXPECT_FALSE(r.ignored("build", false));
}

TEST(IgnoreRules, ObeyNegationAndTheLastRule) {
  const IgnoreRules r = rules("*.txt\n!keep.txt\n/docs/\n!docs/a.txt\n\\!odd\n");
  EXPECT_TRUE(r.ignored("a.txt", false));
  EXPECT_FALSE(r.ignored("keep.txt", false));
  EXPECT_FALSE(r.ignored("x/keep.txt", false));
  EXPECT_TRUE(r.ignored("docs/a.txt", false));  // its directory is ignored
  EXPECT_TRUE(r.ignored("!odd", false));
}

TEST(IgnoreRules, SpanDirectoriesWithTwoStars) {
  const IgnoreRules r = rules("**/tmp\na/**/z\nlogs/**\n");
  EXPECT_TRUE(r.ignored("tmp", true));
  EXPECT_TRUE(r.ignored("x/y/tmp", true));
  EXPECT_TRUE(r.ignored("a/z", false));
  EXPECT_TRUE(r.ignored("a/b/c/z", false));
  EXPECT_FALSE(r.ignored("b/a/z", false));
  EXPECT_TRUE(r.ignored("logs/x", false));
  EXPECT_FALSE(r.ignored("logs", true));
}

TEST(IgnoreRules, MatchWildcardsWithinOneName) {
  const IgnoreRules r = rules("/a*c\nfile?.[ch]\n[!x]y\nrange[0-9]\nopen[\nsp\\ \n");
  EXPECT_TRUE(r.ignored("abc", false));
  EXPECT_TRUE(r.ignored("ac", false));
  EXPECT_FALSE(r.ignored("a/c", false));
  EXPECT_TRUE(r.ignored("file1.c", false));
  EXPECT_FALSE(r.ignored("file12.c", false));
  EXPECT_FALSE(r.ignored("file1.o", false));
  EXPECT_TRUE(r.ignored("ay", false));
  EXPECT_FALSE(r.ignored("xy", false));
  EXPECT_TRUE(r.ignored("range7", false));
  EXPECT_TRUE(r.ignored("open[", false));
  EXPECT_TRUE(r.ignored("sp ", false));
}

TEST(IgnoreRules, ApplyNestedFilesBelowTheirDirectoryOnly) {
  IgnoreRules r;
  r.add("", "*.gen\n");
  r.add("lib", "!keep.gen\n/local\n");
  EXPECT_TRUE(r.ignored("keep.gen", false));
  EXPECT_FALSE(r.ignored("lib/keep.gen", false));
  EXPECT_FALSE(r.ignored("lib/deep/keep.gen", false));
  EXPECT_TRUE(r.ignored("lib/local", false));
  EXPECT_FALSE(r.ignored("local", false));
  EXPECT_FALSE(r.ignored("library/local", false));
}

TEST(IgnoreRules, ReadBothFilesOfADirectoryButNoLinks) {
  const test::Scratch scratch;
  scratch.write(".gitignore", "from_git\r\n");
  scratch.write(".lecternignore", "from_us");
  scratch.write("sub/rules", "secretly");
  std::filesystem::create_symlink(scratch / "sub" / "rules", scratch / "sub" / ".gitignore");
  IgnoreRules r;
  r.add_file(scratch.path(), "");
  r.add_file(scratch / "sub", "sub");
  r.add_file(scratch / "missing", "missing");
  EXPECT_TRUE(r.ignored("from_git", false));
  EXPECT_TRUE(r.ignored("from_us", false));
  EXPECT_FALSE(r.ignored("sub/secretly", false));
}

TEST(IgnoreRules, StayFastOnHostilePatterns) {
  const IgnoreRules r = rules(std::string(500, '*') + "a\n" + "*a*a*a*a*a*a*a*a*b\n" + "a/**/**/**/**/**/b\n");
  EXPECT_FALSE(r.ignored(std::string(250, 'a') + "c", false));
  std::string deep = "a";
  for (int i = 0; i < 200; ++i) deep += "/a";
  EXPECT_TRUE(r.ignored(deep, false));
}

}  // namespace
}  // namespace lectern::retrieval
