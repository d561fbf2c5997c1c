// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QObject>
#include <QString>
#include <QStringList>
#include <memory>
#include <vector>

#include "job_thread.h"
#include "services.h"

namespace lectern::ui {

// What the reader is asked to show.
struct ReaderTarget {
  retrieval::DocumentId document = 0;
  std::uint32_t page = 0;  // from 1; 0: the beginning
  std::vector<retrieval::PageHighlight> highlights;
  std::uint32_t firstLine = 0;  // from 1; 0: no lines marked
  std::uint32_t lastLine = 0;
  retrieval::ChunkId chunk = 0;  // not 0 and no highlights: the passage itself is marked
};

// A document ready to be shown, without its pages' text.
struct ReaderDocument {
  retrieval::DocumentInfo info;
  QString text;  // of text and code, for display; empty for PDF
  bool fileMissing = false;
  bool fileChanged = false;  // since it was read into the library
  ReaderTarget target;
};

ReaderTarget targetOf(const retrieval::Citation& citation);
ReaderTarget targetOf(const retrieval::SearchHit& hit);

// Rectangles of the words that a chunk was made of, one per line of text.
std::vector<retrieval::PageHighlight> passageHighlights(const retrieval::Library& library,
                                                        const retrieval::Chunk& chunk, retrieval::DocumentId document);

// Fetches documents and page texts from the library for the reader; only the newest document is delivered.
class DocumentLoader : public QObject {
  Q_OBJECT

 public:
  explicit DocumentLoader(std::shared_ptr<retrieval::Library> library, QObject* parent = nullptr);

  void open(const ReaderTarget& target);
  void readPage(retrieval::DocumentId document, int page);  // from 0

 signals:
  void opened(const lectern::ui::ReaderDocument& document);
  void pageRead(lectern::retrieval::DocumentId document, int page, const lectern::retrieval::ExtractedPage& content);
  void failed(const QString& message);

 private:
  std::shared_ptr<retrieval::Library> m_library;
  JobThread m_thread;
  Job m_open;
  Job m_page;
};

}  // namespace lectern::ui
