// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <QString>

#include "printing.h"
#include "ui/display_text.h"

namespace lectern::ui {
namespace {

TEST(DisplayText, KeepsWordsInEveryScript) {
  const QString text = QString::fromUtf8("Grüße, Ελλάδα, שלום, 日本語, 👩‍🚀\nnext\tcolumn");
  EXPECT_EQ(displayText(text), text);
}

TEST(DisplayText, ShowsControlCharactersInsteadOfObeyingThem) {
  EXPECT_EQ(displayText(QString(QChar(0x1B)) + QStringLiteral("[31mred")),
            QString(QChar(0xFFFD)) + QStringLiteral("[31mred"));
  EXPECT_EQ(displayText(QString(QChar(0x9B))), QString(QChar(0xFFFD)));
  EXPECT_EQ(displayText(QStringLiteral("a\r\nb")), QStringLiteral("a\nb"));
}

TEST(DisplayText, RemovesWhatReordersOrHides) {
  for (const char32_t c : {U'\u202E', U'\u2066', U'\u200B', U'\uFEFF', U'\u061C', U'\U000E0041'}) {
    const QString text = QStringLiteral("invoice") + QString::fromUcs4(&c, 1) + QStringLiteral("fdp.exe");
    EXPECT_EQ(displayText(text), QStringLiteral("invoicefdp.exe")) << std::uint32_t(c);
  }
}

TEST(DisplayText, SurvivesInvalidUtf8) {
  const std::string broken = std::string("ok \xFF\xC3") + '\0' + "end";
  EXPECT_TRUE(displayText(broken).endsWith(QStringLiteral("end")));
}

TEST(LabelText, IsOneShortLine) {
  EXPECT_EQ(labelText(QStringLiteral("two\nlines\tand  spaces")), QStringLiteral("two lines and spaces"));
  EXPECT_LE(labelText(QString(100'000, u'x'), 50).size(), 50);
  EXPECT_TRUE(labelText(std::string(10'000'000, 'y'), 20).endsWith(u'…'));
}

TEST(LabelText, IsolatesRightToLeftText) {
  const QString label = labelText(QString::fromUtf8("דוח"));
  EXPECT_EQ(label.front(), QChar(0x2068));
  EXPECT_EQ(label.back(), QChar(0x2069));
}

TEST(ButtonText, ShowsAmpersands) { EXPECT_EQ(buttonText(QStringLiteral("R&D?")), QStringLiteral("R&&D?")); }

TEST(DurationText, ReadsWell) {
  EXPECT_EQ(durationText(1.24), QStringLiteral("1.2 s"));
  EXPECT_EQ(durationText(45), QStringLiteral("45 s"));
  EXPECT_EQ(durationText(185), QStringLiteral("3 min 5 s"));
  EXPECT_EQ(durationText(-1), QString());
}

}  // namespace
}  // namespace lectern::ui
