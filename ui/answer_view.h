// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QString>
#include <QTextBrowser>
#include <QTimer>
#include <functional>

#include "answer_document.h"

namespace lectern::ui {

// Shows what a model writes, while it writes: Markdown rendered in pieces at most thirty times a second, as high as its
// content. Opens nothing, loads nothing; only citation links act.
class AnswerView : public QTextBrowser {
  Q_OBJECT

 public:
  explicit AnswerView(QWidget* parent = nullptr);

  void append(const QString& piece);
  // No more pieces come; what is waiting is shown as fast as the window allows.
  void finish();
  void clearText();

  QString markdown() const { return m_source; }
  bool complete() const { return m_finished && m_rendered == m_source.size(); }
  void setCitationStates(std::function<CitationState(const CitationLink&)> stateOf);

  QVariant loadResource(int type, const QUrl& name) override;
  QSize sizeHint() const override;
  QSize minimumSizeHint() const override;

 signals:
  void citationActivated(const lectern::ui::CitationLink& link);
  void rendered();

 protected:
  void doSetSource(const QUrl& url, QTextDocument::ResourceType type) override;
  void changeEvent(QEvent* event) override;
  void resizeEvent(QResizeEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void contextMenuEvent(QContextMenuEvent* event) override;
  QMimeData* createMimeDataFromSelection() const override;

 private:
  void renderSome();
  void renderTail(qsizetype end);
  void insertRendered(QTextCursor& cursor, const QString& markdown, MarkCounts& counts);
  void insertPlain(QStringView text);
  void adaptStep(double milliseconds);
  void styleCitations(int from);
  void fitHeight();
  void restart();

  QString m_source;
  qsizetype m_rendered = 0;   // characters of m_source on show
  qsizetype m_settled = 0;    // of these, characters that are never rendered again
  int m_settledPosition = 0;  // where their text ends in the document
  MarkCounts m_settledCounts;
  qsizetype m_step = 2048;    // characters of one update
  qsizetype m_plainLine = 0;  // length of the last line of plain text
  bool m_plain = false;
  bool m_finished = false;
  std::function<CitationState(const CitationLink&)> m_stateOf;
  QTimer m_timer;
};

}  // namespace lectern::ui
