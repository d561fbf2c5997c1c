// SPDX-License-Identifier: GPL-3.0-or-later
#include "notice_bar.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QVBoxLayout>
#include <utility>

#include "theme.h"

namespace lectern::ui {

NoticeBar::NoticeBar(QWidget* parent)
    : QFrame(parent), m_text(new QLabel), m_action(new QPushButton), m_close(new QPushButton) {
  setObjectName(QStringLiteral("notice"));
  m_text->setTextFormat(Qt::PlainText);
  m_text->setWordWrap(true);
  m_text->setTextInteractionFlags(Qt::TextSelectableByMouse);
  auto* buttons = new QHBoxLayout;
  buttons->setSpacing(theme::kSpace);
  buttons->addStretch();
  buttons->addWidget(m_close);
  buttons->addWidget(m_action);
  auto* layout = new QVBoxLayout(this);
  layout->setContentsMargins(10, 8, 10, 8);
  layout->setSpacing(6);
  layout->addWidget(m_text);
  layout->addLayout(buttons);
  connect(m_close, &QPushButton::clicked, this, &QWidget::hide);
  connect(m_action, &QPushButton::clicked, this, [this] {
    hide();
    if (m_run) std::exchange(m_run, nullptr)();
  });
  hide();
}

void NoticeBar::open(const QString& text, const QString& closeName) {
  m_text->setText(text);
  m_action->setVisible(static_cast<bool>(m_run));
  m_close->setText(closeName);
  setAccessibleName(text);
  show();
}

void NoticeBar::tell(const QString& text) {
  m_run = nullptr;
  open(text, tr("Close"));
}

void NoticeBar::offer(const QString& text, const QString& actionName, std::function<void()> action) {
  m_run = std::move(action);
  m_action->setText(actionName);
  open(text, tr("Close"));
}

void NoticeBar::ask(const QString& text, const QString& actionName, std::function<void()> action) {
  m_run = std::move(action);
  m_action->setText(actionName);
  open(text, tr("Cancel"));
}

QString NoticeBar::text() const { return m_text->text(); }

}  // namespace lectern::ui
