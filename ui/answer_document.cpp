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
constexpr int kMostMarks = 400;    // links in one rendered piece: text with thousands is no answer
constexpr int kLongestRange = 20;  // as the answer pipeline reads marks

// Spans of the finished document that get another text or format.
struct Edit {
  int position = 0;
  int length = 0;
  QString text;
  QTextCharFormat format;
};

QString protectMarks(QString text) {
  text.remove(kMarkOpen).remove(kMarkClose);
  static const QRegularExpression group(
      QStringLiteral("\\[(\\d{1,4}(?:\\s*[-–]\\s*\\d{1,4})?(?:\\s*[,;]\\s*\\d{1,4}(?:\\s*[-–]\\s*\\d{1,4})?)*)\\]"));
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
  cursor.beginEditBlock();
  for (auto edit = edits.rbegin(); edit != edits.rend(); ++edit) {
    cursor.setPosition(edit->position);
    cursor.setPosition(edit->position + edit->length, QTextCursor::KeepAnchor);
    cursor.insertText(edit->text, edit->format);
  }
  cursor.endEditBlock();
}

bool isCode(const QTextBlock& block) {
  return block.blockFormat().hasProperty(QTextFormat::BlockCodeFence) ||
         block.blockFormat().hasProperty(QTextFormat::BlockCodeLanguage);
}

// The marks of "1, 3-5"; none when a range is turned round or too long to be meant.
std::vector<int> marksOf(const QString& numbers) {
  static const QRegularExpression separator(QStringLiteral("\\s*[,;]\\s*"));
  static const QRegularExpression dash(QStringLiteral("\\s*[-–]\\s*"));
  std::vector<int> marks;
  for (const QString& part : numbers.split(separator)) {
    const QStringList ends = part.trimmed().split(dash);
    const int first = ends.front().toInt();
    const int last = ends.back().toInt();
    if (last < first || last - first > kLongestRange) return {};
    for (int mark = first; mark <= last; ++mark) marks.push_back(mark);
  }
  return marks;
}

// A group of marks as it stands in a block, brackets included.
struct MarkGroup {
  int begin = 0;
  int end = 0;
  QString numbers;
  std::vector<CitationLink> links;  // none: it is shown as the text it was
};

std::vector<MarkGroup> findMarks(const QTextBlock& block, MarkCounts& counts, int& room) {
  static const QRegularExpression protectedMark(QStringLiteral("\\x{E000}([^\\x{E001}]*)\\x{E001}"));
  std::vector<MarkGroup> groups;
  QTextCursor cursor(block);
  for (auto it = protectedMark.globalMatch(block.text()); it.hasNext();) {
    const QRegularExpressionMatch match = it.next();
    MarkGroup group{block.position() + static_cast<int>(match.capturedStart()),
                    block.position() + static_cast<int>(match.capturedEnd()),
                    match.captured(1),
                    {}};
    cursor.setPosition(group.begin + 1);
    const bool code = isCode(block) || cursor.charFormat().fontFixedPitch();
    const std::vector<int> marks = code ? std::vector<int>() : marksOf(group.numbers);
    room -= static_cast<int>(marks.size());
    for (const int mark : room < 0 ? std::vector<int>() : marks) group.links.push_back({mark, counts[mark]++});
    groups.push_back(std::move(group));
  }
  return groups;
}

// "[1, 2]" becomes "[1][2]", each with its own link.
void insertMarks(QTextCursor& cursor, const MarkGroup& group) {
  cursor.setPosition(group.begin + 1);
  const QTextCharFormat format = cursor.charFormat();
  cursor.setPosition(group.begin);
  cursor.setPosition(group.end, QTextCursor::KeepAnchor);
  if (group.links.empty()) cursor.insertText(u'[' + group.numbers + u']', format);
  for (const CitationLink& link : group.links) {
    QTextCharFormat linked = format;
    linked.setAnchor(true);
    linked.setAnchorHref(link.href());
    linked.setForeground(theme::colors().accent);
    cursor.insertText(QStringLiteral("[%1]").arg(link.mark), linked);
  }
}

void restoreMarks(QTextDocument& document, MarkCounts& counts) {
  int room = kMostMarks;
  QTextCursor cursor(&document);
  cursor.beginEditBlock();
  for (QTextBlock block = document.begin(); block.isValid(); block = block.next()) {
    const std::vector<MarkGroup> groups = findMarks(block, counts, room);
    for (auto group = groups.rbegin(); group != groups.rend(); ++group) insertMarks(cursor, *group);
  }
  cursor.endEditBlock();
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

qsizetype markdownBoundary(QStringView text, qsizetype from, qsizetype end) {
  text = text.first(end);  // nothing looks further, however long the last line is
  qsizetype boundary = from;
  bool fenced = false;
  bool blankBefore = false;
  for (qsizetype start = from; start < end;) {
    const qsizetype newline = text.indexOf(u'\n', start);
    const qsizetype lineEnd = newline < 0 ? end : std::min(newline, end);
    const QStringView line = text.sliced(start, lineEnd - start).trimmed();
    const bool indented = start < lineEnd && text[start].isSpace();
    if (!fenced && blankBefore && !indented && startsPlainParagraph(line)) boundary = start;
    if (line.startsWith(QLatin1String("```")) || line.startsWith(QLatin1String("~~~"))) fenced = !fenced;
    blankBefore = line.isEmpty();
    start = lineEnd + 1;
  }
  return boundary;
}

}  // namespace lectern::ui
