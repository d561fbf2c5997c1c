// SPDX-License-Identifier: GPL-3.0-or-later
#include "reader_view.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QSpinBox>
#include <QStackedWidget>
#include <QToolButton>
#include <QVBoxLayout>
#include <algorithm>

#include "display_text.h"
#include "elided_label.h"
#include "notice_bar.h"
#include "page_view.h"
#include "text_view.h"
#include "theme.h"
#include "tool_button.h"

namespace lectern::ui {

namespace {

constexpr double kZoomStep = 1.2;

}  // namespace

ReaderView::ReaderView(std::shared_ptr<retrieval::Library> library, QWidget* parent)
    : QWidget(parent),
      m_loader(new DocumentLoader(std::move(library), this)),
      m_title(new ElidedLabel(Qt::ElideMiddle)),
      m_notice(new NoticeBar),
      m_stack(new QStackedWidget),
      m_empty(new QLabel(tr("Click a citation, a passage or a document to read it here."))),
      m_pages(new PageView),
      m_text(new TextView) {
  setObjectName(QStringLiteral("readerPane"));
  setAttribute(Qt::WA_StyledBackground);
  setAccessibleName(tr("Reader"));
  setFocusPolicy(Qt::TabFocus);
  m_empty->setAlignment(Qt::AlignCenter);
  m_empty->setWordWrap(true);
  m_empty->setMargin(32);
  m_empty->setProperty("muted", true);
  m_stack->addWidget(m_empty);
  m_stack->addWidget(m_pages);
  m_stack->addWidget(m_text);
  auto* noticeHolder = new QVBoxLayout;
  noticeHolder->setContentsMargins(10, 0, 10, 0);
  noticeHolder->addWidget(m_notice);
  auto* layout = new QVBoxLayout(this);
  layout->setContentsMargins(0, 0, 0, 0);
  layout->setSpacing(0);
  layout->addWidget(buildHeader());
  layout->addLayout(noticeHolder);
  layout->addWidget(m_stack, 1);

  connect(m_loader, &DocumentLoader::opened, this, &ReaderView::show);
  connect(m_loader, &DocumentLoader::failed, this, [this](const QString& message) { m_notice->tell(message); });
  connectPages();
  updateControls();
}

QWidget* ReaderView::buildHeader() {
  m_header = new QWidget(this);
  QWidget* header = m_header;
  header->setObjectName(QStringLiteral("readerHeader"));
  header->setAttribute(Qt::WA_StyledBackground);
  m_title->setObjectName(QStringLiteral("paneTitle"));
  m_title->setFont(theme::scaledFont(*this, 1.0, true));
  m_previous = makeToolButton(QStringLiteral("previous"), tr("Previous page"), this);
  m_next = makeToolButton(QStringLiteral("next"), tr("Next page"), this);
  m_zoomOut = makeToolButton(QStringLiteral("zoom_out"), tr("Smaller"), this);
  m_zoomIn = makeToolButton(QStringLiteral("zoom_in"), tr("Larger"), this);
  m_fit = makeToolButton(QStringLiteral("fit_width"), tr("Fit the width"), this);
  m_fit->setCheckable(true);
  m_pageNumber = new QSpinBox;
  m_pageNumber->setAccessibleName(tr("Page number"));
  m_pageNumber->setAlignment(Qt::AlignRight);
  m_pageNumber->setButtonSymbols(QAbstractSpinBox::NoButtons);
  m_pageNumber->setKeyboardTracking(false);
  m_pageCount = new QLabel;
  m_pageCount->setProperty("muted", true);
  m_zoomLabel = new QLabel;
  m_zoomLabel->setProperty("muted", true);
  m_zoomLabel->setAlignment(Qt::AlignCenter);
  m_zoomLabel->setMinimumWidth(fontMetrics().horizontalAdvance(QStringLiteral("1000 %")));

  m_pageControls = new QWidget(header);
  auto* controls = new QHBoxLayout(m_pageControls);
  controls->setContentsMargins(0, 0, 0, 0);
  controls->setSpacing(2);
  for (QWidget* widget : {static_cast<QWidget*>(m_previous), static_cast<QWidget*>(m_pageNumber),
                          static_cast<QWidget*>(m_pageCount), static_cast<QWidget*>(m_next)}) {
    controls->addWidget(widget);
  }
  controls->addSpacing(10);
  for (QWidget* widget : {static_cast<QWidget*>(m_zoomOut), static_cast<QWidget*>(m_zoomLabel),
                          static_cast<QWidget*>(m_zoomIn), static_cast<QWidget*>(m_fit)}) {
    controls->addWidget(widget);
  }
  auto* layout = new QHBoxLayout(header);
  layout->setContentsMargins(14, 6, 8, 6);
  header->setMinimumHeight(42);
  layout->addWidget(m_title, 1);
  layout->addWidget(m_pageControls);
  return header;
}

void ReaderView::connectPages() {
  connect(m_pages, &PageView::opened, this, &ReaderView::updateControls);
  connect(m_pages, &PageView::currentPageChanged, this, &ReaderView::updateControls);
  connect(m_pages, &PageView::zoomChanged, this, &ReaderView::updateControls);
  connect(m_pages, &PageView::failed, this, &ReaderView::showStoredText);
  connect(m_pages, &PageView::pageTextNeeded, this, [this](int page) { m_loader->readPage(m_document.info.id, page); });
  connect(m_loader, &DocumentLoader::pageRead, this,
          [this](retrieval::DocumentId document, int page, const retrieval::ExtractedPage& content) {
            if (document != m_document.info.id) return;
            if (m_storedText) {
              m_text->showText(displayText(content.text), true, 0, 0);
            } else {
              m_pages->setPageText(page, content);
            }
          });
  connect(m_previous, &QToolButton::clicked, this, &ReaderView::previousPage);
  connect(m_next, &QToolButton::clicked, this, &ReaderView::nextPage);
  connect(m_zoomOut, &QToolButton::clicked, this, &ReaderView::zoomOut);
  connect(m_zoomIn, &QToolButton::clicked, this, &ReaderView::zoomIn);
  connect(m_fit, &QToolButton::clicked, this, &ReaderView::fitWidth);
  connect(m_pageNumber, &QSpinBox::valueChanged, this, [this](int number) {
    if (m_pageNumber->hasFocus()) m_pages->goToPage(number - 1);
  });
}

void ReaderView::open(const ReaderTarget& target) { m_loader->open(target); }

void ReaderView::show(const ReaderDocument& document) {
  const bool samePdf = document.info.kind == retrieval::DocumentKind::kPdf && document.info.id == m_document.info.id &&
                       m_stack->currentWidget() == m_pages && m_pages->pageCount() > 0;
  m_document = document;
  m_storedText = false;
  m_notice->hide();
  m_title->setText(labelText(document.info.title));
  m_title->setToolTip(pathText(document.info.path));
  if (document.info.kind == retrieval::DocumentKind::kPdf) {
    if (!samePdf) m_pages->open(toQString(document.info.path));
    m_pages->showPlace(std::max(0, static_cast<int>(document.target.page) - 1), document.target.highlights);
    m_stack->setCurrentWidget(m_pages);
  } else {
    m_text->showText(document.text, document.info.kind != retrieval::DocumentKind::kCode,
                     static_cast<int>(document.target.firstLine), static_cast<int>(document.target.lastLine));
    m_stack->setCurrentWidget(m_text);
  }
  if (document.fileChanged) {
    m_notice->tell(tr("This file has changed since it was read; the marked place may be off. Add it again to update."));
  }
  updateControls();
}

// A moved or damaged file costs the picture of the page, not its words.
void ReaderView::showStoredText(const QString& reason) {
  m_storedText = true;
  m_stack->setCurrentWidget(m_text);
  m_notice->tell(tr("%1 This is the text that was read from it.").arg(reason));
  m_loader->readPage(m_document.info.id, std::max(0, static_cast<int>(m_document.target.page) - 1));
  updateControls();
}

void ReaderView::showPlainText(const QString& title, const QString& text) {
  m_document = {};
  m_notice->hide();
  m_title->setText(title);
  m_title->setToolTip({});
  m_text->showText(text, true, 0, 0);
  m_stack->setCurrentWidget(m_text);
  updateControls();
}

void ReaderView::closeIfShown(const std::vector<retrieval::DocumentInfo>& documents) {
  const retrieval::DocumentId shown = m_document.info.id;
  if (shown == 0 || std::any_of(documents.begin(), documents.end(), [&](const auto& d) { return d.id == shown; })) {
    return;
  }
  m_document = {};
  m_pages->clear();
  m_title->setText({});
  m_notice->hide();
  m_stack->setCurrentWidget(m_empty);
  updateControls();
}

void ReaderView::updateControls() {
  const bool pages = m_stack->currentWidget() == m_pages && m_pages->pageCount() > 0;
  m_header->setVisible(m_stack->currentWidget() != m_empty);
  m_pageControls->setVisible(pages);
  if (!pages) return;
  const int current = m_pages->currentPage() + 1;
  const QSignalBlocker quiet(m_pageNumber);
  m_pageNumber->setRange(1, m_pages->pageCount());
  if (!m_pageNumber->hasFocus()) m_pageNumber->setValue(current);
  m_pageNumber->setFixedWidth(fontMetrics().horizontalAdvance(QString::number(m_pages->pageCount() * 10)) + 24);
  m_pageCount->setText(tr("of %1").arg(m_pages->pageCount()));
  m_zoomLabel->setText(tr("%1 %").arg(qRound(m_pages->zoom() * 100)));
  m_previous->setEnabled(current > 1);
  m_next->setEnabled(current < m_pages->pageCount());
  m_fit->setChecked(m_pages->fitsWidth());
}

void ReaderView::zoomIn() { setZoom(m_pages->zoom() * kZoomStep); }
void ReaderView::zoomOut() { setZoom(m_pages->zoom() / kZoomStep); }
void ReaderView::fitWidth() { setZoom(0); }
void ReaderView::setZoom(double zoom) { m_pages->setZoom(zoom); }
double ReaderView::zoomSetting() const { return m_pages->fitsWidth() ? 0.0 : m_pages->zoom(); }
void ReaderView::previousPage() { m_pages->goToPage(m_pages->currentPage() - 1); }
void ReaderView::nextPage() { m_pages->goToPage(m_pages->currentPage() + 1); }
QString ReaderView::title() const { return m_title->text(); }

void ReaderView::focusContent() {
  QWidget* content = m_stack->currentWidget();
  (content == m_empty ? static_cast<QWidget*>(this) : content)->setFocus(Qt::ShortcutFocusReason);
}

void ReaderView::focusPageNumber() {
  if (!m_pageControls->isVisible()) return;
  m_pageNumber->setFocus(Qt::ShortcutFocusReason);
  m_pageNumber->selectAll();
}

}  // namespace lectern::ui
