// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QAbstractListModel>
#include <QStringList>
#include <vector>

#include "retrieval/types.h"

namespace lectern::ui {

// The passages that a search found, best first.
class HitModel : public QAbstractListModel {
  Q_OBJECT

 public:
  using QAbstractListModel::QAbstractListModel;

  void setHits(const QString& query, std::vector<retrieval::SearchHit> hits);
  const retrieval::SearchHit* hit(const QModelIndex& index) const;

  int rowCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;

 private:
  QString snippet(const retrieval::SearchHit& hit) const;

  QStringList m_words;
  std::vector<retrieval::SearchHit> m_hits;
};

// "p. 3" or "lines 10–14".
QString placeText(std::uint32_t page, std::uint32_t firstLine, std::uint32_t lastLine);

}  // namespace lectern::ui
