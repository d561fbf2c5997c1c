// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QImage>
#include <QObject>
#include <QSizeF>
#include <QString>
#include <map>
#include <memory>
#include <vector>

#include "job_thread.h"

namespace lectern::ui {

// Images of a PDF's pages, made on a job thread. A page asked for again at the same size is not made twice; one that
// is no longer wanted is abandoned, even while it is being drawn.
class PageRenderer : public QObject {
  Q_OBJECT

 public:
  enum Priority { kNeighbour = 0, kVisible = 1, kOpen = 2 };

  explicit PageRenderer(QObject* parent = nullptr);
  ~PageRenderer() override;

  void open(const QString& file);
  void close();
  void request(int page, double pixelsPerPoint, Priority priority);
  void abandonOutside(int firstPage, int lastPage);

 signals:
  void opened(const std::vector<QSizeF>& pageSizes);  // in points
  void failed(const QString& message);
  void rendered(int page, double pixelsPerPoint, const QImage& image);

 private:
  struct Document;  // touched on the job thread alone
  struct Request {
    Job job;
    double pixelsPerPoint = 0;
    Priority priority = kNeighbour;
  };

  std::shared_ptr<Document> m_document;
  JobThread m_thread;
  Job m_open;
  std::map<int, Request> m_requests;
};

}  // namespace lectern::ui
