// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QWidget>

#include "document_loader.h"
#include "services.h"

class QLabel;
class QSpinBox;
class QStackedWidget;
class QToolButton;

namespace lectern::ui {

class ElidedLabel;
class NoticeBar;
class PageView;
class TextView;

// Right pane: the document behind a citation or a hit, with the place highlighted.
class ReaderView : public QWidget {
  Q_OBJECT

 public:
  explicit ReaderView(std::shared_ptr<retrieval::Library> library, QWidget* parent = nullptr);

  void open(const ReaderTarget& target);
  void showPlainText(const QString& title, const QString& text);
  // The library no longer holds this document.
  void closeIfShown(const std::vector<retrieval::DocumentInfo>& documents);

  void zoomIn();
  void zoomOut();
  void fitWidth();
  void setZoom(double zoom);
  double zoomSetting() const;
  void previousPage();
  void nextPage();
  void focusPageNumber();
  void focusContent();

  PageView* pageView() const { return m_pages; }
  TextView* textView() const { return m_text; }
  QString title() const;

 private:
  QWidget* buildHeader();
  void connectPages();
  void show(const ReaderDocument& document);
  void showStoredText(const QString& reason);
  void updateControls();

  DocumentLoader* m_loader;
  QWidget* m_header;
  ElidedLabel* m_title;
  QLabel* m_pageCount;
  QLabel* m_zoomLabel;
  QSpinBox* m_pageNumber;
  QToolButton* m_previous;
  QToolButton* m_next;
  QToolButton* m_zoomOut;
  QToolButton* m_zoomIn;
  QToolButton* m_fit;
  QWidget* m_pageControls;
  NoticeBar* m_notice;
  QStackedWidget* m_stack;
  QLabel* m_empty;
  PageView* m_pages;
  TextView* m_text;
  ReaderDocument m_document;
  bool m_storedText = false;  // text of a PDF page in place of its image
};

}  // namespace lectern::ui
