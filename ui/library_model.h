// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QAbstractListModel>
#include <optional>
#include <vector>

#include "retrieval/library.h"
#include "retrieval/types.h"

namespace lectern::ui {

// The file being read, then what could not even be reached, then the documents.
class LibraryModel : public QAbstractListModel {
  Q_OBJECT

 public:
  using QAbstractListModel::QAbstractListModel;

  void setDocuments(std::vector<retrieval::DocumentInfo> documents);
  void setReading(const retrieval::IngestProgress& progress);
  void clearReading();
  void addItem(const retrieval::IngestItem& item);
  void clearProblems();

  bool hasDocuments() const { return !m_documents.empty(); }
  const retrieval::DocumentInfo* document(const QModelIndex& index) const;
  QModelIndex indexOf(retrieval::DocumentId document) const;

  int rowCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;

 private:
  int readingRows() const { return m_reading ? 1 : 0; }
  int firstDocumentRow() const { return readingRows() + static_cast<int>(m_problems.size()); }
  QVariant readingData(int role) const;
  QVariant problemData(const retrieval::IngestItem& item, int role) const;
  QVariant documentData(const retrieval::DocumentInfo& document, int role) const;

  std::optional<retrieval::IngestProgress> m_reading;
  std::vector<retrieval::IngestItem> m_problems;
  std::vector<retrieval::DocumentInfo> m_documents;
};

QString iconOf(retrieval::DocumentKind kind);

// What needs attention first, then as people sort: "report 9" before "Report 10". Slow for large libraries, so it
// belongs on a job thread.
std::vector<retrieval::DocumentInfo> sortedByTitle(std::vector<retrieval::DocumentInfo> documents);

}  // namespace lectern::ui
