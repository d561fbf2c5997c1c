// SPDX-License-Identifier: GPL-3.0-or-later
#include "page_renderer.h"

#include <poppler-qt6.h>

#include <QFileInfo>
#include <algorithm>
#include <cmath>
#include <optional>

#include "display_text.h"

namespace lectern::ui {

namespace {

constexpr int kMostPages = 50'000;
constexpr double kMostPixels = 24e6;  // of one image: 96 MB; larger pages are drawn coarser
constexpr double kPointsPerInch = 72.0;

struct Opening {
  std::vector<QSizeF> sizes;
  QString error;
};

// A4 stands in for what a damaged page claims.
QSizeF saneSize(QSizeF size) {
  const bool sane = size.width() >= 1 && size.height() >= 1 && size.width() <= 20'000 && size.height() <= 20'000;
  return sane ? size : QSizeF(595, 842);
}

bool stopAsked(const QVariant& token) { return token.value<const std::stop_token*>()->stop_requested(); }

}  // namespace

struct PageRenderer::Document {
  std::unique_ptr<Poppler::Document> pdf;

  Opening open(const QString& file, std::stop_token stop) {
    const QString name = labelText(QFileInfo(file).fileName());
    pdf = Poppler::Document::load(file);
    if (!pdf) return {{}, tr("“%1” cannot be shown: the file is missing or damaged.").arg(name)};
    if (pdf->isLocked()) return {{}, tr("“%1” cannot be shown: it needs a password.").arg(name)};
    pdf->setRenderHint(Poppler::Document::Antialiasing);
    pdf->setRenderHint(Poppler::Document::TextAntialiasing);
    Opening opening;
    const int pages = std::clamp(pdf->numPages(), 0, kMostPages);
    for (int i = 0; i < pages && !stop.stop_requested(); ++i) {
      const std::unique_ptr<Poppler::Page> page(pdf->page(i));
      opening.sizes.push_back(saneSize(page ? page->pageSizeF() : QSizeF()));
    }
    if (opening.sizes.empty()) opening.error = tr("“%1” cannot be shown: it has no pages.").arg(name);
    return opening;
  }

  QImage render(int index, double pixelsPerPoint, std::stop_token stop) const {
    if (!pdf || stop.stop_requested()) return {};
    const std::unique_ptr<Poppler::Page> page(pdf->page(index));
    if (!page) return {};
    const QSizeF size = saneSize(page->pageSizeF());
    const double pixels = size.width() * size.height() * pixelsPerPoint * pixelsPerPoint;
    const double scale = pixels > kMostPixels ? pixelsPerPoint * std::sqrt(kMostPixels / pixels) : pixelsPerPoint;
    const double dpi = scale * kPointsPerInch;
    const std::stop_token* token = &stop;
    return page->renderToImage(dpi, dpi, -1, -1, -1, -1, Poppler::Page::Rotate0, nullptr, nullptr, stopAsked,
                               QVariant::fromValue(token));
  }
};

PageRenderer::PageRenderer(QObject* parent)
    : QObject(parent), m_document(std::make_shared<Document>()), m_thread(QStringLiteral("pages")) {
  // Poppler's complaints quote the document; logs hold no document text.
  Poppler::setDebugErrorFunction([](const QString&, const QVariant&) {}, {});
}

PageRenderer::~PageRenderer() = default;

void PageRenderer::open(const QString& file) {
  close();
  m_open =
      m_thread.submit([document = m_document, file](const JobContext& job) { return document->open(file, job.stop()); },
                      [this](const Opening& opening) {
                        if (opening.error.isEmpty()) {
                          emit opened(opening.sizes);
                        } else {
                          emit failed(opening.error);
                        }
                      },
                      kOpen);
}

void PageRenderer::close() {
  m_requests.clear();
  m_open.abandon();
}

void PageRenderer::request(int page, double pixelsPerPoint, Priority priority) {
  Request& request = m_requests[page];
  const bool sameSize = std::abs(request.pixelsPerPoint - pixelsPerPoint) < 1e-6;
  if (request.job.pending() && sameSize && request.priority >= priority) return;
  request.pixelsPerPoint = pixelsPerPoint;
  request.priority = priority;
  request.job = m_thread.submit(
      [document = m_document, page, pixelsPerPoint](const JobContext& job) {
        return document->render(page, pixelsPerPoint, job.stop());
      },
      [this, page, pixelsPerPoint](const QImage& image) { emit rendered(page, pixelsPerPoint, image); }, priority);
}

void PageRenderer::abandonOutside(int firstPage, int lastPage) {
  std::erase_if(m_requests, [&](const auto& entry) { return entry.first < firstPage || entry.first > lastPage; });
}

}  // namespace lectern::ui
