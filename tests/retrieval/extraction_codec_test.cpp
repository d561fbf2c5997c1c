// SPDX-License-Identifier: GPL-3.0-or-later
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "retrieval/extract.h"

namespace lectern::retrieval {
namespace {

using testing::HasSubstr;

ExtractedDocument sample() {
  ExtractedDocument document;
  document.kind = DocumentKind::kPdf;
  document.title = "Tïtle";
  document.warnings = {"page 2 holds no text (scanned?)"};
  ExtractedPage page;
  page.text = "Two wörds";
  page.width_points = 595.5F;
  page.height_points = 842;
  page.words = {{0, 3, {0.1F, 0.2F, 0.3F, 0.4F}}, {4, 10, {0.5F, 0.2F, 0.75F, 0.4F}}};
  document.pages = {page, ExtractedPage{}};
  return document;
}

void expect_equal(const ExtractedDocument& a, const ExtractedDocument& b) {
  EXPECT_EQ(a.kind, b.kind);
  EXPECT_EQ(a.title, b.title);
  EXPECT_EQ(a.language, b.language);
  EXPECT_EQ(a.warnings, b.warnings);
  ASSERT_EQ(a.pages.size(), b.pages.size());
  for (std::size_t i = 0; i < a.pages.size(); ++i) {
    EXPECT_EQ(a.pages[i].text, b.pages[i].text);
    EXPECT_EQ(a.pages[i].width_points, b.pages[i].width_points);
    EXPECT_EQ(a.pages[i].height_points, b.pages[i].height_points);
    ASSERT_EQ(a.pages[i].words.size(), b.pages[i].words.size());
    for (std::size_t w = 0; w < a.pages[i].words.size(); ++w) {
      const Word &x = a.pages[i].words[w], &y = b.pages[i].words[w];
      EXPECT_EQ(x.begin, y.begin);
      EXPECT_EQ(x.end, y.end);
      EXPECT_EQ(x.rect.left, y.rect.left);
      EXPECT_EQ(x.rect.bottom, y.rect.bottom);
    }
  }
}

void expect_malformed(std::string_view bytes) {
  const auto result = decode_extraction(bytes);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kUnreadable);
  EXPECT_THAT(result.error().message, HasSubstr("malformed"));
}

std::string encoded(const ExtractedDocument& document) { return encode_extraction(document); }

TEST(ExtractionCodec, KeepsADocument) {
  const auto decoded = decode_extraction(encoded(sample()));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  expect_equal(sample(), *decoded);
}

TEST(ExtractionCodec, KeepsAnError) {
  const Result<ExtractedDocument> error = Error{ErrorCode::kEncrypted, "a.pdf needs a password."};
  const auto decoded = decode_extraction(encode_extraction(error));
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.error().code, ErrorCode::kEncrypted);
  EXPECT_EQ(decoded.error().message, "a.pdf needs a password.");
}

TEST(ExtractionCodec, RefusesEveryTruncationAndAnyAddition) {
  const std::string bytes = encoded(sample());
  for (std::size_t length = 0; length < bytes.size(); ++length)
    expect_malformed(std::string_view(bytes).substr(0, length));
  expect_malformed(bytes + '\0');
  expect_malformed("LXM2" + bytes.substr(4));
}

TEST(ExtractionCodec, AllocatesNothingForForgedCounts) {
  const std::string bytes = encoded(sample());
  // Every group of four bytes in turn claims to be a huge count or length.
  for (const std::uint32_t forged : {0xFFFFFFFFU, 0x7FFFFFFFU, 0x10000000U, 0x00FFFFFFU}) {
    for (std::size_t at = 5; at + 4 <= bytes.size(); ++at) {
      std::string damaged = bytes;
      std::memcpy(damaged.data() + at, &forged, 4);
      const auto result = decode_extraction(damaged);
      EXPECT_TRUE(!result.ok() || result->pages.size() == 2) << at;
    }
  }
}

TEST(ExtractionCodec, RefusesWordsThatDoNotFitTheirPage) {
  const auto refuse = [](void (*spoil)(Word&)) {
    ExtractedDocument document = sample();
    spoil(document.pages[0].words[1]);
    expect_malformed(encoded(document));
  };
  refuse([](Word& w) { w.end = 11; });
  refuse([](Word& w) { w.end = w.begin; });
  refuse([](Word& w) { w.begin = 2; });             // overlaps the word before
  refuse([](Word& w) { w.begin = 4, w.end = 6; });  // ends inside a character
  refuse([](Word& w) { w.rect.right = 1.5F; });
  refuse([](Word& w) { w.rect.left = -0.1F; });
  refuse([](Word& w) { w.rect.left = w.rect.right; });
  refuse([](Word& w) { w.rect.top = std::numeric_limits<float>::quiet_NaN(); });
  refuse([](Word& w) { w.rect.bottom = std::numeric_limits<float>::infinity(); });
}

TEST(ExtractionCodec, RefusesTextThatIsNotUtf8) {
  ExtractedDocument document = sample();
  document.pages[1].text = "bad \xFF";
  expect_malformed(encoded(document));
  document = sample();
  document.title = "\xC0\x80";
  expect_malformed(encoded(document));
}

TEST(ExtractionCodec, RefusesTextBeyondTheLimits) {
  ExtractedDocument document;
  document.pages.resize(1);
  document.pages[0].text.assign((4U << 20) + 1, 'x');
  expect_malformed(encoded(document));
}

TEST(ExtractionCodec, SurvivesRandomDamage) {
  const std::string bytes = encoded(sample());
  std::uint32_t state = 5;
  for (int round = 0; round < 20'000; ++round) {
    std::string damaged = bytes;
    for (int i = 0; i < 3; ++i) {
      state = state * 1664525U + 1013904223U;
      damaged[(state >> 8) % damaged.size()] = static_cast<char>(state >> 24);
    }
    const auto result = decode_extraction(damaged);
    if (!result.ok()) continue;
    for (const ExtractedPage& page : result->pages) {
      for (const Word& word : page.words) ASSERT_LE(word.end, page.text.size());
    }
  }
}

}  // namespace
}  // namespace lectern::retrieval
