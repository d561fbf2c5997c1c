// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QWidget>

#include "ask_controller.h"
#include "document_loader.h"
#include "retrieval/answer.h"

class QLabel;
class QProgressBar;
class QPushButton;
class QToolButton;
class QVBoxLayout;

namespace lectern::ui {

class AnswerView;

// A question and what became of it: progress, answer, sources, figures.
class ConversationTurn : public QWidget {
  Q_OBJECT

 public:
  explicit ConversationTurn(const QString& question, QWidget* parent = nullptr);

  void showContext(const retrieval::ContextReport& context);
  void showPrefill(const PrefillProgress& progress);
  void showPhase(const QString& text);
  void appendText(const QString& piece);
  void finish(const retrieval::Answer& answer);
  // The model failed in the middle of the answer.
  void interrupt(const retrieval::Answer& partial, const QString& message);
  void fail(const QString& message, bool cancelled);

  AnswerView* answerView() const { return m_answer; }

 signals:
  void targetActivated(const lectern::ui::ReaderTarget& target);
  void askAgainRequested();
  void grown();

 private:
  void activateCitation(const struct CitationLink& link);
  void showSources();
  void showFigures(const retrieval::Answer& answer);
  void copyAnswer();
  void endProgress();
  void muteNotice();
  void showError(const QString& message);

  QLabel* m_phase;
  QProgressBar* m_progress;
  QWidget* m_progressRow;
  AnswerView* m_answer;
  QLabel* m_error;
  QPushButton* m_again;
  QVBoxLayout* m_sources;
  QWidget* m_sourcesBox;
  QLabel* m_figures;
  QToolButton* m_copy;
  QWidget* m_footer;
  retrieval::ContextReport m_context;
  std::vector<retrieval::Citation> m_citations;
};

}  // namespace lectern::ui
