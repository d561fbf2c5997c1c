// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QAbstractScrollArea>
#include <QHash>
#include <QImage>
#include <optional>
#include <vector>

#include "page_renderer.h"
#include "retrieval/types.h"

namespace lectern::ui {

// The pages of a PDF one below the other, with cited places highlighted and words that can be selected.
class PageView : public QAbstractScrollArea {
  Q_OBJECT

 public:
  explicit PageView(QWidget* parent = nullptr);

  void open(const QString& file);
  void clear();
  // Scrolls to the first rectangle, or to the top of `page` (from 0) when there is none.
  void showPlace(int page, const std::vector<retrieval::PageHighlight>& highlights);
  void goToPage(int page);
  void setZoom(double zoom);  // 1: as large as on paper; 0: fit the width
  double zoom() const;
  bool fitsWidth() const { return m_zoom <= 0; }
  int pageCount() const { return static_cast<int>(m_sizes.size()); }
  int currentPage() const;
  bool hasImage(int page) const { return m_images.contains(page); }
  void setPageText(int page, const retrieval::ExtractedPage& content);
  void copySelection() const;
  QString selectedText() const;

  // In viewport coordinates, as they are drawn.
  QRectF drawnAt(int page, const retrieval::Rect& rect) const;
  std::vector<QRectF> highlightRects(int page) const;

 signals:
  void opened();
  void failed(const QString& message);
  void currentPageChanged(int page);
  void zoomChanged();
  void pageTextNeeded(int page);
  void painted();

 protected:
  void paintEvent(QPaintEvent* event) override;
  void resizeEvent(QResizeEvent* event) override;
  void scrollContentsBy(int dx, int dy) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseReleaseEvent(QMouseEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;

 private:
  struct PageImage {
    QImage image;
    double pixelsPerPoint = 0;
  };

  void layOutPages();
  void requestImages();
  void keepPlace(const std::function<void()>& change);
  void scrollToPlace();
  QRectF pageRect(int page) const;  // in viewport coordinates
  std::pair<int, int> visiblePages() const;
  int pageAt(double y) const;  // y from the top of all pages
  void paintPage(QPainter& painter, int page);
  int wordAt(QPointF position) const;

  PageRenderer m_renderer;
  std::vector<QSizeF> m_sizes;  // in points
  std::vector<double> m_tops;   // of every page and of the end, in pixels
  double m_zoom = 0;
  double m_scale = 1;  // pixels per point
  double m_width = 0;  // of the widest page, in pixels
  QHash<int, PageImage> m_images;
  QHash<int, retrieval::PageHighlight> m_highlights;
  QHash<int, retrieval::ExtractedPage> m_texts;
  std::optional<int> m_wantedPage;  // shown as soon as the pages are known
  int m_announcedPage = -1;
  int m_selectionPage = -1;
  int m_selectionAnchor = -1;  // words
  int m_selectionEnd = -1;
};

}  // namespace lectern::ui
