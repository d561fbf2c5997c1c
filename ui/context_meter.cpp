// SPDX-License-Identifier: GPL-3.0-or-later
#include "context_meter.h"

#include <QLocale>
#include <QPainter>
#include <algorithm>

#include "theme.h"

namespace lectern::ui {

namespace {

constexpr int kBarWidth = 72;
constexpr int kBarHeight = 6;
constexpr double kNearlyFull = 0.8;

}  // namespace

ContextMeter::ContextMeter(QWidget* parent) : QWidget(parent) {
  setSizePolicy(QSizePolicy::Fixed, QSizePolicy::Preferred);
  setToolTip(tr("Tokens that the model was given for the last question, and the most it can be given"));
  setUse(0, 0);
}

void ContextMeter::setUse(qint64 used, qint64 limit) {
  m_used = used;
  m_limit = limit;
  setAccessibleName(tr("Context: %1").arg(text()));
  setVisible(limit > 0);
  updateGeometry();
  update();
}

QString ContextMeter::text() const {
  const QLocale locale;
  return tr("%1 of %2 tokens").arg(locale.toString(m_used), locale.toString(m_limit));
}

QSize ContextMeter::sizeHint() const {
  return {kBarWidth + 8 + fontMetrics().horizontalAdvance(text()) + 12, fontMetrics().height() + 8};
}

void ContextMeter::paintEvent(QPaintEvent* /*event*/) {
  const Colors& colors = theme::colors();
  QPainter painter(this);
  painter.setRenderHint(QPainter::Antialiasing);
  painter.setPen(Qt::NoPen);
  const QRectF bar(0, (height() - kBarHeight) / 2.0, kBarWidth, kBarHeight);
  painter.setBrush(colors.border);
  painter.drawRoundedRect(bar, 3, 3);
  const double part =
      m_limit > 0 ? std::clamp(static_cast<double>(m_used) / static_cast<double>(m_limit), 0.0, 1.0) : 0;
  if (part > 0) {
    painter.setBrush(part > kNearlyFull ? colors.caution : colors.accentFill);
    painter.drawRoundedRect(QRectF(bar.left(), bar.top(), std::max(6.0, part * bar.width()), bar.height()), 3, 3);
  }
  painter.setPen(colors.muted);
  painter.drawText(rect().adjusted(kBarWidth + 8, 0, 0, 0), Qt::AlignLeft | Qt::AlignVCenter, text());
}

}  // namespace lectern::ui
