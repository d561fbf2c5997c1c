// SPDX-License-Identifier: GPL-3.0-or-later
#include "source_row.h"

#include <QKeyEvent>
#include <QPainter>
#include <algorithm>

#include "display_text.h"
#include "hit_model.h"
#include "theme.h"

namespace lectern::ui {

namespace {

constexpr int kPadding = 8;

QString placeOf(const retrieval::Citation& citation) {
  const std::uint32_t page = citation.highlights.empty() ? 0 : citation.highlights.front().page;
  return placeText(page, citation.first_line, citation.last_line);
}

QString verdictOf(const retrieval::Citation& citation) {
  return citation.verified ? SourceRow::tr("word for word") : SourceRow::tr("not found word for word");
}

bool samePlace(const retrieval::Citation& a, const retrieval::Citation& b) {
  return a.mark == b.mark && a.quote == b.quote && a.verified == b.verified && a.first_line == b.first_line &&
         placeOf(a) == placeOf(b);
}

}  // namespace

std::vector<retrieval::Citation> distinctSources(const std::vector<retrieval::Citation>& citations) {
  std::vector<retrieval::Citation> rows;
  for (const retrieval::Citation& citation : citations) {
    const bool known =
        std::any_of(rows.begin(), rows.end(), [&](const retrieval::Citation& row) { return samePlace(row, citation); });
    if (!known) rows.push_back(citation);
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.mark < b.mark; });
  return rows;
}

const retrieval::Citation* citationOf(const std::vector<retrieval::Citation>& citations, const CitationLink& link) {
  const retrieval::Citation* found = nullptr;
  int occurrence = 0;
  for (const retrieval::Citation& citation : citations) {
    if (citation.mark != link.mark) continue;
    if (found == nullptr) found = &citation;
    if (occurrence++ == link.occurrence) return &citation;
  }
  return found;
}

SourceRow::SourceRow(const retrieval::Citation& citation, QWidget* parent)
    : QAbstractButton(parent), m_citation(citation) {
  setFocusPolicy(Qt::StrongFocus);
  setCursor(Qt::PointingHandCursor);
  setAttribute(Qt::WA_Hover);
  setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
  setAccessibleName(tr("Source %1: %2, %3, %4")
                        .arg(citation.mark)
                        .arg(labelText(citation.title, 120), placeOf(citation), verdictOf(citation)));
  QString tip = pathText(citation.path);
  if (!citation.quote.empty()) tip += QStringLiteral("\n“%1”").arg(labelText(citation.quote, 400));
  setToolTip(tip);
}

QSize SourceRow::sizeHint() const {
  const int line = fontMetrics().height();
  const int lines = m_citation.quote.empty() ? 1 : 2;
  return {300, lines * line + 2 * kPadding + (lines - 1) * 2};
}

void SourceRow::keyPressEvent(QKeyEvent* event) {
  if (event->key() == Qt::Key_Return || event->key() == Qt::Key_Enter) {
    click();
    return;
  }
  QAbstractButton::keyPressEvent(event);
}

void SourceRow::paintEvent(QPaintEvent* /*event*/) {
  const Colors& colors = theme::colors();
  QPainter painter(this);
  painter.setRenderHint(QPainter::Antialiasing);
  painter.setPen(QPen(hasFocus() ? colors.accent : colors.border, 1));
  painter.setBrush(isDown() ? colors.selected : underMouse() ? colors.hover : colors.surface);
  painter.drawRoundedRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5), 7, 7);

  const QRect inner = rect().adjusted(kPadding + 2, kPadding, -kPadding - 2, -kPadding);
  const QFontMetrics metrics = fontMetrics();
  QRect line(inner.left(), inner.top(), inner.width(), metrics.height());

  const QString number = QStringLiteral("[%1]").arg(m_citation.mark);
  painter.setPen(colors.accent);
  painter.drawText(line, Qt::AlignLeft | Qt::AlignVCenter, number);
  line.setLeft(line.left() + metrics.horizontalAdvance(QStringLiteral("[00]")) + 4);

  const QString verdict = verdictOf(m_citation);
  painter.setPen(m_citation.verified ? colors.good : colors.caution);
  painter.drawText(line, Qt::AlignRight | Qt::AlignVCenter, verdict);
  const int verdictLeft = line.right() - metrics.horizontalAdvance(verdict) - metrics.height() - 4;
  theme::icon(m_citation.verified ? QStringLiteral("verified") : QStringLiteral("unverified"),
              m_citation.verified ? IconTint::kGood : IconTint::kCaution)
      .paint(&painter, QRect(verdictLeft, line.top(), metrics.height(), metrics.height()));

  const QString place = placeOf(m_citation);
  const int placeWidth = place.isEmpty() ? 0 : metrics.horizontalAdvance(place) + 10;
  const QRect title(line.left(), line.top(), std::max(0, verdictLeft - 10 - placeWidth - line.left()), line.height());
  const QString shown = metrics.elidedText(labelText(m_citation.title), Qt::ElideMiddle, title.width());
  painter.setPen(colors.text);
  painter.drawText(title, Qt::AlignLeft | Qt::AlignVCenter, shown);
  painter.setPen(colors.muted);
  painter.drawText(title.left() + metrics.horizontalAdvance(shown) + 10, title.top() + metrics.ascent(), place);

  if (m_citation.quote.empty()) return;
  const QRect quote(line.left(), line.bottom() + 3, inner.right() - line.left(), metrics.height());
  painter.drawText(
      quote, Qt::AlignLeft | Qt::AlignVCenter,
      metrics.elidedText(QStringLiteral("“%1”").arg(labelText(m_citation.quote)), Qt::ElideRight, quote.width()));
}

}  // namespace lectern::ui
