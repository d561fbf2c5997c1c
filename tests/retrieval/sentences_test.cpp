// SPDX-License-Identifier: GPL-3.0-or-later
#include "documents/sentences.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lectern::retrieval {
namespace {

using testing::ElementsAre;

std::vector<std::string> sentences(std::string_view text) {
  std::vector<std::string> found;
  for (const auto& [begin, end] : split_sentences(text)) found.emplace_back(text.substr(begin, end - begin));
  return found;
}

TEST(Sentences, EndAtFullStops) {
  EXPECT_THAT(sentences("One is here. Two is there! Is three? Yes."),
              ElementsAre("One is here.", "Two is there!", "Is three?", "Yes."));
  EXPECT_THAT(sentences("  Spaces   around.   And no end  "), ElementsAre("Spaces   around.", "And no end"));
  EXPECT_THAT(sentences(""), ElementsAre());
  EXPECT_THAT(sentences(" \n\t"), ElementsAre());
}

TEST(Sentences, KeepNumbersWhole) {
  EXPECT_THAT(sentences("The tower is 43.5 metres tall. It has 1,176 prisms."),
              ElementsAre("The tower is 43.5 metres tall.", "It has 1,176 prisms."));
  EXPECT_THAT(sentences("It opened in 1902. The next year it closed."),
              ElementsAre("It opened in 1902.", "The next year it closed."));
  EXPECT_THAT(sentences("Use version 3.4.1. See www.example.org/a.b for more."),
              ElementsAre("Use version 3.4.1.", "See www.example.org/a.b for more."));
}

TEST(Sentences, KnowAbbreviations) {
  EXPECT_THAT(sentences("Dr. Ruth Okafor met Mr. Hay. They spoke."),
              ElementsAre("Dr. Ruth Okafor met Mr. Hay.", "They spoke."));
  EXPECT_THAT(sentences("See Fig. 3 and Sec. 2.1 on p. 7. It is clear."),
              ElementsAre("See Fig. 3 and Sec. 2.1 on p. 7.", "It is clear."));
  EXPECT_THAT(sentences("Bring tools, e.g. Hammers. Then begin."),
              ElementsAre("Bring tools, e.g. Hammers.", "Then begin."));
  EXPECT_THAT(sentences("They sell ropes, nets, etc. The shop is open."),
              ElementsAre("They sell ropes, nets, etc.", "The shop is open."));
  EXPECT_THAT(sentences("It opens at 9 a.m. The gate is green."),
              ElementsAre("It opens at 9 a.m.", "The gate is green."));
  EXPECT_THAT(sentences("He painted art. John came. Is it so? No. Five is right."),
              ElementsAre("He painted art.", "John came.", "Is it so?", "No.", "Five is right."));
}

TEST(Sentences, KnowInitials) {
  EXPECT_THAT(sentences("It was built by J. R. Smith in 1867. He was young."),
              ElementsAre("It was built by J. R. Smith in 1867.", "He was young."));
  EXPECT_THAT(sentences("They chose plan B. The work began."), ElementsAre("They chose plan B.", "The work began."));
  EXPECT_THAT(sentences("It was you and I. Nobody else came."), ElementsAre("It was you and I.", "Nobody else came."));
}

TEST(Sentences, KeepQuotesAndBracketsWithTheirSentence) {
  EXPECT_THAT(sentences("He said \"Stop.\" Then he left. (It was late.) She stayed."),
              ElementsAre("He said \"Stop.\"", "Then he left.", "(It was late.)", "She stayed."));
  EXPECT_THAT(sentences("“Stop!” he said. “Now.” They did."), ElementsAre("“Stop!” he said.", "“Now.”", "They did."));
  EXPECT_THAT(sentences("Wait... there is more. Really?! Yes…"),
              ElementsAre("Wait... there is more.", "Really?!", "Yes…"));
}

TEST(Sentences, KeepMarksWithTheSentenceBefore) {
  EXPECT_THAT(sentences("The tower is tall. [1] The sea is deep [2]. It is cold.[3]"),
              ElementsAre("The tower is tall. [1]", "The sea is deep [2].", "It is cold.[3]"));
  EXPECT_THAT(sentences("The tower is tall. [1][2, 3] Next."), ElementsAre("The tower is tall. [1][2, 3]", "Next."));
}

TEST(Sentences, EndAtLineEndsAndBullets) {
  EXPECT_THAT(sentences("A title\nA line of text\n\n- first item\n- second item"),
              ElementsAre("A title", "A line of text", "- first item", "- second item"));
  EXPECT_THAT(sentences("They are: • one thing • another thing"),
              ElementsAre("They are:", "• one thing", "• another thing"));
  EXPECT_THAT(sentences("1. Turn the key. Then wait."), ElementsAre("1. Turn the key.", "Then wait."));
}

TEST(Sentences, KnowOtherScripts) {
  EXPECT_THAT(sentences("灯台は白い。海は青い。「本当？」そうです"),
              ElementsAre("灯台は白い。", "海は青い。", "「本当？」", "そうです"));
  EXPECT_THAT(sentences("Маяк стоит. Он белый, т. е. светлый."),
              ElementsAre("Маяк стоит.", "Он белый, т. е. светлый."));
  EXPECT_THAT(sentences("Élan vital. Était-ce vrai? Übung."), ElementsAre("Élan vital.", "Était-ce vrai?", "Übung."));
}

// Ranges are ordered, trimmed, and leave out nothing but white space, whatever the bytes.
TEST(Sentences, CoverAnyInput) {
  std::uint32_t state = 1;
  const std::string_view alphabet = "aB1 .!?\n[]\"'\xE3\x80\x82\xE2\x80\xA2\xFF\xC3-()";
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int i = 0; i < 40; ++i) {
      state = state * 1664525U + 1013904223U;
      text += alphabet[(state >> 16) % alphabet.size()];
    }
    std::size_t done = 0;
    for (const auto& [begin, end] : split_sentences(text)) {
      ASSERT_LE(done, begin);
      ASSERT_LT(begin, end);
      ASSERT_LE(end, text.size());
      ASSERT_EQ(text.substr(done, begin - done).find_first_not_of(" \n"), std::string::npos);
      ASSERT_NE(text[begin], ' ');
      ASSERT_NE(text[end - 1], ' ');
      done = end;
    }
    ASSERT_EQ(text.substr(done).find_first_not_of(" \n"), std::string::npos);
  }
}

}  // namespace
}  // namespace lectern::retrieval
