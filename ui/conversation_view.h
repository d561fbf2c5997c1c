// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QStringList>
#include <QWidget>

#include "document_loader.h"

class QCheckBox;
class QFrame;
class QLabel;
class QPushButton;
class QScrollArea;
class QVBoxLayout;

namespace lectern::ui {

class AskController;
class ConversationTurn;
class QuestionBox;

// Middle pane: questions and answers, the question box beneath. Ask becomes Stop while an answer is on its way.
class ConversationView : public QWidget {
  Q_OBJECT

 public:
  explicit ConversationView(AskController* controller, QWidget* parent = nullptr);

  void focusQuestion();
  void ask(const QString& question);
  void stop();
  // What the empty conversation says and offers: questions to ask, or the sample documents.
  void setEmptyState(const QString& hint, const QStringList& questions, bool offerSamples);
  // Documents that the "only selected" box refers to.
  void setSelection(const std::vector<retrieval::DocumentId>& documents);
  ConversationTurn* lastTurn() const { return m_turn; }

 signals:
  void samplesRequested();
  void targetActivated(const lectern::ui::ReaderTarget& target);

 protected:
  bool eventFilter(QObject* watched, QEvent* event) override;

 private:
  QWidget* buildQuestionFrame();
  void buildEmptyState();
  QPushButton* addSuggestion(const QString& text);
  void connectController();
  void ask(const QString& question, const std::vector<retrieval::DocumentId>& documents);
  void beginTurn(const QString& question);
  void endTurn();
  void submit();
  void updateButton();
  void followEnd();

  AskController* m_controller;
  QScrollArea* m_scroll;
  QWidget* m_page;
  QVBoxLayout* m_turns;
  QWidget* m_empty;
  QLabel* m_emptyHint;
  QVBoxLayout* m_suggestions;
  QFrame* m_questionFrame;
  QuestionBox* m_question;
  QPushButton* m_button;
  QCheckBox* m_onlySelected;
  ConversationTurn* m_turn = nullptr;
  std::vector<retrieval::DocumentId> m_selection;
  std::vector<retrieval::DocumentId> m_asked;  // about these is the last question
  bool m_following = true;
};

}  // namespace lectern::ui
