// SPDX-License-Identifier: GPL-3.0-or-later
#include "page_view.h"

#include <QClipboard>
#include <QGuiApplication>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QScrollBar>
#include <algorithm>
#include <cmath>
#include <limits>

#include "display_text.h"
#include "theme.h"

namespace lectern::ui {

namespace {

constexpr double kGap = 14;                      // between pages and around them
constexpr double kPixelsPerPoint = 96.0 / 72.0;  // at zoom 1
constexpr double kSmallestZoom = 0.1;
constexpr double kLargestZoom = 8.0;
constexpr double kZoomStep = 1.2;
constexpr int kMostPageTexts = 16;

QRectF inPage(const retrieval::Rect& rect, const QRectF& page) {
  return {page.left() + rect.left * page.width(), page.top() + rect.top * page.height(),
          (rect.right - rect.left) * page.width(), (rect.bottom - rect.top) * page.height()};
}

double distance(const retrieval::Rect& rect, double x, double y) {
  const double dx = std::max({rect.left - x, 0.0, x - rect.right});
  const double dy = std::max({rect.top - y, 0.0, y - rect.bottom});
  return dx + 8 * dy;  // a word of the same line is nearer than one above or below
}

}  // namespace

PageView::PageView(QWidget* parent) : QAbstractScrollArea(parent) {
  setFrameShape(QFrame::NoFrame);
  setFocusPolicy(Qt::StrongFocus);
  setAccessibleName(tr("Page image"));
  viewport()->setCursor(Qt::IBeamCursor);
  viewport()->setAutoFillBackground(false);
  connect(&m_renderer, &PageRenderer::failed, this, &PageView::failed);
  connect(&m_renderer, &PageRenderer::opened, this, [this](const std::vector<QSizeF>& sizes) {
    m_sizes = sizes;
    layOutPages();
    scrollToPlace();
    emit opened();
  });
  connect(&m_renderer, &PageRenderer::rendered, this, [this](int page, double pixelsPerPoint, const QImage& image) {
    if (image.isNull()) return;
    m_images[page] = {image, pixelsPerPoint};
    viewport()->update();
  });
}

void PageView::open(const QString& file) {
  clear();
  m_renderer.open(file);
}

void PageView::clear() {
  m_renderer.close();
  m_sizes.clear();
  m_images.clear();
  m_texts.clear();
  m_highlights.clear();
  m_wantedPage.reset();
  m_announcedPage = m_selectionPage = -1;
  layOutPages();
}

void PageView::showPlace(int page, const std::vector<retrieval::PageHighlight>& highlights) {
  m_highlights.clear();
  for (const retrieval::PageHighlight& highlight : highlights) {
    m_highlights.insert(static_cast<int>(highlight.page) - 1, highlight);
  }
  m_wantedPage = page;
  if (!m_sizes.empty()) scrollToPlace();
  viewport()->update();
}

void PageView::scrollToPlace() {
  if (!m_wantedPage) return;
  const int page = std::clamp(*m_wantedPage, 0, pageCount() - 1);
  m_wantedPage.reset();
  goToPage(page);
  const auto highlight = m_highlights.constFind(page);
  if (highlight == m_highlights.constEnd() || highlight->rects.empty()) return;
  const QRectF place = inPage(highlight->rects.front(), pageRect(page));
  verticalScrollBar()->setValue(verticalScrollBar()->value() +
                                static_cast<int>(place.center().y() - viewport()->height() / 3.0));
  horizontalScrollBar()->setValue(horizontalScrollBar()->value() +
                                  static_cast<int>(place.center().x() - viewport()->width() / 2.0));
}

void PageView::goToPage(int page) {
  if (m_sizes.empty()) return;
  const auto index = static_cast<std::size_t>(std::clamp(page, 0, pageCount() - 1));
  verticalScrollBar()->setValue(static_cast<int>(m_tops[index] - kGap / 2));
}

double PageView::zoom() const { return m_scale / kPixelsPerPoint; }

void PageView::setZoom(double zoom) {
  keepPlace([&] { m_zoom = zoom <= 0 ? 0 : std::clamp(zoom, kSmallestZoom, kLargestZoom); });
}

// Changes the layout without losing what the reader was looking at.
void PageView::keepPlace(const std::function<void()>& change) {
  const int page = currentPage();
  const QRectF before = page >= 0 ? pageRect(page) : QRectF();
  const double part = before.height() > 0 ? -before.top() / before.height() : 0;
  change();
  layOutPages();
  if (page >= 0) {
    verticalScrollBar()->setValue(
        static_cast<int>(m_tops[static_cast<std::size_t>(page)] + part * pageRect(page).height()));
  }
  viewport()->update();
  emit zoomChanged();
}

void PageView::layOutPages() {
  double widest = 1;
  for (const QSizeF& size : m_sizes) widest = std::max(widest, size.width());
  const double fitting = (viewport()->width() - 2 * kGap) / widest;
  m_scale = m_zoom > 0 ? m_zoom * kPixelsPerPoint : std::clamp(fitting, 0.1, kLargestZoom * kPixelsPerPoint);
  m_width = widest * m_scale;
  m_tops.clear();
  double top = kGap;
  for (const QSizeF& size : m_sizes) {
    m_tops.push_back(top);
    top += size.height() * m_scale + kGap;
  }
  m_tops.push_back(top);
  verticalScrollBar()->setRange(0, std::max(0, static_cast<int>(std::ceil(top)) - viewport()->height()));
  verticalScrollBar()->setPageStep(viewport()->height());
  verticalScrollBar()->setSingleStep(40);
  horizontalScrollBar()->setRange(0, std::max(0, static_cast<int>(m_width + 2 * kGap) - viewport()->width()));
  horizontalScrollBar()->setPageStep(viewport()->width());
  requestImages();
}

QRectF PageView::pageRect(int page) const {
  const auto index = static_cast<std::size_t>(page);
  const QSizeF size = m_sizes[index] * m_scale;
  const double room = std::max(m_width + 2 * kGap, static_cast<double>(viewport()->width()));
  return {(room - size.width()) / 2 - horizontalScrollBar()->value(), m_tops[index] - verticalScrollBar()->value(),
          size.width(), size.height()};
}

int PageView::pageAt(double y) const {
  const auto after = std::upper_bound(m_tops.begin(), m_tops.end() - 1, y);
  return std::max(0, static_cast<int>(after - m_tops.begin()) - 1);
}

std::pair<int, int> PageView::visiblePages() const {
  const double top = verticalScrollBar()->value();
  return {pageAt(top), pageAt(top + viewport()->height())};
}

int PageView::currentPage() const {
  if (m_sizes.empty()) return -1;
  return pageAt(verticalScrollBar()->value() + viewport()->height() / 3.0);
}

void PageView::requestImages() {
  if (m_sizes.empty()) return;
  const auto [first, last] = visiblePages();
  const int from = std::max(0, first - 1);
  const int to = std::min(pageCount() - 1, last + 1);
  m_renderer.abandonOutside(from, to);
  m_images.removeIf([&](const auto& entry) { return entry.key() < from || entry.key() > to; });
  const double pixelsPerPoint = m_scale * devicePixelRatioF();
  for (int page = from; page <= to; ++page) {
    const auto image = m_images.constFind(page);
    if (image != m_images.constEnd() && std::abs(image->pixelsPerPoint - pixelsPerPoint) < 1e-6) continue;
    const bool visible = page >= first && page <= last;
    m_renderer.request(page, pixelsPerPoint, visible ? PageRenderer::kVisible : PageRenderer::kNeighbour);
  }
  const int current = currentPage();
  if (current == m_announcedPage) return;
  m_announcedPage = current;
  emit currentPageChanged(current);
  if (!m_texts.contains(current)) emit pageTextNeeded(current);
}

void PageView::setPageText(int page, const retrieval::ExtractedPage& content) {
  if (m_texts.size() >= kMostPageTexts) m_texts.removeIf([&](const auto& e) { return e.key() != m_selectionPage; });
  m_texts.insert(page, content);
  setAccessibleDescription(labelText(content.text, 4000));
}

QRectF PageView::drawnAt(int page, const retrieval::Rect& rect) const { return inPage(rect, pageRect(page)); }

std::vector<QRectF> PageView::highlightRects(int page) const {
  std::vector<QRectF> rects;
  const auto highlight = m_highlights.constFind(page);
  if (highlight == m_highlights.constEnd() || page >= pageCount()) return rects;
  for (const retrieval::Rect& rect : highlight->rects) rects.push_back(drawnAt(page, rect));
  return rects;
}

void PageView::paintEvent(QPaintEvent* /*event*/) {
  QPainter painter(viewport());
  painter.fillRect(viewport()->rect(), theme::colors().desk);
  if (m_sizes.empty()) return;
  const auto [first, last] = visiblePages();
  for (int page = first; page <= last; ++page) paintPage(painter, page);
  emit painted();
}

void PageView::paintPage(QPainter& painter, int page) {
  const QRectF rect = pageRect(page);
  painter.fillRect(rect, Qt::white);  // paper is white in the dark as well
  const auto image = m_images.constFind(page);
  if (image != m_images.constEnd()) {
    painter.setRenderHint(QPainter::SmoothPixmapTransform);
    painter.drawImage(rect, image->image);
  }
  painter.setCompositionMode(QPainter::CompositionMode_Multiply);
  for (const QRectF& place : highlightRects(page)) {
    painter.fillRect(place.adjusted(-1.5, -1, 1.5, 1), theme::colors().highlight);
  }
  if (page == m_selectionPage && m_selectionAnchor >= 0) {
    const auto& words = m_texts[page].words;
    const auto [begin, end] = std::minmax(m_selectionAnchor, m_selectionEnd);
    for (int i = begin; i <= end && i < static_cast<int>(words.size()); ++i) {
      painter.fillRect(inPage(words[static_cast<std::size_t>(i)].rect, rect), QColor(0xb4, 0xcd, 0xff));
    }
  }
  painter.setCompositionMode(QPainter::CompositionMode_SourceOver);
  painter.setPen(theme::colors().border);
  painter.drawRect(rect.adjusted(-0.5, -0.5, 0.5, 0.5));
}

void PageView::resizeEvent(QResizeEvent* event) {
  QAbstractScrollArea::resizeEvent(event);
  if (fitsWidth() && event->size().width() != event->oldSize().width()) {
    keepPlace([] {});
  } else {
    layOutPages();
  }
}

void PageView::scrollContentsBy(int /*dx*/, int /*dy*/) {
  requestImages();
  viewport()->update();
}

int PageView::wordAt(QPointF position) const {
  const auto text = m_texts.constFind(m_selectionPage);
  if (text == m_texts.constEnd()) return -1;
  const QRectF page = pageRect(m_selectionPage);
  const double x = (position.x() - page.left()) / page.width();
  const double y = (position.y() - page.top()) / page.height();
  int nearest = -1;
  double least = std::numeric_limits<double>::max();
  for (std::size_t i = 0; i < text->words.size(); ++i) {
    const double away = distance(text->words[i].rect, x, y);
    if (away >= least) continue;
    least = away;
    nearest = static_cast<int>(i);
  }
  return nearest;
}

void PageView::mousePressEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton || m_sizes.empty()) return;
  m_selectionPage = pageAt(verticalScrollBar()->value() + event->position().y());
  m_selectionAnchor = m_selectionEnd = -1;
  if (!m_texts.contains(m_selectionPage)) emit pageTextNeeded(m_selectionPage);
  viewport()->update();
}

