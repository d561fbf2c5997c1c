// SPDX-License-Identifier: GPL-3.0-or-later
#include "conversation_view.h"

#include <QCheckBox>
#include <QEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QScrollArea>
#include <QScrollBar>
#include <QStyle>
#include <QTimer>
#include <QVBoxLayout>

#include "ask_controller.h"
#include "conversation_turn.h"
#include "display_text.h"
#include "question_box.h"
#include "theme.h"

namespace lectern::ui {

namespace {

constexpr int kReadingWidth = 760;  // lines longer than this are hard to read
constexpr int kSideMargin = 24;

}  // namespace

ConversationView::ConversationView(AskController* controller, QWidget* parent)
    : QWidget(parent),
      m_controller(controller),
      m_scroll(new QScrollArea),
      m_page(new QWidget),
      m_turns(new QVBoxLayout),
      m_empty(new QWidget),
      m_emptyHint(new QLabel),
      m_suggestions(new QVBoxLayout),
      m_question(new QuestionBox),
      m_button(new QPushButton),
      m_onlySelected(new QCheckBox) {
  setObjectName(QStringLiteral("conversationPane"));
  setAttribute(Qt::WA_StyledBackground);
  m_page->setObjectName(QStringLiteral("conversationPage"));

  m_turns->setContentsMargins(0, theme::kWideSpace, 0, theme::kWideSpace);
  m_turns->setSpacing(28);
  buildEmptyState();
  auto* column = new QWidget;
  column->setMaximumWidth(kReadingWidth);
  auto* columnLayout = new QVBoxLayout(column);
  columnLayout->setContentsMargins(0, 0, 0, 0);
  columnLayout->addWidget(m_empty, 1);
  columnLayout->addLayout(m_turns);
  columnLayout->addStretch();
  auto* pageLayout = new QHBoxLayout(m_page);
  pageLayout->setContentsMargins(kSideMargin, 0, kSideMargin, 0);
  pageLayout->addWidget(column);
  m_scroll->setWidget(m_page);
  m_scroll->setWidgetResizable(true);
  m_scroll->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  m_scroll->setFrameShape(QFrame::NoFrame);
  m_scroll->setFocusPolicy(Qt::NoFocus);
  m_scroll->verticalScrollBar()->installEventFilter(this);
  m_page->installEventFilter(this);

  auto* layout = new QVBoxLayout(this);
  layout->setContentsMargins(0, 0, 0, 0);
  layout->setSpacing(0);
  layout->addWidget(m_scroll, 1);
  layout->addWidget(buildQuestionFrame());
  connect(m_scroll->verticalScrollBar(), &QScrollBar::actionTriggered, this, [this] {
    const QScrollBar* bar = m_scroll->verticalScrollBar();
    m_following = bar->sliderPosition() >= bar->maximum() - theme::kWideSpace;
  });
  connectController();
  updateButton();
}

QWidget* ConversationView::buildQuestionFrame() {
  m_questionFrame = new QFrame;
  m_questionFrame->setObjectName(QStringLiteral("questionFrame"));
  m_onlySelected->setText(tr("Only the selected documents"));
  m_onlySelected->hide();
  auto* row = new QHBoxLayout(m_questionFrame);
  row->setContentsMargins(10, 8, 8, 8);
  row->setSpacing(theme::kSpace);
  row->addWidget(m_question, 1, Qt::AlignVCenter);
  row->addWidget(m_button, 0, Qt::AlignBottom);

  auto* column = new QWidget;
  column->setMaximumWidth(kReadingWidth);
  auto* columnLayout = new QVBoxLayout(column);
  columnLayout->setContentsMargins(0, 0, 0, 0);
  columnLayout->setSpacing(6);
  columnLayout->addWidget(m_onlySelected);
  columnLayout->addWidget(m_questionFrame);
  auto* holder = new QWidget;
  auto* holderLayout = new QHBoxLayout(holder);
  holderLayout->setContentsMargins(kSideMargin, 4, kSideMargin, 14);
  holderLayout->addWidget(column);

  connect(m_question, &QuestionBox::submitted, this, &ConversationView::submit);
  connect(m_question, &QPlainTextEdit::textChanged, this, &ConversationView::updateButton);
  connect(m_question, &QuestionBox::focusChanged, this, [this](bool focused) {
    m_questionFrame->setProperty("focused", focused);
    m_questionFrame->style()->unpolish(m_questionFrame);
    m_questionFrame->style()->polish(m_questionFrame);
  });
  connect(m_button, &QPushButton::clicked, this, [this] { m_controller->busy() ? stop() : submit(); });
  m_button->setObjectName(QStringLiteral("askButton"));
  m_button->setProperty("main", true);
  m_button->setIconSize({theme::kIconSize, theme::kIconSize});
  return holder;
}

void ConversationView::buildEmptyState() {
  auto* title = new QLabel(tr("Ask your documents"));
  title->setFont(theme::scaledFont(*this, 1.5, true));
  title->setAlignment(Qt::AlignCenter);
  m_emptyHint->setAlignment(Qt::AlignCenter);
  m_emptyHint->setWordWrap(true);
  m_emptyHint->setProperty("muted", true);
  m_suggestions->setSpacing(theme::kSpace);
  auto* layout = new QVBoxLayout(m_empty);
  layout->setContentsMargins(0, 0, 0, 0);
  layout->setSpacing(10);
  layout->addStretch(2);
  layout->addWidget(title);
  layout->addWidget(m_emptyHint);
  layout->addSpacing(8);
  layout->addLayout(m_suggestions);
  layout->addStretch(3);
}

void ConversationView::connectController() {
  connect(m_controller, &AskController::started, this, &ConversationView::beginTurn);
  connect(m_controller, &AskController::modelOpening, this, [this] {
    if (m_turn != nullptr && m_controller->busy()) m_turn->showPhase(tr("Opening the model…"));
  });
  connect(m_controller, &AskController::modelLoading, this, [this](const auto& state) {
    if (m_turn != nullptr && m_controller->busy()) {
      m_turn->showPhase(loadingText(state.done, state.total, state.seconds));
    }
  });
  connect(m_controller, &AskController::modelOpened, this, [this] {
    if (m_turn != nullptr && m_controller->busy()) m_turn->showPhase(tr("Searching…"));
  });
  connect(m_controller, &AskController::contextReady, this,
          [this](const auto& report) { m_turn->showContext(report); });
  connect(m_controller, &AskController::prefilled, this, [this](const auto& done) { m_turn->showPrefill(done); });
  connect(m_controller, &AskController::textArrived, this, [this](const QString& text) { m_turn->appendText(text); });
  connect(m_controller, &AskController::finished, this, [this](const retrieval::Answer& answer) {
    m_turn->finish(answer);
    endTurn();
  });
  connect(m_controller, &AskController::interrupted, this,
          [this](const retrieval::Answer& partial, const QString& message) {
            m_turn->interrupt(partial, message);
            endTurn();
          });
  connect(m_controller, &AskController::failed, this, [this](const QString& message, bool cancelled) {
    m_turn->fail(message, cancelled);
    endTurn();
  });
}

void ConversationView::focusQuestion() { m_question->setFocus(Qt::ShortcutFocusReason); }

void ConversationView::setEmptyState(const QString& hint, const QStringList& questions, bool offerSamples) {
  m_emptyHint->setText(hint);
  while (QLayoutItem* item = m_suggestions->takeAt(0)) {
    item->widget()->deleteLater();
    delete item;
  }
  for (const QString& question : questions) {
    connect(addSuggestion(question), &QPushButton::clicked, this, [this, question] {
      focusQuestion();  // the button is about to go
      ask(question);
    });
  }
  if (!offerSamples) return;
  connect(addSuggestion(tr("Try it with the sample documents")), &QPushButton::clicked, this, [this] {
    focusQuestion();
    emit samplesRequested();
  });
}

QPushButton* ConversationView::addSuggestion(const QString& text) {
  auto* button = new QPushButton(buttonText(text));
  button->setProperty("suggestion", true);
  button->setCursor(Qt::PointingHandCursor);
  m_suggestions->addWidget(button);
  return button;
}

void ConversationView::setSelection(const std::vector<retrieval::DocumentId>& documents) {
  m_selection = documents;
  m_onlySelected->setVisible(!documents.empty());
  m_onlySelected->setText(tr("Only the %n selected document(s)", nullptr, static_cast<int>(documents.size())));
  if (documents.empty()) m_onlySelected->setChecked(false);
}

void ConversationView::submit() {
  const QString question = m_question->toPlainText().trimmed();
  if (question.isEmpty() || m_controller->busy()) return;
  m_question->clear();
  ask(question);
}

void ConversationView::ask(const QString& question) {
  ask(question, m_onlySelected->isChecked() ? m_selection : std::vector<retrieval::DocumentId>());
}

void ConversationView::ask(const QString& question, const std::vector<retrieval::DocumentId>& documents) {
  if (m_controller->busy()) return;
  m_asked = documents;
  m_controller->ask(question, documents);
  updateButton();
}

void ConversationView::stop() {
  if (!m_controller->busy()) return;
  m_button->setEnabled(false);
  m_button->setText(tr("Stopping…"));
  m_controller->stop();
}

void ConversationView::beginTurn(const QString& question) {
  m_empty->hide();
  m_turn = new ConversationTurn(question, m_page);
  connect(m_turn, &ConversationTurn::targetActivated, this, &ConversationView::targetActivated);
  connect(m_turn, &ConversationTurn::askAgainRequested, this,
          [this, question, documents = m_asked] { ask(question, documents); });
  m_turns->addWidget(m_turn);
  m_following = true;
}

void ConversationView::endTurn() { updateButton(); }

void ConversationView::updateButton() {
  const bool busy = m_controller->busy();
  m_button->setText(busy ? tr("Stop") : tr("Ask"));
  m_button->setIcon(theme::icon(busy ? QStringLiteral("stop") : QStringLiteral("ask"), IconTint::kOnAccent));
  m_button->setToolTip(busy ? tr("Stop (Esc)") : tr("Ask (Enter)"));
  m_button->setEnabled(busy || !m_question->toPlainText().trimmed().isEmpty());
}

// The end stays in view while text arrives, unless the reader has scrolled away from it.
void ConversationView::followEnd() {
  QScrollBar* bar = m_scroll->verticalScrollBar();
  if (m_following) bar->setValue(bar->maximum());
}

bool ConversationView::eventFilter(QObject* watched, QEvent* event) {
  if (watched == m_page && (event->type() == QEvent::Resize || event->type() == QEvent::LayoutRequest)) {
    QMetaObject::invokeMethod(this, &ConversationView::followEnd, Qt::QueuedConnection);
  }
  return QWidget::eventFilter(watched, event);
}

}  // namespace lectern::ui
