// SPDX-License-Identifier: GPL-3.0-or-later
#include "search_controller.h"

#include "display_text.h"

namespace lectern::ui {

namespace {

constexpr int kPauseMs = 180;  // between key presses of ordinary typing and a pause that is felt
constexpr int kHitLimit = 50;

}  // namespace

SearchController::SearchController(const Services& services, QObject* parent)
    : QObject(parent), m_library(services.library), m_embedder(services.embedder), m_thread(QStringLiteral("search")) {
  m_pause.setSingleShot(true);
  m_pause.setInterval(kPauseMs);
  connect(&m_pause, &QTimer::timeout, this, &SearchController::searchNow);
}

void SearchController::setQuery(const QString& query) {
  m_query = query.trimmed();
  m_search.abandon();
  if (m_query.isEmpty()) {
    m_pause.stop();
  } else {
    m_pause.start();
  }
}

void SearchController::searchNow() {
  m_pause.stop();
  if (m_query.isEmpty()) return;
  auto work = [library = m_library, embedder = m_embedder, query = m_query.toStdString()](const JobContext& job) {
    return library->search(query, {.limit = kHitLimit, .documents = {}}, embedder.get(), job.stop());
  };
  using Hits = retrieval::Result<std::vector<retrieval::SearchHit>>;
  m_search = m_thread.submit(std::move(work), [this, query = m_query](Hits hits) {
    if (hits.ok()) {
      emit found(query, *hits);
    } else {
      emit failed(displayText(hits.error().message));
    }
  });
}

}  // namespace lectern::ui