void PageView::mouseMoveEvent(QMouseEvent* event) {
  if (!event->buttons().testFlag(Qt::LeftButton) || m_selectionPage < 0) return;
  m_selectionEnd = wordAt(event->position());
  if (m_selectionAnchor < 0) m_selectionAnchor = m_selectionEnd;
  viewport()->update();
}

void PageView::mouseReleaseEvent(QMouseEvent* /*event*/) {
  if (m_selectionAnchor < 0) return;
  QClipboard* clipboard = QGuiApplication::clipboard();
  if (clipboard->supportsSelection()) clipboard->setText(selectedText(), QClipboard::Selection);
}

void PageView::wheelEvent(QWheelEvent* event) {
  if (!event->modifiers().testFlag(Qt::ControlModifier)) {
    QAbstractScrollArea::wheelEvent(event);
    return;
  }
  if (event->angleDelta().y() != 0) setZoom(event->angleDelta().y() > 0 ? zoom() * kZoomStep : zoom() / kZoomStep);
}

void PageView::keyPressEvent(QKeyEvent* event) {
  if (event->matches(QKeySequence::Copy)) {
    copySelection();
  } else if (event->key() == Qt::Key_Home) {
    verticalScrollBar()->setValue(0);
  } else if (event->key() == Qt::Key_End) {
    verticalScrollBar()->setValue(verticalScrollBar()->maximum());
  } else {
    QAbstractScrollArea::keyPressEvent(event);
  }
}

QString PageView::selectedText() const {
  const auto text = m_texts.constFind(m_selectionPage);
  if (m_selectionAnchor < 0 || text == m_texts.constEnd()) return {};
  const auto [begin, end] = std::minmax(m_selectionAnchor, m_selectionEnd);
  const std::uint32_t from = text->words.at(static_cast<std::size_t>(begin)).begin;
  const std::uint32_t to = text->words.at(static_cast<std::size_t>(end)).end;
  if (from >= to || to > text->text.size()) return {};
  return displayText(std::string_view(text->text).substr(from, to - from));
}

void PageView::copySelection() const {
  const QString text = selectedText();
  if (!text.isEmpty()) QGuiApplication::clipboard()->setText(text);
}

}  // namespace lectern::ui
