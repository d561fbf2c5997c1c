// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QObject>
#include <QString>
#include <QTimer>
#include <memory>
#include <vector>

#include "job_thread.h"
#include "services.h"

namespace lectern::ui {

// Searches while the user types: waits for a pause, and only the newest query is answered.
class SearchController : public QObject {
  Q_OBJECT

 public:
  explicit SearchController(const Services& services, QObject* parent = nullptr);

  // An empty query abandons the search and answers nothing.
  void setQuery(const QString& query);
  void searchNow();

 signals:
  void found(const QString& query, const std::vector<lectern::retrieval::SearchHit>& hits);
  void failed(const QString& message);

 private:
  std::shared_ptr<retrieval::Library> m_library;
  std::shared_ptr<retrieval::Embedder> m_embedder;
  QString m_query;
  QTimer m_pause;
  JobThread m_thread;
  Job m_search;
};

}  // namespace lectern::ui
