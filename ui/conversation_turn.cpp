// SPDX-License-Identifier: GPL-3.0-or-later
#include "conversation_turn.h"

#include <QClipboard>
#include <QGuiApplication>
#include <QHBoxLayout>
#include <QLabel>
#include <QLocale>
#include <QProgressBar>
#include <QPushButton>
#include <QStyle>
#include <QToolButton>
#include <QVBoxLayout>

#include "answer_view.h"
#include "column_layout.h"
#include "display_text.h"
#include "source_row.h"
#include "theme.h"

namespace lectern::ui {

namespace {

QLabel* makeLabel(const QString& name) {
  auto* label = new QLabel;
  label->setObjectName(name);
  label->setTextFormat(Qt::PlainText);
  label->setWordWrap(true);
  label->setTextInteractionFlags(Qt::TextSelectableByMouse);
  return label;
}

QString rateText(std::int64_t tokens, double seconds) {
  if (seconds <= 0 || tokens <= 0) return {};
  const double rate = static_cast<double>(tokens) / seconds;
  return QLocale().toString(rate, 'f', rate < 10 ? 1 : 0);
}

}  // namespace

ConversationTurn::ConversationTurn(const QString& question, QWidget* parent)
    : QWidget(parent),
      m_phase(makeLabel(QStringLiteral("muted"))),
      m_progress(new QProgressBar),
      m_progressRow(new QWidget),
      m_answer(new AnswerView),
      m_error(makeLabel(QStringLiteral("errorText"))),
      m_again(new QPushButton(tr("Ask again"))),
      m_sources(new QVBoxLayout),
      m_sourcesBox(new QWidget),
      m_figures(makeLabel(QStringLiteral("muted"))),
      m_copy(new QToolButton),
      m_footer(new QWidget) {
  auto* questionLabel = makeLabel(QStringLiteral("questionText"));
  questionLabel->setText(displayText(question));
  questionLabel->setAccessibleName(tr("Question: %1").arg(labelText(question)));

  m_progress->setTextVisible(false);
  m_progress->setAccessibleName(tr("Reading the passages"));
  auto* progressLayout = new QVBoxLayout(m_progressRow);
  progressLayout->setContentsMargins(0, 0, 0, 0);
  progressLayout->setSpacing(6);
  progressLayout->addWidget(m_phase);
  progressLayout->addWidget(m_progress);

  m_sources->setContentsMargins(0, 0, 0, 0);
  m_sources->setSpacing(6);
  m_sourcesBox->setLayout(m_sources);

  m_copy->setIcon(theme::icon(QStringLiteral("copy"), IconTint::kMuted));
  m_copy->setIconSize({16, 16});
  m_copy->setToolTip(tr("Copy the answer with its sources"));
  m_copy->setAccessibleName(tr("Copy the answer with its sources"));
  m_copy->setFocusPolicy(Qt::StrongFocus);
  m_again->setObjectName(QStringLiteral("askAgainButton"));
  m_again->setToolTip(tr("Ask the same question again"));
  auto* footerLayout = new QHBoxLayout(m_footer);
  footerLayout->setContentsMargins(0, 0, 0, 0);
  footerLayout->addWidget(m_figures, 1);
  footerLayout->addWidget(m_copy, 0, Qt::AlignTop);

  auto* layout = new ColumnLayout(this);
  layout->setContentsMargins(0, 0, 0, 0);
  layout->setSpacing(12);
  layout->addWidget(questionLabel);
  layout->addWidget(m_progressRow);
  layout->addWidget(m_answer);
  layout->addWidget(m_error);
  layout->addWidget(m_again, 0, Qt::AlignLeft);
  layout->addWidget(m_sourcesBox);
  layout->addWidget(m_footer);
  for (QWidget* later : {static_cast<QWidget*>(m_answer), static_cast<QWidget*>(m_error),
                         static_cast<QWidget*>(m_again), m_sourcesBox, m_footer}) {
    later->hide();
  }
  showPhase(tr("Searching…"));

  connect(m_again, &QPushButton::clicked, this, &ConversationTurn::askAgainRequested);
  connect(m_copy, &QToolButton::clicked, this, &ConversationTurn::copyAnswer);
  connect(m_answer, &AnswerView::citationActivated, this, &ConversationTurn::activateCitation);
  connect(m_answer, &AnswerView::rendered, this, &ConversationTurn::grown);
}

void ConversationTurn::showPhase(const QString& text) {
  m_phase->setText(text);
  m_progress->setRange(0, 0);
}

void ConversationTurn::showContext(const retrieval::ContextReport& context) {
  m_context = context;
  const QString passages = tr("%n passage(s)", nullptr, static_cast<int>(context.passages.size()));
  showPhase(tr("Reading %1, %2 tokens…").arg(passages, QLocale().toString(context.prompt_tokens)));
}

void ConversationTurn::showPrefill(const PrefillProgress& progress) {
  constexpr int kSteps = 1000;
  const QLocale locale;
  m_progress->setRange(0, kSteps);
  const double part =
      progress.total > 0 ? static_cast<double>(progress.done) / static_cast<double>(progress.total) : 0.0;
  m_progress->setValue(static_cast<int>(part * kSteps));
  QString text = tr("Reading: %1 of %2 tokens").arg(locale.toString(progress.done), locale.toString(progress.total));
  if (progress.rate() > 0) text += tr(" · %1 tokens/s").arg(rateText(progress.done - progress.known, progress.seconds));
  if (progress.secondsLeft() > 0) text += tr(" · %1 left").arg(durationText(progress.secondsLeft()));
  m_phase->setText(text);
}

void ConversationTurn::appendText(const QString& piece) {
  if (!m_answer->isVisible()) {
    m_progressRow->hide();
    m_answer->show();
  }
  m_answer->append(piece);
}

void ConversationTurn::endProgress() { m_progressRow->hide(); }

// Being stopped is not an error.
void ConversationTurn::muteNotice() {
  m_error->setObjectName(QStringLiteral("muted"));
  m_error->style()->unpolish(m_error);
  m_error->style()->polish(m_error);
}

void ConversationTurn::finish(const retrieval::Answer& answer) {
  endProgress();
  m_context = answer.context;
  m_citations = answer.citations;
  const QString text = QString::fromStdString(answer.text);
  if (m_answer->markdown() != text) {
    m_answer->clearText();
    m_answer->append(text);
  }
  m_answer->setVisible(!text.trimmed().isEmpty());
  m_answer->finish();
  m_answer->setCitationStates([citations = m_citations](const CitationLink& link) {
    const retrieval::Citation* citation = citationOf(citations, link);
    if (citation == nullptr) return CitationState::kUnknown;
    return citation->verified ? CitationState::kVerified : CitationState::kUnverified;
  });
  if (answer.finish == retrieval::GenerateFinish::kCancelled) {
    muteNotice();
    m_error->setText(text.trimmed().isEmpty() ? tr("Stopped.") : tr("Stopped; the answer is incomplete."));
    m_error->show();
  } else if (answer.refused) {
    muteNotice();
    m_error->setText(tr("Ask in other words, or search the library for what you expect to find."));
    m_error->show();
  } else if (answer.finish == retrieval::GenerateFinish::kLength) {
    m_error->setText(tr("The answer reached its length limit and is incomplete."));
    m_error->show();
  }
  showSources();
  showFigures(answer);
  emit grown();
}

void ConversationTurn::interrupt(const retrieval::Answer& partial, const QString& message) {
  finish(partial);
  m_footer->show();
  showError(tr("The answer is incomplete. %1").arg(message));
  emit grown();
}

void ConversationTurn::showError(const QString& message) {
  m_error->setText(message);
  m_error->show();
  m_again->show();
}

void ConversationTurn::fail(const QString& message, bool cancelled) {
  endProgress();
  showError(message);
  if (cancelled) muteNotice();
  m_again->setVisible(!cancelled);
  m_answer->finish();
  emit grown();
}

void ConversationTurn::showSources() {
  for (const retrieval::Citation& citation : distinctSources(m_citations)) {
    auto* row = new SourceRow(citation);
    connect(row, &SourceRow::clicked, this, [this, row] { emit targetActivated(targetOf(row->citation())); });
    m_sources->addWidget(row);
  }
  m_sourcesBox->setVisible(m_sources->count() > 0);
}

void ConversationTurn::showFigures(const retrieval::Answer& answer) {
  const QLocale locale;
  const retrieval::GeneratedText& run = answer.generation;
  if (run.prompt_tokens == 0) return;  // stopped before the model was given anything
  QStringList parts;
  const std::int64_t read = run.prompt_tokens - run.reused_tokens;
  parts += tr("read %1 tokens in %2").arg(locale.toString(read), durationText(run.prefill_seconds));
  if (run.reused_tokens > 0) parts += tr("%1 known before").arg(locale.toString(run.reused_tokens));
  if (run.rope_factor > 1) parts += tr("context stretched with YaRN");
  const QString rate = rateText(run.generated_tokens, run.decode_seconds);
  if (!rate.isEmpty()) {
    parts += tr("wrote %1 in %2 (%3 tokens/s)")
                 .arg(locale.toString(run.generated_tokens), durationText(run.decode_seconds), rate);
  }
  parts += tr("%n passage(s) given", nullptr, static_cast<int>(answer.context.passages.size()));
  if (answer.context.passages_left_out > 0) {
    parts += tr("%n found but left out: no room", nullptr, static_cast<int>(answer.context.passages_left_out));
  }
  if (!answer.unknown_marks.empty()) {
    parts += tr("%n mark(s) name no passage", nullptr, static_cast<int>(answer.unknown_marks.size()));
  }
  m_figures->setFont(theme::scaledFont(*this, 0.92));
  m_figures->setText(parts.join(QStringLiteral(" · ")));
  m_footer->show();
}

void ConversationTurn::activateCitation(const CitationLink& link) {
  if (const retrieval::Citation* citation = citationOf(m_citations, link)) {
    emit targetActivated(targetOf(*citation));
    return;
  }
  // While the answer is being written its sentences are not yet checked; the passage itself can be read.
  const auto passage = static_cast<std::size_t>(link.mark) - 1;
  if (link.mark > 0 && passage < m_context.passages.size()) {
    emit targetActivated(targetOf(m_context.passages[passage]));
  }
}

void ConversationTurn::copyAnswer() {
  QString text = displayText(m_answer->markdown()).trimmed() + u'\n';
  for (const retrieval::Citation& citation : distinctSources(m_citations)) {
    const std::uint32_t page = citation.highlights.empty() ? 0 : citation.highlights.front().page;
    QString place = pathText(citation.path, 2000);
    if (page > 0) place += tr(", page %1").arg(page);
    if (citation.first_line > 0) place += QStringLiteral(":%1").arg(citation.first_line);
    if (citation.last_line > citation.first_line) place += QStringLiteral("-%1").arg(citation.last_line);
    text += QStringLiteral("\n[%1] %2 (%3)").arg(citation.mark).arg(labelText(citation.title), place);
    if (!citation.verified) text += tr(" – not found word for word");
  }
  QGuiApplication::clipboard()->setText(text);
}

}  // namespace lectern::ui
