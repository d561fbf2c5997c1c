// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QWidget>
#include <filesystem>
#include <vector>

#include "document_loader.h"
#include "retrieval/library.h"

class QLabel;
class QLineEdit;
class QListView;
class QProgressBar;
class QStackedWidget;
class QToolButton;
class QVBoxLayout;

namespace lectern::ui {

class HitModel;
class LibraryController;
class LibraryModel;
class NoticeBar;
class SearchController;

// Left pane: documents with their state, search over them, progress of reading.
class LibraryPanel : public QWidget {
  Q_OBJECT

 public:
  LibraryPanel(LibraryController* library, SearchController* search, QWidget* parent = nullptr);

  void focusSearch();
  std::vector<retrieval::DocumentId> selectedDocuments() const;
  void selectDocument(retrieval::DocumentId document);

 public slots:
  void chooseFiles();
  void chooseFolder();
  void removeSelected();

 signals:
  void targetActivated(const lectern::ui::ReaderTarget& target);
  void selectionChanged();
  // A list of files that were skipped or failed, with reasons, to be read at leisure.
  void reportRequested(const QString& title, const QString& text);

 private:
  void buildHeader(QVBoxLayout* layout);
  void buildLists();
  QWidget* buildProgress();
  void connectLibrary();
  void connectSearch();
  void setDocuments(const std::vector<retrieval::DocumentInfo>& documents, const retrieval::LibraryStatus& status);
  void showProgress(const retrieval::IngestProgress& progress);
  void noteItem(const retrieval::IngestItem& item);
  void showReport(const retrieval::IngestReport& report);
  void activateDocument(const QModelIndex& index);
  void activateHit(const QModelIndex& index);
  void updatePage();
  void openReport();
  QString reportText() const;

  LibraryController* m_library;
  SearchController* m_search;
  LibraryModel* m_documents;
  HitModel* m_hits;
  QLineEdit* m_query;
  QStackedWidget* m_pages;
  QListView* m_documentList;
  QListView* m_hitList;
  QLabel* m_empty;
  QLabel* m_count;
  QWidget* m_progress;
  QLabel* m_progressText;
  QProgressBar* m_progressBar;
  NoticeBar* m_notice;
  QToolButton* m_skipped;  // quiet: most skipped files are ones that somebody chose to ignore
  std::vector<retrieval::IngestItem> m_notAdded;
  bool m_listed = false;
  bool m_readOnlySaid = false;
};

}  // namespace lectern::ui
