// SPDX-License-Identifier: GPL-3.0-or-later
#include "hit_model.h"

#include <QRegularExpression>
#include <algorithm>

#include "display_text.h"
#include "list_roles.h"
#include "theme.h"

namespace lectern::ui {

namespace {

constexpr int kSnippetLength = 220;
constexpr int kSnippetLines = 3;
constexpr qsizetype kLead = 40;  // characters shown before the first word found

}  // namespace

QString placeText(std::uint32_t page, std::uint32_t firstLine, std::uint32_t lastLine) {
  if (page > 0) return HitModel::tr("p. %1").arg(page);
  if (firstLine == 0) return {};
  if (lastLine <= firstLine) return HitModel::tr("line %1").arg(firstLine);
  return HitModel::tr("lines %1–%2").arg(firstLine).arg(lastLine);
}

void HitModel::setHits(const QString& query, std::vector<retrieval::SearchHit> hits) {
  static const QRegularExpression notWord(QStringLiteral("\\W+"), QRegularExpression::UseUnicodePropertiesOption);
  beginResetModel();
  m_words = query.left(500).split(notWord, Qt::SkipEmptyParts);
  m_hits = std::move(hits);
  endResetModel();
}

const retrieval::SearchHit* HitModel::hit(const QModelIndex& index) const {
  if (!index.isValid() || index.row() >= rowCount()) return nullptr;
  return &m_hits[static_cast<std::size_t>(index.row())];
}

int HitModel::rowCount(const QModelIndex& parent) const {
  return parent.isValid() ? 0 : static_cast<int>(m_hits.size());
}

QString HitModel::snippet(const retrieval::SearchHit& hit) const {
  const QString text = labelText(hit.text, 4000);
  qsizetype first = text.size();
  for (const QString& word : m_words) {
    const qsizetype at = word.size() < 3 ? -1 : text.indexOf(word, 0, Qt::CaseInsensitive);
    if (at >= 0) first = std::min(first, at);
  }
  if (first == text.size() || first <= kLead) return text.left(kSnippetLength);
  const qsizetype space = text.lastIndexOf(u' ', first - kLead);
  const qsizetype begin = std::max(space + 1, first - 2 * kLead);
  return QStringLiteral("… ") + text.mid(begin, kSnippetLength);
}

QVariant HitModel::data(const QModelIndex& index, int role) const {
  const retrieval::SearchHit* found = hit(index);
  if (found == nullptr) return {};
  const QString place = placeText(found->page, found->first_line, found->last_line);
  switch (role) {
    case Qt::DisplayRole:
      return labelText(found->title);
    case Qt::ToolTipRole: {
      const QString why = found->word_rank > 0 && found->vector_rank > 0 ? tr("found by words and by meaning")
                          : found->vector_rank > 0                       ? tr("found by meaning")
                                                                         : tr("found by words");
      return pathText(found->path) + u'\n' + why;
    }
    case Qt::AccessibleTextRole:
      return tr("%1, %2: %3").arg(labelText(found->title), place, snippet(*found));
    case kDocumentRole:
      return QVariant::fromValue<qint64>(found->document);
    case kDetailRole:
      return snippet(*found);
    case kDetailLinesRole:
      return kSnippetLines;
    case kPlaceRole:
      return place;
    case kIconRole:
      return found->page > 0 ? QStringLiteral("pdf") : QStringLiteral("text");
    case kTintRole:
      return static_cast<int>(IconTint::kMuted);
    case kWordsRole:
      return m_words;
    default:
      return {};
  }
}

}  // namespace lectern::ui
