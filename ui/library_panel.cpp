// SPDX-License-Identifier: GPL-3.0-or-later
#include "library_panel.h"

#include <QAction>
#include <QFileDialog>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QListView>
#include <QMenu>
#include <QProgressBar>
#include <QPushButton>
#include <QStackedWidget>
#include <QToolButton>
#include <QVBoxLayout>

#include "display_text.h"
#include "hit_model.h"
#include "library_controller.h"
#include "library_model.h"
#include "list_delegate.h"
#include "list_roles.h"
#include "notice_bar.h"
#include "search_controller.h"
#include "theme.h"
#include "tool_button.h"

namespace lectern::ui {

namespace {

constexpr std::size_t kMostReported = 20'000;
constexpr int kLongestReason = 600;

QListView* makeList(QAbstractItemModel* model, const QString& name, QWidget* parent) {
  auto* list = new QListView(parent);
  list->setModel(model);
  list->setItemDelegate(new ListDelegate(list));
  list->setAccessibleName(name);
  list->setResizeMode(QListView::Adjust);
  list->setLayoutMode(QListView::Batched);  // a library of ten thousand files is laid out between events
  list->setVerticalScrollMode(QAbstractItemView::ScrollPerPixel);
  list->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  list->setEditTriggers(QAbstractItemView::NoEditTriggers);
  list->setMouseTracking(true);
  return list;
}

}  // namespace

LibraryPanel::LibraryPanel(LibraryController* library, SearchController* search, QWidget* parent)
    : QWidget(parent),
      m_library(library),
      m_search(search),
      m_documents(new LibraryModel(this)),
      m_hits(new HitModel(this)),
      m_query(new QLineEdit),
      m_pages(new QStackedWidget),
      m_empty(new QLabel),
      m_count(new QLabel),
      m_notice(new NoticeBar),
      m_skipped(new QToolButton) {
  setObjectName(QStringLiteral("libraryPane"));
  setAttribute(Qt::WA_StyledBackground);
  auto* layout = new QVBoxLayout(this);
  layout->setContentsMargins(0, 0, 0, 0);
  layout->setSpacing(0);
  buildHeader(layout);
  buildLists();
  layout->addWidget(m_pages, 1);
  auto* footer = new QVBoxLayout;
  footer->setContentsMargins(10, 6, 10, 10);
  footer->setSpacing(theme::kSpace);
  m_progress = buildProgress();
  footer->addWidget(m_notice);
  footer->addWidget(m_progress);
  footer->addWidget(m_skipped, 0, Qt::AlignLeft);
  m_skipped->setProperty("quiet", true);
  m_skipped->setToolTip(tr("Show which files, and why"));
  m_skipped->setFocusPolicy(Qt::StrongFocus);
  m_skipped->hide();
  connect(m_skipped, &QToolButton::clicked, this, &LibraryPanel::openReport);
  layout->addLayout(footer);
  connectLibrary();
  connectSearch();
}

void LibraryPanel::buildHeader(QVBoxLayout* layout) {
  auto* title = new QLabel(tr("Library"));
  title->setObjectName(QStringLiteral("paneTitle"));
  m_count->setProperty("muted", true);
  auto* addFiles = makeToolButton(QStringLiteral("add"), tr("Add files"), this, tr("Add files (Ctrl+O)"));
  auto* addFolder = makeToolButton(QStringLiteral("folder"), tr("Add folder"), this,
                                   tr("Add a folder with everything in it (Ctrl+Shift+O)"));
  connect(addFiles, &QToolButton::clicked, this, &LibraryPanel::chooseFiles);
  connect(addFolder, &QToolButton::clicked, this, &LibraryPanel::chooseFolder);

  auto* row = new QHBoxLayout;
  row->setContentsMargins(14, 8, 8, 4);
  row->setSpacing(4);
  row->addWidget(title);
  row->addSpacing(4);
  row->addWidget(m_count);
  row->addStretch();
  row->addWidget(addFiles);
  row->addWidget(addFolder);
  layout->addLayout(row);

  m_query->setPlaceholderText(tr("Search in all documents"));
  m_query->setAccessibleName(tr("Search in all documents"));
  m_query->setClearButtonEnabled(true);
  m_query->addAction(theme::icon(QStringLiteral("search"), IconTint::kMuted), QLineEdit::LeadingPosition);
  auto* searchRow = new QHBoxLayout;
  searchRow->setContentsMargins(12, 2, 12, 8);
  searchRow->addWidget(m_query);
  layout->addLayout(searchRow);
}

void LibraryPanel::buildLists() {
  m_documentList = makeList(m_documents, tr("Documents"), this);
  m_documentList->setSelectionMode(QAbstractItemView::ExtendedSelection);
  m_hitList = makeList(m_hits, tr("Passages found"), this);
  m_empty->setProperty("muted", true);
  m_empty->setWordWrap(true);
  m_empty->setAlignment(Qt::AlignCenter);
  m_empty->setMargin(24);
  m_pages->addWidget(m_documentList);
  m_pages->addWidget(m_hitList);
  m_pages->addWidget(m_empty);
  m_pages->setCurrentWidget(m_empty);

  auto* removeAction = new QAction(theme::icon(QStringLiteral("remove")), tr("Remove from library…"), m_documentList);
  removeAction->setShortcut(QKeySequence::Delete);
  removeAction->setShortcutContext(Qt::WidgetShortcut);
  connect(removeAction, &QAction::triggered, this, &LibraryPanel::removeSelected);
  auto* openAction = new QAction(tr("Open in the reader"), m_documentList);
  connect(openAction, &QAction::triggered, this, [this] { activateDocument(m_documentList->currentIndex()); });
  m_documentList->addActions({openAction, removeAction});
  m_documentList->setContextMenuPolicy(Qt::ActionsContextMenu);

  connect(m_documentList, &QListView::clicked, this, &LibraryPanel::activateDocument);
  connect(m_documentList, &QListView::activated, this, &LibraryPanel::activateDocument);
  connect(m_documentList->selectionModel(), &QItemSelectionModel::selectionChanged, this,
          &LibraryPanel::selectionChanged);
  connect(m_hitList->selectionModel(), &QItemSelectionModel::currentChanged, this, &LibraryPanel::activateHit);
  connect(m_hitList, &QListView::activated, this, &LibraryPanel::activateHit);
  connect(m_hitList, &QListView::clicked, this, &LibraryPanel::activateHit);
}

QWidget* LibraryPanel::buildProgress() {
  auto* box = new QWidget(this);
  m_progressText = new QLabel;
  m_progressText->setTextFormat(Qt::PlainText);
  m_progressText->setProperty("muted", true);
  m_progressText->setWordWrap(true);
  m_progressBar = new QProgressBar;
  m_progressBar->setTextVisible(false);
  m_progressBar->setAccessibleName(tr("Reading files"));
  auto* stop =
      makeToolButton(QStringLiteral("stop"), tr("Stop reading files"), this, tr("Stop; what was read is kept"));
  connect(stop, &QToolButton::clicked, m_library, &LibraryController::stopIngest);
  auto* row = new QHBoxLayout;
  row->setSpacing(theme::kSpace);
  row->addWidget(m_progressBar, 1);
  row->addWidget(stop);
  auto* layout = new QVBoxLayout(box);
  layout->setContentsMargins(4, 0, 0, 0);
  layout->setSpacing(2);
  layout->addLayout(row);
  layout->addWidget(m_progressText);
  box->hide();
  return box;
}

void LibraryPanel::connectLibrary() {
  connect(m_library, &LibraryController::documentsChanged, this, &LibraryPanel::setDocuments);
  connect(m_library, &LibraryController::progressed, this, &LibraryPanel::showProgress);
  connect(m_library, &LibraryController::itemFinished, this, &LibraryPanel::noteItem);
  connect(m_library, &LibraryController::ingestFinished, this, &LibraryPanel::showReport);
  connect(m_library, &LibraryController::failed, this, [this](const QString& message) { m_notice->tell(message); });
  connect(m_library, &LibraryController::ingestStarted, this, [this] {
    m_notAdded.clear();
    m_documents->clearProblems();
    m_notice->hide();
    m_skipped->hide();
    m_progressBar->setRange(0, 0);
    m_progressText->setText(tr("Looking for files…"));
    m_progress->show();
    updatePage();
  });
}

void LibraryPanel::connectSearch() {
  connect(m_query, &QLineEdit::textChanged, this, [this](const QString& text) {
    m_search->setQuery(text);
    if (text.trimmed().isEmpty()) m_hits->setHits({}, {});
    updatePage();
  });
  connect(m_query, &QLineEdit::returnPressed, this, [this] {
    m_search->searchNow();
    if (m_hits->rowCount() > 0) m_hitList->setFocus();
  });
  connect(m_search, &SearchController::found, this,
          [this](const QString& query, const std::vector<retrieval::SearchHit>& hits) {
            m_hits->setHits(query, hits);
            updatePage();
          });
  connect(m_search, &SearchController::failed, this, [this](const QString& message) { m_notice->tell(message); });
}

void LibraryPanel::focusSearch() {
  m_query->setFocus(Qt::ShortcutFocusReason);
  m_query->selectAll();
}

std::vector<retrieval::DocumentId> LibraryPanel::selectedDocuments() const {
  std::vector<retrieval::DocumentId> ids;
  for (const QModelIndex& index : m_documentList->selectionModel()->selectedIndexes()) {
    if (const auto* info = m_documents->document(index)) ids.push_back(info->id);
  }
  return ids;
}

void LibraryPanel::selectDocument(retrieval::DocumentId document) {
  const QModelIndex index = m_documents->indexOf(document);
  if (index.isValid()) m_documentList->scrollTo(index);
}

void LibraryPanel::chooseFiles() {
  auto* dialog = new QFileDialog(this, tr("Add files to the library"));
  dialog->setAttribute(Qt::WA_DeleteOnClose);
  dialog->setFileMode(QFileDialog::ExistingFiles);
  connect(dialog, &QFileDialog::filesSelected, this, [this](const QStringList& files) {
    std::vector<std::filesystem::path> paths;
    for (const QString& file : files) paths.push_back(toPath(file));
    m_library->ingest(paths);
  });
  dialog->open();
}

void LibraryPanel::chooseFolder() {
  auto* dialog = new QFileDialog(this, tr("Add a folder to the library"));
  dialog->setAttribute(Qt::WA_DeleteOnClose);
  dialog->setFileMode(QFileDialog::Directory);
  dialog->setOption(QFileDialog::ShowDirsOnly);
  connect(dialog, &QFileDialog::fileSelected, this,
          [this](const QString& folder) { m_library->ingest({toPath(folder)}); });
  dialog->open();
}

void LibraryPanel::removeSelected() {
  const std::vector<retrieval::DocumentId> ids = selectedDocuments();
  if (ids.empty()) return;
  const auto* first = m_documents->document(m_documents->indexOf(ids.front()));
  const QString what = ids.size() == 1 && first != nullptr
                           ? tr("“%1”").arg(labelText(first->title, 120))
                           : tr("%n document(s)", nullptr, static_cast<int>(ids.size()));
  m_notice->ask(tr("Remove %1 from the library? The files themselves stay where they are; adding them again means "
                   "reading them again.")
                    .arg(what),
                tr("Remove"), [this, ids] { m_library->remove(ids); });
}

void LibraryPanel::setDocuments(const std::vector<retrieval::DocumentInfo>& documents,
                                const retrieval::LibraryStatus& status) {
  m_listed = true;
  const std::vector<retrieval::DocumentId> selected = selectedDocuments();
  m_documents->setDocuments(documents);
  for (const retrieval::DocumentId id : selected) {
    m_documentList->selectionModel()->select(m_documents->indexOf(id), QItemSelectionModel::Select);
  }
  m_count->setText(documents.empty() ? QString() : QLocale().toString(documents.size()));
  if (!status.read_only_reason.empty() && !m_readOnlySaid) {
    m_readOnlySaid = true;
    m_notice->tell(tr("The library can be read but not changed: %1").arg(labelText(status.read_only_reason)));
  }
  emit selectionChanged();
  updatePage();
}

void LibraryPanel::showProgress(const retrieval::IngestProgress& progress) {
  if (!m_library->ingesting()) return;
  const bool embedding = progress.chunks_to_embed > 0;
  const QLocale locale;
  QString text;
  if (embedding) {
    m_progressBar->setRange(0, static_cast<int>(progress.chunks_to_embed));
    m_progressBar->setValue(static_cast<int>(progress.chunks_embedded));
    text = tr("Search works; learning meanings: %1 of %2 passages")
               .arg(locale.toString(progress.chunks_embedded), locale.toString(progress.chunks_to_embed));
    m_documents->clearReading();
  } else {
    m_progressBar->setRange(0, static_cast<int>(progress.files_total));
    m_progressBar->setValue(static_cast<int>(progress.files_done));
    text = tr("%1 of %2 files").arg(locale.toString(progress.files_done), locale.toString(progress.files_total));
    if (progress.seconds > 0.5 && progress.pages_done > 0) {
      const double rate = static_cast<double>(progress.pages_done) / progress.seconds;
      text += tr(" · %1 pages/s").arg(locale.toString(rate, 'f', rate < 10 ? 1 : 0));
    }
    if (!progress.file.empty()) m_documents->setReading(progress);
  }
  if (progress.seconds_left >= 0) text += tr(" · %1 left").arg(durationText(progress.seconds_left));
  m_progressText->setText(text);
  updatePage();
}

void LibraryPanel::noteItem(const retrieval::IngestItem& item) {
  m_documents->addItem(item);
  const bool missing =
      item.outcome == retrieval::IngestOutcome::kFailed || item.outcome == retrieval::IngestOutcome::kSkipped;
  if (missing && m_notAdded.size() < kMostReported) m_notAdded.push_back(item);
}

void LibraryPanel::showReport(const retrieval::IngestReport& report) {
  m_progress->hide();
  m_documents->clearReading();
  updatePage();
  if (report.skipped > 0) m_skipped->setText(tr("%n file(s) skipped…", nullptr, static_cast<int>(report.skipped)));
  m_skipped->setVisible(report.skipped > 0);
  const QString wordsOnly =
      report.embedding_error.empty()
          ? QString()
          : tr("Search works on words alone for now: %1").arg(labelText(report.embedding_error, kLongestReason));
  if (report.failed > 0) {
    const QString failures = tr("%n file(s) could not be read.", nullptr, static_cast<int>(report.failed));
    m_notice->offer(wordsOnly.isEmpty() ? failures : failures + u' ' + wordsOnly, tr("Show list"),
                    [this] { openReport(); });
  } else if (!wordsOnly.isEmpty()) {
    m_notice->tell(wordsOnly);
  } else if (report.cancelled) {
    m_notice->tell(tr("Stopped; what was read is kept."));
  }
}

void LibraryPanel::openReport() { emit reportRequested(tr("Files that were not added"), reportText()); }

QString LibraryPanel::reportText() const {
  QString text;
  for (const retrieval::IngestItem& item : m_notAdded) {
    const QString outcome = item.outcome == retrieval::IngestOutcome::kFailed ? tr("not read") : tr("skipped");
    text += QStringLiteral("%1\n    %2: %3\n")
                .arg(pathText(item.file, 2000), outcome, labelText(item.message, kLongestReason));
  }
  return text;
}

void LibraryPanel::activateDocument(const QModelIndex& index) {
  const auto* info = m_documents->document(index);
  if (info == nullptr) return;
  ReaderTarget target;
  target.document = info->id;
  emit targetActivated(target);
}

void LibraryPanel::activateHit(const QModelIndex& index) {
  if (const auto* hit = m_hits->hit(index)) emit targetActivated(targetOf(*hit));
}

void LibraryPanel::updatePage() {
  const bool searching = !m_query->text().trimmed().isEmpty();
  QWidget* page = searching ? m_hitList : m_documentList;
  if (searching && m_hits->rowCount() == 0) {
    m_empty->setText(tr("No passage found."));
    page = m_empty;
  } else if (!searching && m_documents->rowCount() == 0) {
    m_empty->setText(m_listed ? tr("No documents yet.") : QString());
    page = m_empty;
  }
  m_pages->setCurrentWidget(page);
}

}  // namespace lectern::ui
