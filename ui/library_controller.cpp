// SPDX-License-Identifier: GPL-3.0-or-later
#include "library_controller.h"

#include <chrono>
#include <optional>

#include "display_text.h"
#include "library_model.h"

namespace lectern::ui {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kReportInterval = std::chrono::milliseconds(50);
constexpr int kRefreshIntervalMs = 500;  // the list is read whole; not for every file of a large folder

// Passes progress on as values, at most twenty times a second.
class PostingSink : public retrieval::IngestSink {
 public:
  PostingSink(const JobContext& job, LibraryController* receiver) : m_job(job), m_receiver(receiver) {}

  void on_progress(const retrieval::IngestProgress& progress) override {
    const Clock::time_point now = Clock::now();
    if (now - m_last < kReportInterval) return;
    m_last = now;
    m_job.post([receiver = m_receiver, progress] { emit receiver->progressed(progress); });
  }

  void on_item(const retrieval::IngestItem& item) override {
    m_job.post([receiver = m_receiver, item] { emit receiver->itemFinished(item); });
  }

 private:
  const JobContext& m_job;
  LibraryController* m_receiver;
  Clock::time_point m_last;
};

struct Listing {
  std::vector<retrieval::DocumentInfo> documents;
  retrieval::LibraryStatus status;
};

retrieval::Result<Listing> readListing(const retrieval::Library& library) {
  RETRIEVAL_TRY(auto documents, library.documents());
  RETRIEVAL_TRY(auto status, library.status());
  return Listing{sortedByTitle(std::move(documents)), std::move(status)};
}

}  // namespace

LibraryController::LibraryController(const Services& services, QObject* parent)
    : QObject(parent),
      m_library(services.library),
      m_extractor(services.extractor),
      m_embedder(services.embedder),
      m_writing(QStringLiteral("ingest")),
      m_listing(QStringLiteral("library")) {
  m_refreshTimer.setSingleShot(true);
  m_refreshTimer.setInterval(kRefreshIntervalMs);
  connect(&m_refreshTimer, &QTimer::timeout, this, &LibraryController::refresh);
  connect(this, &LibraryController::itemFinished, this, [this](const retrieval::IngestItem& item) {
    if (item.document != 0 && item.outcome != retrieval::IngestOutcome::kUnchanged) refreshSoon();
  });
}

void LibraryController::refresh() {
  m_refreshTimer.stop();
  m_list = m_listing.submit([library = m_library](const JobContext&) { return readListing(*library); },
                            [this](const retrieval::Result<Listing>& listing) {
                              if (!listing.ok()) {
                                emit failed(displayText(listing.error().message));
                                return;
                              }
                              emit documentsChanged(listing->documents, listing->status);
                            });
}

void LibraryController::refreshSoon() {
  if (!m_refreshTimer.isActive()) m_refreshTimer.start();
}

void LibraryController::ingest(const std::vector<std::filesystem::path>& paths) {
  m_waiting.insert(m_waiting.end(), paths.begin(), paths.end());
  if (!ingesting()) startIngest();
}

void LibraryController::startIngest() {
  if (m_waiting.empty()) return;
  auto work = [this, library = m_library, extractor = m_extractor, embedder = m_embedder,
               paths = std::exchange(m_waiting, {})](const JobContext& job) {
    PostingSink sink(job, this);
    return library->ingest(paths, *extractor, embedder.get(), sink, job.stop());
  };
  m_ingest = m_writing.submit(std::move(work), [this](const retrieval::Result<retrieval::IngestReport>& report) {
    if (report.ok()) {
      if (report->cancelled) m_waiting.clear();
      emit ingestFinished(*report);
    } else {
      m_waiting.clear();
      emit failed(displayText(report.error().message));
      emit ingestFinished({});
    }
    refresh();
    startIngest();
  });
  emit ingestStarted();
}

void LibraryController::stopIngest() {
  m_waiting.clear();
  m_ingest.requestStop();
}

void LibraryController::remove(const std::vector<retrieval::DocumentId>& documents) {
  auto work = [library = m_library, documents](const JobContext&) {
    for (const retrieval::DocumentId id : documents) {
      auto removed = library->remove(id);
      if (!removed.ok()) return removed;
    }
    return retrieval::Result<void>();
  };
  std::erase_if(m_removals, [](const Job& job) { return !job.pending(); });
  m_removals.push_back(m_writing.submit(std::move(work), [this](const retrieval::Result<void>& removed) {
    if (!removed.ok()) emit failed(displayText(removed.error().message));
    refresh();
  }));
}

}  // namespace lectern::ui
