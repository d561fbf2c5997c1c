// SPDX-License-Identifier: GPL-3.0-or-later
#include "question_box.h"

#include <QKeyEvent>
#include <QMimeData>
#include <algorithm>

#include "display_text.h"

namespace lectern::ui {

namespace {

constexpr int kMostLines = 6;
constexpr qsizetype kLongestQuestion = 20'000;

}  // namespace

QuestionBox::QuestionBox(QWidget* parent) : QPlainTextEdit(parent) {
  setObjectName(QStringLiteral("questionBox"));
  setAccessibleName(tr("Question"));
  setPlaceholderText(tr("Ask about your documents"));
  setTabChangesFocus(true);
  setAcceptDrops(false);
  setFrameShape(QFrame::NoFrame);
  document()->setDocumentMargin(2);
  setVerticalScrollBarPolicy(Qt::ScrollBarAsNeeded);
  setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
  connect(this, &QPlainTextEdit::textChanged, this, &QuestionBox::fitHeight);
  fitHeight();
}

QSize QuestionBox::sizeHint() const { return {300, height()}; }

void QuestionBox::keyPressEvent(QKeyEvent* event) {
  const bool enter = event->key() == Qt::Key_Return || event->key() == Qt::Key_Enter;
  if (enter && !event->modifiers().testFlag(Qt::ShiftModifier)) {
    emit submitted();
    return;
  }
  QPlainTextEdit::keyPressEvent(event);
}

void QuestionBox::focusInEvent(QFocusEvent* event) {
  QPlainTextEdit::focusInEvent(event);
  emit focusChanged(true);
}

void QuestionBox::focusOutEvent(QFocusEvent* event) {
  QPlainTextEdit::focusOutEvent(event);
  emit focusChanged(false);
}

void QuestionBox::insertFromMimeData(const QMimeData* source) {
  insertPlainText(displayText(source->text().left(kLongestQuestion)));
}

void QuestionBox::resizeEvent(QResizeEvent* event) {
  QPlainTextEdit::resizeEvent(event);
  fitHeight();
}

void QuestionBox::fitHeight() {
  // The size of a QPlainTextDocumentLayout counts lines, not pixels.
  const int lines = std::clamp(static_cast<int>(document()->size().height()), 1, kMostLines);
  const int wanted = lines * fontMetrics().lineSpacing() + 6;
  if (wanted != height()) setFixedHeight(wanted);
}

}  // namespace lectern::ui
