// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QObject>
#include <QString>
#include <QTimer>
#include <filesystem>
#include <vector>

#include "job_thread.h"
#include "services.h"

namespace lectern::ui {

// Reads files into the library, lists and removes documents; everything slow happens on its own threads.
class LibraryController : public QObject {
  Q_OBJECT

 public:
  explicit LibraryController(const Services& services, QObject* parent = nullptr);

  // Asks for the list of documents; documentsChanged follows.
  void refresh();
  // Files and folders; while others are being read these wait their turn.
  void ingest(const std::vector<std::filesystem::path>& paths);
  void stopIngest();
  void remove(const std::vector<retrieval::DocumentId>& documents);

  bool ingesting() const { return m_ingest.pending(); }

 signals:
  // Sorted for people.
  void documentsChanged(const std::vector<lectern::retrieval::DocumentInfo>& documents,
                        const lectern::retrieval::LibraryStatus& status);
  void ingestStarted();
  void progressed(const lectern::retrieval::IngestProgress& progress);
  void itemFinished(const lectern::retrieval::IngestItem& item);
  void ingestFinished(const lectern::retrieval::IngestReport& report);
  void failed(const QString& message);

 private:
  void startIngest();
  void refreshSoon();

  std::shared_ptr<retrieval::Library> m_library;
  std::shared_ptr<retrieval::Extractor> m_extractor;
  std::shared_ptr<retrieval::Embedder> m_embedder;
  std::vector<std::filesystem::path> m_waiting;
  QTimer m_refreshTimer;
  JobThread m_writing;
  JobThread m_listing;
  Job m_ingest;
  Job m_list;
  std::vector<Job> m_removals;
};

}  // namespace lectern::ui
