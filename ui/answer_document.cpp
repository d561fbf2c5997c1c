// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer_document.h"

#include <QCoreApplication>
#include <QRegularExpression>
#include <QTextBlock>
#include <QTextCursor>
#include <QTextList>
#include <QTextTable>
#include <algorithm>
#include <vector>

#include "display_text.h"
#include "theme.h"

namespace lectern::ui {

namespace {

// Private-use characters stand for the brackets of a mark while Markdown is parsed, so that "[1]" can become neither
// a link nor a link definition.
constexpr QChar kMarkOpen(0xE000);
constexpr QChar kMarkClose(0xE001);

constexpr int kDeepestQuote = 6;
constexpr int kDeepestIndent = 8;
constexpr int kLongestShownAddress = 80;

// Spans of the finished document that get another text or format.
struct Edit {
  int position = 0;
  int length = 0;
  QString text;
  QTextCharFormat format;
};

QString protectMarks(QString text) {
  text.remove(kMarkOpen).remove(kMarkClose);
  static const QRegularExpression group(QStringLiteral("\\[(\\d{1,4}(?:\\s*,\\s*\\d{1,4})*)\\]"));
  QString out;
  out.reserve(text.size());
  qsizetype last = 0;
  for (auto it = group.globalMatch(text); it.hasNext();) {
    const QRegularExpressionMatch match = it.next();
    out += QStringView(text).mid(last, match.capturedStart() - last);
    out += kMarkOpen;
    out += match.captured(1);
    out += kMarkClose;
    last = match.capturedEnd();
  }
  out += QStringView(text).mid(last);
  return out;
}

QString imageDescription(const QTextCharFormat& format) {
  const QString alt = labelText(format.property(QTextFormat::ImageAltText).toString(), 120);
  return alt.isEmpty() ? QCoreApplication::translate("AnswerView", "[image]")
                       : QCoreApplication::translate("AnswerView", "[image: %1]").arg(alt);
}

QTextCharFormat withoutLink(QTextCharFormat format) {
  format.setAnchor(false);
  format.clearProperty(QTextFormat::AnchorHref);
  format.clearProperty(QTextFormat::AnchorName);
  format.clearProperty(QTextFormat::TextUnderlineStyle);
  format.clearProperty(QTextFormat::FontUnderline);
  format.clearForeground();
  format.setToolTip({});
  return format;
}

// Everything that points outside, found first and edited from the end, so that positions stay right.
std::vector<Edit> findOutsideReferences(const QTextDocument& document) {
  std::vector<Edit> edits;
  for (QTextBlock block = document.begin(); block.isValid(); block = block.next()) {
    for (auto it = block.begin(); !it.atEnd(); ++it) {
      const QTextFragment fragment = it.fragment();
      const QTextCharFormat format = fragment.charFormat();
      if (format.isImageFormat()) {
        edits.push_back({fragment.position(), fragment.length(), imageDescription(format), QTextCharFormat()});
      } else if (format.isAnchor()) {
        const QString address = labelText(format.anchorHref(), kLongestShownAddress);
        QString text = fragment.text();
        if (!address.isEmpty() && address != text) text += QStringLiteral(" ‹%1›").arg(address);
        edits.push_back({fragment.position(), fragment.length(), text, withoutLink(format)});
      }
    }
  }
  return edits;
}

void applyEdits(QTextDocument& document, const std::vector<Edit>& edits) {
  QTextCursor cursor(&document);
  for (auto edit = edits.rbegin(); edit != edits.rend(); ++edit) {
    cursor.setPosition(edit->position);
    cursor.setPosition(edit->position + edit->length, QTextCursor::KeepAnchor);
    cursor.insertText(edit->text, edit->format);
  }
}

bool isCode(const QTextBlock& block) {
  return block.blockFormat().hasProperty(QTextFormat::BlockCodeFence) ||
         block.blockFormat().hasProperty(QTextFormat::BlockCodeLanguage);
}

// "[1, 2]" becomes "[1][2]", each with its own link; inside code it is the text it was.
void insertMarks(QTextCursor& cursor, const QString& numbers, const QTextCharFormat& format, bool code,
                 MarkCounts& counts) {
  if (code) {
    cursor.insertText(u'[' + numbers + u']', format);
    return;
  }
  for (const QString& number : numbers.split(u',')) {
    CitationLink link{number.trimmed().toInt(), 0};
    link.occurrence = counts[link.mark]++;
    QTextCharFormat linked = format;
    linked.setAnchor(true);
    linked.setAnchorHref(link.href());
    linked.setForeground(theme::colors().accent);
    cursor.insertText(QStringLiteral("[%1]").arg(link.mark), linked);
  }
}

void restoreMarks(QTextDocument& document, MarkCounts& counts) {
  static const QRegularExpression protectedMark(QStringLiteral("\\x{E000}([^\\x{E001}]*)\\x{E001}"));
  for (QTextBlock block = document.begin(); block.isValid(); block = block.next()) {
    while (true) {
      const QRegularExpressionMatch match = protectedMark.match(block.text());
      if (!match.hasMatch()) break;
      QTextCursor cursor(block);
      cursor.setPosition(block.position() + static_cast<int>(match.capturedStart()) + 1);
      const QTextCharFormat format = cursor.charFormat();
      cursor.setPosition(block.position() + static_cast<int>(match.capturedStart()));
      cursor.setPosition(block.position() + static_cast<int>(match.capturedEnd()), QTextCursor::KeepAnchor);
      insertMarks(cursor, match.captured(1), format, isCode(block) || format.fontFixedPitch(), counts);
    }
  }
}

// Reading text wants air between paragraphs and no huge headings; code must wrap in a narrow pane.
QTextBlockFormat styledBlock(const QTextBlock& block) {
  QTextBlockFormat format = block.blockFormat();
  format.setNonBreakableLines(false);
  format.setLineHeight(isCode(block) ? 110 : 128, QTextBlockFormat::ProportionalHeight);
  const bool inList = block.textList() != nullptr;
  format.setTopMargin(format.headingLevel() > 0 ? 12 : 0);
  format.setBottomMargin(isCode(block) ? 0 : inList ? 3 : 8);
  format.setIndent(std::min(format.indent(), kDeepestIndent));
  const int quote = std::min(format.intProperty(QTextFormat::BlockQuoteLevel), kDeepestQuote);
  if (quote > 0) {
    format.setProperty(QTextFormat::BlockQuoteLevel, quote);
    format.setLeftMargin(16.0 * quote);
    format.setRightMargin(0);
  }
  if (isCode(block)) format.setBackground(theme::colors().panel);
  return format;
}

void styleBlocks(QTextDocument& document) {
  QTextCursor cursor(&document);
  for (QTextBlock block = document.begin(); block.isValid(); block = block.next()) {
    cursor.setPosition(block.position());
    const QTextBlockFormat format = styledBlock(block);
    cursor.setBlockFormat(format);
    if (format.headingLevel() > 0) {
      cursor.movePosition(QTextCursor::EndOfBlock, QTextCursor::KeepAnchor);
      QTextCharFormat heading;
      heading.setProperty(QTextFormat::FontSizeAdjustment, format.headingLevel() <= 2 ? 1 : 0);
      heading.setFontWeight(QFont::DemiBold);
      cursor.mergeCharFormat(heading);
    }
  }
}

bool startsPlainParagraph(QStringView line) {
  if (line.isEmpty()) return false;
  const QChar first = line.front();
  return first.isLetter() || first == u'#' || first == u'`' || first == kMarkOpen;
}

}  // namespace

QString CitationLink::href() const { return QStringLiteral("cite:%1:%2").arg(mark).arg(occurrence); }

std::optional<CitationLink> CitationLink::parse(const QString& href) {
  static const QRegularExpression form(QStringLiteral("\\Acite:(\\d{1,4}):(\\d{1,6})\\z"));
  const QRegularExpressionMatch match = form.match(href);
  if (!match.hasMatch()) return std::nullopt;
  return CitationLink{match.captured(1).toInt(), match.captured(2).toInt()};
}

std::unique_ptr<InertDocument> renderMarkdown(const QString& markdown, const QFont& font, MarkCounts& counts) {
  auto document = std::make_unique<InertDocument>();
  document->setUndoRedoEnabled(false);
  document->setDefaultFont(font);
  const auto features =
      QTextDocument::MarkdownFeatures(QTextDocument::MarkdownDialectGitHub) | QTextDocument::MarkdownNoHTML;
  document->setMarkdown(protectMarks(displayText(markdown)), features);
  applyEdits(*document, findOutsideReferences(*document));
  restoreMarks(*document, counts);
  styleBlocks(*document);
  return document;
}

qsizetype markdownBoundary(const QString& text, qsizetype from) {
  qsizetype boundary = from;
  bool fenced = false;
  bool blankBefore = false;
  for (qsizetype start = from; start < text.size();) {
    const qsizetype newline = text.indexOf(u'\n', start);
    const qsizetype end = newline < 0 ? text.size() : newline;
    const QStringView line = QStringView(text).mid(start, end - start);
    if (!fenced && blankBefore && startsPlainParagraph(line)) boundary = start;
    if (line.trimmed().startsWith(QLatin1String("```")) || line.trimmed().startsWith(QLatin1String("~~~"))) {
      fenced = !fenced;
    }
    blankBefore = line.trimmed().isEmpty();
    start = end + 1;
  }
  return boundary;
}

}  // namespace lectern::ui
