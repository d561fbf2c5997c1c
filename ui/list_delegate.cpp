// SPDX-License-Identifier: GPL-3.0-or-later
#include "list_delegate.h"

#include <QListView>
#include <QPainter>
#include <QTextLayout>
#include <algorithm>

#include "list_roles.h"
#include "theme.h"

namespace lectern::ui {

namespace {

constexpr int kMargin = 4;   // between rows' backgrounds and the pane
constexpr int kPadding = 8;  // inside a row
constexpr int kIndent = theme::kIconSize + 10;

QFont detailFont(const QFont& font) {
  QFont small = font;
  small.setPointSizeF(font.pointSizeF() * 0.92);
  return small;
}

QList<QTextLayout::FormatRange> boldRanges(const QString& text, const QStringList& words) {
  QList<QTextLayout::FormatRange> ranges;
  QTextCharFormat bold;
  bold.setFontWeight(QFont::Bold);
  bold.setForeground(theme::colors().text);
  for (const QString& word : words) {
    if (word.size() < 3) continue;
    for (qsizetype at = 0; (at = text.indexOf(word, at, Qt::CaseInsensitive)) >= 0; at += word.size()) {
      ranges.push_back({static_cast<int>(at), static_cast<int>(word.size()), bold});
    }
  }
  return ranges;
}

// Breaks the detail into at most the lines that the row asks for; the last one is elided.
class DetailText {
 public:
  DetailText(const QModelIndex& index, const QFont& font, int width) {
    QString text = index.data(kDetailRole).toString();
    const int most = std::max(1, index.data(kDetailLinesRole).toInt());
    const QFontMetrics metrics(font);
    if (most == 1) text = metrics.elidedText(text, Qt::ElideRight, width);
    m_layout.setFont(font);
    const QStringList words = index.data(kWordsRole).toStringList();
    setText(text, words);
    const int shown = breakLines(width, most);
    if (shown >= text.size()) return;
    setText(text.left(std::max(0, shown - 2)).trimmed() + u'…', words);
    breakLines(width, most);
  }

  qreal height() const { return m_height; }
  void draw(QPainter* painter, QPointF at) const { m_layout.draw(painter, at); }

 private:
  void setText(const QString& text, const QStringList& words) {
    m_layout.setText(text);
    m_layout.setFormats(boldRanges(text, words));
  }

  // Returns how many characters found room.
  int breakLines(int width, int most) {
    int shown = 0;
    m_height = 0;
    m_layout.beginLayout();
    for (int i = 0; i < most; ++i) {
      QTextLine line = m_layout.createLine();
      if (!line.isValid()) break;
      line.setLineWidth(width);
      line.setPosition({0, m_height});
      m_height += line.height();
      shown = line.textStart() + line.textLength();
    }
    m_layout.endLayout();
    return shown;
  }

  QTextLayout m_layout;
  qreal m_height = 0;
};

QColor detailColor(const QModelIndex& index) {
  const Colors& colors = theme::colors();
  switch (static_cast<IconTint>(index.data(kTintRole).toInt())) {
    case IconTint::kBad:
      return colors.bad;
    case IconTint::kCaution:
      return colors.caution;
    case IconTint::kAccent:
      return colors.accent;
    default:
      return colors.muted;
  }
}

void paintBackground(QPainter* painter, const QStyleOptionViewItem& option, const QRect& row) {
  const Colors& colors = theme::colors();
  const bool selected = option.state.testFlag(QStyle::State_Selected);
  if (selected || option.state.testFlag(QStyle::State_MouseOver)) {
    painter->setPen(Qt::NoPen);
    painter->setBrush(selected ? colors.selected : colors.hover);
    painter->drawRoundedRect(row, 6, 6);
  }
  if (option.state.testFlag(QStyle::State_HasFocus)) {
    painter->setPen(QPen(colors.accent, 1));
    painter->setBrush(Qt::NoBrush);
    painter->drawRoundedRect(QRectF(row).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6);
  }
}

}  // namespace

void ListDelegate::paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const {
  const Colors& colors = theme::colors();
  painter->save();
  painter->setRenderHint(QPainter::Antialiasing);
  const QRect row = option.rect.adjusted(kMargin, 1, -kMargin, -1);
  paintBackground(painter, option, row);

  const QRect inner = row.adjusted(kPadding, kPadding - 1, -kPadding, -kPadding + 1);
  const QIcon icon =
      theme::icon(index.data(kIconRole).toString(), static_cast<IconTint>(index.data(kTintRole).toInt()));
  icon.paint(painter, QRect(inner.left(), inner.top(), theme::kIconSize, theme::kIconSize));

  const QFontMetrics metrics(option.font);
  QRect title = inner.adjusted(kIndent, 0, 0, 0);
  title.setHeight(metrics.height());
  const QString place = index.data(kPlaceRole).toString();
  if (!place.isEmpty()) {
    painter->setFont(detailFont(option.font));
    painter->setPen(colors.muted);
    painter->drawText(title, Qt::AlignRight | Qt::AlignVCenter, place);
    title.setRight(title.right() - QFontMetrics(painter->font()).horizontalAdvance(place) - kPadding);
  }
  painter->setFont(option.font);
  painter->setPen(colors.text);
  painter->drawText(title, Qt::AlignLeft | Qt::AlignVCenter,
                    metrics.elidedText(index.data(Qt::DisplayRole).toString(), Qt::ElideRight, title.width()));

  painter->setPen(detailColor(index));
  const DetailText detail(index, detailFont(option.font), inner.width() - kIndent);
  detail.draw(painter, QPointF(inner.left() + kIndent, title.bottom() + 3));
  painter->restore();
}

QSize ListDelegate::sizeHint(const QStyleOptionViewItem& option, const QModelIndex& index) const {
  const auto* view = qobject_cast<const QListView*>(option.widget);
  const int width = view != nullptr ? view->viewport()->width() : 240;
  const int text = width - 2 * (kMargin + kPadding) - kIndent;
  const int title = QFontMetrics(option.font).height();
  qreal detail = QFontMetrics(detailFont(option.font)).height();
  if (index.data(kDetailLinesRole).toInt() > 1) {
    detail = DetailText(index, detailFont(option.font), std::max(text, 40)).height();
  }
  return {width, title + static_cast<int>(detail) + 2 + 2 * kPadding};
}

}  // namespace lectern::ui
