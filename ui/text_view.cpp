// SPDX-License-Identifier: GPL-3.0-or-later
#include "text_view.h"

#include <QFontDatabase>
#include <QPaintEvent>
#include <QPainter>
#include <QTextBlock>
#include <algorithm>

#include "theme.h"

namespace lectern::ui {

namespace {

constexpr qsizetype kStepLength = 16 * 1024;  // characters laid out at once: a few milliseconds
constexpr int kNumberMargin = 10;

}  // namespace

class TextView::Numbers : public QWidget {
 public:
  explicit Numbers(TextView* view) : QWidget(view), m_view(view) {}

 protected:
  void paintEvent(QPaintEvent* event) override { m_view->paintNumbers(event); }

 private:
  TextView* m_view;
};

TextView::TextView(QWidget* parent) : QPlainTextEdit(parent), m_numbers(new Numbers(this)) {
  setObjectName(QStringLiteral("textView"));
  setAccessibleName(tr("Document text"));
  setReadOnly(true);
  setUndoRedoEnabled(false);
  setTextInteractionFlags(Qt::TextSelectableByMouse | Qt::TextSelectableByKeyboard);
  setAcceptDrops(false);
  setFrameShape(QFrame::NoFrame);
  connect(this, &QPlainTextEdit::blockCountChanged, this, &TextView::updateNumbersWidth);
  connect(this, &QPlainTextEdit::updateRequest, this, [this](const QRect& rect, int dy) {
    if (dy != 0) {
      m_numbers->scroll(0, dy);
    } else {
      m_numbers->update(0, rect.y(), m_numbers->width(), rect.height());
    }
  });
  m_timer.setInterval(0);
  connect(&m_timer, &QTimer::timeout, this, &TextView::showMore);
}

void TextView::showText(const QString& text, bool prose, int firstLine, int lastLine) {
  clear();
  setLineWrapMode(prose ? QPlainTextEdit::WidgetWidth : QPlainTextEdit::NoWrap);
  setFont(prose ? QFontDatabase::systemFont(QFontDatabase::GeneralFont)
                : QFontDatabase::systemFont(QFontDatabase::FixedFont));
  m_text = text;
  m_shown = 0;
  m_firstLine = firstLine;
  m_lastLine = lastLine;
  showMore();
  if (!complete()) m_timer.start();
}

void TextView::showMore() {
  const qsizetype wanted = std::min(m_text.size(), m_shown + kStepLength);
  const qsizetype newline = m_text.lastIndexOf(u'\n', wanted - 1);
  const qsizetype end = wanted == m_text.size() || newline < m_shown ? wanted : newline + 1;
  QTextCursor cursor(document());
  cursor.movePosition(QTextCursor::End);
  cursor.insertText(m_text.mid(m_shown, end - m_shown));
  const bool reachedMark = m_firstLine > 0 && blockCount() >= m_lastLine;
  m_shown = end;
  if (reachedMark || complete()) updateMarks();
  if (complete()) {
    m_timer.stop();
    emit completed();
  }
}

void TextView::markLines(int firstLine, int lastLine) {
  m_firstLine = firstLine;
  m_lastLine = lastLine;
  updateMarks();
}

void TextView::updateMarks() {
  const QTextBlock first = document()->findBlockByNumber(m_firstLine - 1);
  if (m_firstLine <= 0 || !first.isValid()) {
    setExtraSelections({});
    return;
  }
  const bool alreadyShown =
      !extraSelections().isEmpty() && extraSelections().front().cursor.blockNumber() == m_firstLine - 1;
  QList<QTextEdit::ExtraSelection> marks;
  QColor color = theme::colors().highlight;
  color.setAlphaF(theme::isDark() ? 0.22F : 0.55F);
  for (QTextBlock block = first; block.isValid() && block.blockNumber() < std::max(m_lastLine, m_firstLine);
       block = block.next()) {
    QTextEdit::ExtraSelection mark;
    mark.cursor = QTextCursor(block);
    mark.cursor.movePosition(QTextCursor::EndOfBlock, QTextCursor::KeepAnchor);
    mark.format.setBackground(color);
    mark.format.setProperty(QTextFormat::FullWidthSelection, true);
    marks.push_back(mark);
  }
  setExtraSelections(marks);
  m_numbers->update();
  if (alreadyShown && !complete()) return;
  setTextCursor(QTextCursor(first));
  centerCursor();
}

void TextView::updateNumbersWidth() {
  int digits = 3;
  for (int count = blockCount(); count >= 1000; count /= 10) ++digits;
  const int width = fontMetrics().horizontalAdvance(u'9') * digits + 2 * kNumberMargin;
  setViewportMargins(width, 0, 0, 0);
  m_numbers->setGeometry(contentsRect().left(), contentsRect().top(), width, contentsRect().height());
}

void TextView::resizeEvent(QResizeEvent* event) {
  QPlainTextEdit::resizeEvent(event);
  updateNumbersWidth();
}

void TextView::changeEvent(QEvent* event) {
  QPlainTextEdit::changeEvent(event);
  if (event->type() == QEvent::PaletteChange) updateMarks();
  if (event->type() == QEvent::FontChange) updateNumbersWidth();
}

void TextView::wheelEvent(QWheelEvent* event) {
  // Not QPlainTextEdit's, which would zoom. NOLINTNEXTLINE(bugprone-parent-virtual-call)
  QAbstractScrollArea::wheelEvent(event);
  updateMicroFocus();
}

void TextView::paintNumbers(QPaintEvent* event) {
  const Colors& colors = theme::colors();
  QPainter painter(m_numbers);
  painter.fillRect(event->rect(), colors.panel);
  painter.setFont(font());
  const int right = m_numbers->width() - kNumberMargin;
  QTextBlock block = firstVisibleBlock();
  double top = blockBoundingGeometry(block).translated(contentOffset()).top();
  while (block.isValid() && top <= event->rect().bottom()) {
    const double height = blockBoundingRect(block).height();
    const int line = block.blockNumber() + 1;
    const bool marked = m_firstLine > 0 && line >= m_firstLine && line <= std::max(m_lastLine, m_firstLine);
    painter.setPen(marked ? colors.text : colors.muted);
    painter.drawText(QRectF(0, top, right, fontMetrics().height()), Qt::AlignRight, QString::number(line));
    top += height;
    block = block.next();
  }
}

}  // namespace lectern::ui
