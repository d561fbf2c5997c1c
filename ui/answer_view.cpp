// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer_view.h"

#include <QAbstractTextDocumentLayout>
#include <QContextMenuEvent>
#include <QMenu>
#include <QMimeData>
#include <QScrollBar>
#include <QTextBlock>
#include <QTextDocumentFragment>
#include <QWheelEvent>
#include <algorithm>
#include <cmath>

#include "display_text.h"
#include "theme.h"

namespace lectern::ui {

namespace {

constexpr int kFrameMs = 34;              // under thirty updates a second
constexpr qsizetype kStepLength = 4096;   // rendered in one update: a few milliseconds
constexpr qsizetype kLongestTail = 8192;  // rendered again and again while it grows
constexpr qsizetype kLongestMarkdown = 256 * 1024;
constexpr qsizetype kLongestPlainLine = 1000;

}  // namespace

AnswerView::AnswerView(QWidget* parent) : QTextBrowser(parent) {
  setObjectName(QStringLiteral("answerView"));
  setAccessibleName(tr("Answer"));
  setFont(theme::scaledFont(*this, 1.08));
  setDocument(new InertDocument(this));
  document()->setUndoRedoEnabled(false);
  document()->setDocumentMargin(0);
  setOpenLinks(false);
  setOpenExternalLinks(false);
  setAcceptDrops(false);
  setFrameShape(QFrame::NoFrame);
  setVerticalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
  setWordWrapMode(QTextOption::WrapAtWordBoundaryOrAnywhere);
  connect(this, &QTextBrowser::anchorClicked, this, [this](const QUrl& url) {
    if (const auto link = CitationLink::parse(url.toString())) emit citationActivated(*link);
  });
  connect(document()->documentLayout(), &QAbstractTextDocumentLayout::documentSizeChanged, this,
          &AnswerView::fitHeight);
  m_timer.setInterval(kFrameMs);
  connect(&m_timer, &QTimer::timeout, this, &AnswerView::renderSome);
}

void AnswerView::append(const QString& piece) {
  m_source += piece;
  if (!m_timer.isActive()) m_timer.start();
}

void AnswerView::finish() {
  m_finished = true;
  if (!m_timer.isActive()) m_timer.start();
}

void AnswerView::clearText() {
  m_source.clear();
  m_finished = false;
  restart();
}

void AnswerView::restart() {
  document()->clear();
  m_rendered = m_settled = m_plainLine = 0;
  m_settledPosition = 0;
  m_settledCounts.clear();
  m_plain = false;
  if (!m_source.isEmpty()) m_timer.start();
}

void AnswerView::setCitationStates(std::function<CitationState(const CitationLink&)> stateOf) {
  m_stateOf = std::move(stateOf);
  styleCitations();
}

void AnswerView::renderSome() {
  const bool done = m_rendered == m_source.size();
  if (done) {
    m_timer.stop();
    if (!m_finished || m_settled == m_source.size()) return;
  }
  const qsizetype end = std::min(m_source.size(), m_rendered + kStepLength);
  if (!m_plain && end > kLongestMarkdown) {
    m_plain = true;
    m_settled = m_rendered;
  }
  if (m_plain) {
    insertPlain(QStringView(m_source).mid(m_rendered, end - m_rendered));
    m_settled = end;
  } else {
    renderTail(end);
  }
  m_rendered = end;
  emit rendered();
}

// Paragraphs that can no longer change are rendered for good; the rest is taken back and rendered again.
void AnswerView::renderTail(qsizetype end) {
  QTextCursor cursor(document());
  cursor.beginEditBlock();
  cursor.setPosition(m_settledPosition);
  cursor.movePosition(QTextCursor::End, QTextCursor::KeepAnchor);
  cursor.removeSelectedText();

  qsizetype boundary = m_finished && end == m_source.size() ? end : markdownBoundary(m_source.left(end), m_settled);
  if (end - boundary > kLongestTail) boundary = end;
  if (boundary > m_settled) {
    insertRendered(cursor, m_source.mid(m_settled, boundary - m_settled), m_settledCounts);
    m_settled = boundary;
    m_settledPosition = cursor.position();
  }
  if (end > m_settled) {
    MarkCounts counts = m_settledCounts;
    insertRendered(cursor, m_source.mid(m_settled, end - m_settled), counts);
  }
  cursor.endEditBlock();
  styleCitations();
}

void AnswerView::insertRendered(QTextCursor& cursor, const QString& markdown, MarkCounts& counts) {
  const std::unique_ptr<InertDocument> piece = renderMarkdown(markdown, font(), counts);
  if (piece->isEmpty()) return;
  if (cursor.position() > 0) cursor.insertBlock(QTextBlockFormat(), QTextCharFormat());
  cursor.insertFragment(QTextDocumentFragment(piece.get()));
  cursor.movePosition(QTextCursor::End);
}

void AnswerView::insertPlain(QStringView text) {
  QString shown;
  for (const QChar c : displayText(text.toString())) {
    m_plainLine = c == u'\n' ? 0 : m_plainLine + 1;
    shown += c;
    if (m_plainLine >= kLongestPlainLine) {
      shown += u'\n';
      m_plainLine = 0;
    }
  }
  QTextCursor cursor(document());
  cursor.movePosition(QTextCursor::End);
  cursor.insertText(shown, QTextCharFormat());
}

void AnswerView::styleCitations() {
  if (!m_stateOf) return;
  const Colors& colors = theme::colors();
  struct Span {
    int begin, end;
    QTextCharFormat format;
  };
  std::vector<Span> spans;
  for (QTextBlock block = document()->begin(); block.isValid(); block = block.next()) {
    for (auto it = block.begin(); !it.atEnd(); ++it) {
      const auto link = CitationLink::parse(it.fragment().charFormat().anchorHref());
      if (!link) continue;
      const CitationState state = m_stateOf(*link);
      QTextCharFormat format;
      format.setForeground(state == CitationState::kUnknown      ? colors.bad
                           : state == CitationState::kUnverified ? colors.caution
                                                                 : colors.accent);
      // A shape as well as a colour: what could not be checked is underlined with dots.
      format.setUnderlineStyle(state == CitationState::kUnverified || state == CitationState::kUnknown
                                   ? QTextCharFormat::DotLine
                                   : QTextCharFormat::NoUnderline);
      format.setToolTip(state == CitationState::kUnknown      ? tr("No passage has this number")
                        : state == CitationState::kUnverified ? tr("Not found word for word: read it in the document")
                        : state == CitationState::kVerified   ? tr("Stands word for word in the document")
                                                              : QString());
      spans.push_back({it.fragment().position(), it.fragment().position() + it.fragment().length(), format});
    }
  }
  QTextCursor cursor(document());
  for (const Span& span : spans) {
    cursor.setPosition(span.begin);
    cursor.setPosition(span.end, QTextCursor::KeepAnchor);
    cursor.mergeCharFormat(span.format);
  }
}

QVariant AnswerView::loadResource(int /*type*/, const QUrl& /*name*/) { return {}; }

void AnswerView::doSetSource(const QUrl& /*url*/, QTextDocument::ResourceType /*type*/) {}

QSize AnswerView::sizeHint() const { return {400, height()}; }

QSize AnswerView::minimumSizeHint() const { return {120, 0}; }

void AnswerView::fitHeight() {
  const int wanted = static_cast<int>(std::ceil(document()->size().height())) + 2;
  if (wanted != height()) setFixedHeight(wanted);
}

void AnswerView::resizeEvent(QResizeEvent* event) {
  QTextBrowser::resizeEvent(event);
  fitHeight();
}

// Colours are part of the text's formats, so a new palette means rendering again.
void AnswerView::changeEvent(QEvent* event) {
  QTextBrowser::changeEvent(event);
  if (event->type() == QEvent::PaletteChange && m_rendered > 0) restart();
}

void AnswerView::wheelEvent(QWheelEvent* event) { event->ignore(); }

void AnswerView::contextMenuEvent(QContextMenuEvent* event) {
  auto* menu = new QMenu(this);
  menu->setAttribute(Qt::WA_DeleteOnClose);
  QAction* copyAction = menu->addAction(tr("Copy"), this, &QTextEdit::copy);
  copyAction->setEnabled(textCursor().hasSelection());
  menu->addAction(tr("Select All"), this, &QTextEdit::selectAll);
  menu->popup(event->globalPos());
}

QMimeData* AnswerView::createMimeDataFromSelection() const {
  auto* selection = new QMimeData;
  selection->setText(displayText(textCursor().selection().toPlainText()));
  return selection;
}

}  // namespace lectern::ui
