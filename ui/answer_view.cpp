// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer_view.h"

#include <QAbstractTextDocumentLayout>
#include <QContextMenuEvent>
#include <QElapsedTimer>
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
constexpr int kCatchUpMs = 4;             // between updates once everything has arrived
constexpr qsizetype kShortestStep = 256;  // characters rendered in one update; adapts to what they cost
constexpr qsizetype kLongestStep = 4096;
constexpr qsizetype kMostBrackets = 64;  // of one update: a mark, link or image costs as much as many letters
constexpr double kCheapMs = 3;
constexpr double kDearMs = 7;  // half of what a frame allows
constexpr qsizetype kLongestMarkdown = 256 * 1024;
constexpr qsizetype kLongestPlainLine = 1000;

// `end`, or where the first pair of brackets begins that is one too many.
qsizetype endOfBrackets(QStringView text, qsizetype begin, qsizetype end, qsizetype most) {
  qsizetype pairs = 0;
  qsizetype open = -1;
  for (qsizetype i = begin; i < end; ++i) {
    if (text[i] == u'[') open = i;
    if (text[i] != u']' || open < 0) continue;
    if (++pairs > most) return open;
    open = -1;
  }
  return end;
}

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
  connect(&m_timer, &QTimer::timeout, this, &AnswerView::renderSome);
}

void AnswerView::append(const QString& piece) {
  m_source += piece;
  if (!m_timer.isActive()) m_timer.start(kFrameMs);
}

void AnswerView::finish() {
  m_finished = true;
  m_timer.start(kCatchUpMs);
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
  if (!m_source.isEmpty()) m_timer.start(m_finished ? kCatchUpMs : kFrameMs);
}

void AnswerView::setCitationStates(std::function<CitationState(const CitationLink&)> stateOf) {
  m_stateOf = std::move(stateOf);
  styleCitations(0);
}

void AnswerView::renderSome() {
  const bool done = m_rendered == m_source.size();
  if (done) {
    m_timer.stop();
    if (!m_finished || m_settled == m_source.size()) return;
  }
  QElapsedTimer clock;
  clock.start();
  const qsizetype end =
      endOfBrackets(m_source, m_rendered, std::min(m_source.size(), m_rendered + m_step), kMostBrackets);
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
  adaptStep(static_cast<double>(clock.nsecsElapsed()) * 1e-6);
  emit rendered();
}

void AnswerView::adaptStep(double milliseconds) {
  if (milliseconds > kDearMs) m_step = std::max(kShortestStep, m_step / 2);
  if (milliseconds < kCheapMs) m_step = std::min(kLongestStep, m_step * 2);
}

// Paragraphs that can no longer change are rendered for good; the rest is taken back and rendered again.
void AnswerView::renderTail(qsizetype end) {
  QTextCursor cursor(document());
  cursor.beginEditBlock();
  const int from = m_settledPosition;
  cursor.setPosition(from);
  cursor.movePosition(QTextCursor::End, QTextCursor::KeepAnchor);
  cursor.removeSelectedText();

  qsizetype boundary = m_finished && end == m_source.size() ? end : markdownBoundary(m_source, m_settled, end);
  const bool dear = endOfBrackets(m_source, boundary, end, 2 * kMostBrackets) < end;
  if (dear || end - boundary > 2 * m_step) boundary = end;
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
  styleCitations(from);
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

void AnswerView::styleCitations(int from) {
  if (!m_stateOf) return;
  const Colors& colors = theme::colors();
  struct Span {
    int begin, end;
    QTextCharFormat format;
  };
  std::vector<Span> spans;
  for (QTextBlock block = document()->findBlock(from); block.isValid(); block = block.next()) {
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
