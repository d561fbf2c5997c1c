// SPDX-License-Identifier: GPL-3.0-or-later
#include "main_window.h"

#include <QActionGroup>
#include <QApplication>
#include <QCloseEvent>
#include <QDragEnterEvent>
#include <QFile>
#include <QLabel>
#include <QMenuBar>
#include <QMimeData>
#include <QSplitter>
#include <QStatusBar>
#include <algorithm>
#include <system_error>
#include <utility>

#include "ask_controller.h"
#include "context_meter.h"
#include "conversation_view.h"
#include "display_text.h"
#include "library_controller.h"
#include "library_panel.h"
#include "model_menu.h"
#include "reader_view.h"
#include "search_controller.h"
#include "theme.h"
#include "window_dialogs.h"

namespace lectern::ui {

namespace {

constexpr int kMostSuggestions = 4;
constexpr qint64 kQuestionFileBytes = 16 * 1024;

std::vector<std::filesystem::path> localPaths(const QMimeData* data) {
  std::vector<std::filesystem::path> paths;
  for (const QUrl& url : data->urls()) {
    if (url.isLocalFile()) paths.push_back(toPath(url.toLocalFile()));
  }
  return paths;
}

// One question per line, beside the sample documents that answer them.
QStringList sampleQuestions(const std::filesystem::path& samples) {
  QFile file(toQString(samples / "questions.txt"));
  if (samples.empty() || !file.open(QIODevice::ReadOnly)) return {};
  QStringList questions;
  for (const QString& line : QString::fromUtf8(file.read(kQuestionFileBytes)).split(u'\n', Qt::SkipEmptyParts)) {
    const QString question = labelText(line, 200);
    if (!question.isEmpty() && !question.startsWith(u'#') && questions.size() < kMostSuggestions) questions += question;
  }
  return questions;
}

}  // namespace

MainWindow::MainWindow(Services services, Theme* theme, QWidget* parent)
    : QMainWindow(parent),
      m_services(std::move(services)),
      m_settings(m_services.settingsFile),
      m_theme(theme),
      m_library(new LibraryController(m_services, this)),
      m_search(new SearchController(m_services, this)),
      m_asking(new AskController(m_services, this)) {
  std::error_code ignored;
  m_services.samples = std::filesystem::weakly_canonical(m_services.samples, ignored);
  setWindowTitle(QStringLiteral("Lectern"));
  setAcceptDrops(true);
  buildPanes();
  buildStatusBar();
  buildMenus();
  connectPanes();
  connectStatus();
  restoreLayout();
  m_library->refresh();
  openModel();
  m_conversation->focusQuestion();
}

MainWindow::~MainWindow() = default;

void MainWindow::buildPanes() {
  m_libraryPanel = new LibraryPanel(m_library, m_search);
  m_conversation = new ConversationView(m_asking);
  m_reader = new ReaderView(m_services.library);
  m_libraryPanel->setMinimumWidth(210);
  m_conversation->setMinimumWidth(320);
  m_reader->setMinimumWidth(300);
  m_splitter = new QSplitter(Qt::Horizontal);
  m_splitter->setHandleWidth(1);
  m_splitter->setChildrenCollapsible(false);
  for (QWidget* pane : {static_cast<QWidget*>(m_libraryPanel), static_cast<QWidget*>(m_conversation),
                        static_cast<QWidget*>(m_reader)}) {
    m_splitter->addWidget(pane);
  }
  m_splitter->setStretchFactor(0, 0);
  m_splitter->setStretchFactor(1, 1);
  m_splitter->setStretchFactor(2, 1);
  setCentralWidget(m_splitter);

  m_dropHint = new QLabel(tr("Drop to add to the library"), this);
  m_dropHint->setObjectName(QStringLiteral("dropHint"));
  m_dropHint->setAlignment(Qt::AlignCenter);
  m_dropHint->setAttribute(Qt::WA_TransparentForMouseEvents);
  m_dropHint->hide();
}

void MainWindow::buildStatusBar() {
  m_modelLine = new QLabel;
  m_modelLine->setTextFormat(Qt::PlainText);
  m_modelLine->setProperty("muted", true);
  m_modelLine->setContentsMargins(8, 0, 8, 0);
  m_meter = new ContextMeter;
  statusBar()->setSizeGripEnabled(false);
  statusBar()->addWidget(m_modelLine, 1);
  statusBar()->addPermanentWidget(m_meter);
}

void MainWindow::buildMenus() {
  QMenu* file = menuBar()->addMenu(tr("&File"));
  file->addAction(tr("Add &Files…"), QKeySequence::Open, m_libraryPanel, &LibraryPanel::chooseFiles);
  file->addAction(tr("Add F&older…"), QKeySequence(tr("Ctrl+Shift+O")), m_libraryPanel, &LibraryPanel::chooseFolder);
  QAction* samples = file->addAction(tr("Add the &Sample Documents"), this, &MainWindow::offerSamples);
  samples->setVisible(!m_services.samples.empty());
  file->addSeparator();
  file->addAction(tr("&Remove Selected Documents…"), m_libraryPanel, &LibraryPanel::removeSelected);
  file->addSeparator();
  file->addAction(tr("&Quit"), QKeySequence(tr("Ctrl+Q")), this, &QWidget::close);

  QMenu* go = menuBar()->addMenu(tr("&Go"));
  go->addAction(tr("&Question"), QKeySequence(tr("Ctrl+L")), m_conversation, &ConversationView::focusQuestion);
  go->addAction(tr("&Search the Library"), QKeySequence::Find, m_libraryPanel, &LibraryPanel::focusSearch);
  go->addAction(tr("&Next Pane"), QKeySequence(tr("F6")), this, &MainWindow::cyclePanes);
  go->addSeparator();
  go->addAction(tr("&Page…"), QKeySequence(tr("Ctrl+G")), m_reader, &ReaderView::focusPageNumber);
  go->addAction(tr("Pre&vious Page"), QKeySequence(tr("Alt+PgUp")), m_reader, &ReaderView::previousPage);
  go->addAction(tr("N&ext Page"), QKeySequence(tr("Alt+PgDown")), m_reader, &ReaderView::nextPage);
  go->addSeparator();
  go->addAction(tr("S&top Answering"), QKeySequence(tr("Esc")), m_conversation, &ConversationView::stop);

  buildViewMenu();
  auto* model = new ModelMenu(m_services, m_settings.device.get(), this);
  menuBar()->addMenu(model);
  connect(model, &ModelMenu::modelChosen, this, &MainWindow::useModel);
  connect(model, &ModelMenu::deviceChosen, this, &MainWindow::useDevice);

  QMenu* help = menuBar()->addMenu(tr("&Help"));
  help->addAction(tr("&Keyboard Shortcuts"), QKeySequence::HelpContents, this, [this] { showShortcuts(this); });
  help->addAction(tr("&About Lectern"), this, [this] { showAbout(this); });
}

void MainWindow::buildViewMenu() {
  QMenu* view = menuBar()->addMenu(tr("&View"));
  view->addAction(tr("&Larger"), QKeySequence::ZoomIn, m_reader, &ReaderView::zoomIn);
  view->addAction(tr("&Smaller"), QKeySequence::ZoomOut, m_reader, &ReaderView::zoomOut);
  view->addAction(tr("&Fit the Width"), QKeySequence(tr("Ctrl+0")), m_reader, &ReaderView::fitWidth);
  if (m_theme == nullptr) return;
  view->addSeparator();
  QMenu* appearance = view->addMenu(tr("&Appearance"));
  auto* group = new QActionGroup(appearance);
  const std::pair<QString, QString> choices[] = {{tr("Like the System"), QStringLiteral("system")},
                                                 {tr("Light"), QStringLiteral("light")},
                                                 {tr("Dark"), QStringLiteral("dark")}};
  for (const auto& [label, name] : choices) {
    QAction* action = appearance->addAction(label, this, [this, name = name] { setAppearance(name); });
    action->setCheckable(true);
    action->setChecked(m_settings.appearance.get() == name);
    group->addAction(action);
  }
}

void MainWindow::connectPanes() {
  connect(m_libraryPanel, &LibraryPanel::targetActivated, m_reader, &ReaderView::open);
  connect(m_conversation, &ConversationView::targetActivated, m_reader, &ReaderView::open);
  connect(m_conversation, &ConversationView::samplesRequested, this, &MainWindow::offerSamples);
  connect(m_libraryPanel, &LibraryPanel::reportRequested, m_reader, &ReaderView::showPlainText);
  connect(m_libraryPanel, &LibraryPanel::selectionChanged, this,
          [this] { m_conversation->setSelection(m_libraryPanel->selectedDocuments()); });
  connect(m_library, &LibraryController::documentsChanged, this, &MainWindow::documentsListed);
}

void MainWindow::connectStatus() {
  connect(m_asking, &AskController::modelOpening, this, [this] { m_modelLine->setText(tr("Opening the model…")); });
  connect(m_asking, &AskController::modelLoading, this, [this](const LoadingState& state) {
    m_modelLine->setText(loadingText(state.done, state.total, state.seconds));
  });
  connect(m_asking, &AskController::modelOpened, this, [this](const ModelLine& model) {
    m_contextTokens = model.contextTokens;
    m_modelLine->setText(model.note.isEmpty() ? model.name : tr("%1 – %2").arg(model.name, model.note));
    m_modelLine->setToolTip(m_modelLine->text());
    if (!m_asking->busy()) m_meter->setUse(0, m_contextTokens);
  });
  connect(m_asking, &AskController::modelFailed, this, [this](const QString& message) {
    m_modelLine->setText(tr("No model: %1").arg(labelText(message)));
    m_modelLine->setToolTip(message);
  });
  connect(m_asking, &AskController::contextReady, this, [this](const retrieval::ContextReport& context) {
    m_meter->setUse(context.prompt_tokens, context.context_tokens > 0 ? context.context_tokens : m_contextTokens);
  });
}

void MainWindow::documentsListed(const std::vector<retrieval::DocumentInfo>& documents) {
  m_reader->closeIfShown(documents);
  const bool samples = std::any_of(documents.begin(), documents.end(), [this](const retrieval::DocumentInfo& info) {
    return !m_services.samples.empty() && info.path.parent_path() == m_services.samples;
  });
  const bool firstStart = !m_settings.samplesOffered.get();
  m_settings.samplesOffered.set(true);
  if (!documents.empty()) {
    m_conversation->setEmptyState(tr("Every answer cites its sources. Click a citation to see the sentence."),
                                  samples ? sampleQuestions(m_services.samples) : QStringList(), false);
    return;
  }
  const bool haveSamples = !m_services.samples.empty();
  m_conversation->setEmptyState(tr("Drop PDFs, text files or whole folders anywhere on this window.\n"
                                   "Everything stays on this machine."),
                                {}, haveSamples && !firstStart);
  if (haveSamples && firstStart) offerSamples();
}

void MainWindow::offerSamples() { addPaths({m_services.samples}); }

void MainWindow::addPaths(const std::vector<std::filesystem::path>& paths) {
  if (!paths.empty()) m_library->ingest(paths);
}

void MainWindow::useModel(const QString& path) {
  m_settings.modelPath.set(path);
  openModel();
}

void MainWindow::useDevice(const QString& id) {
  m_settings.device.set(id);
  openModel();
}

void MainWindow::openModel() {
  m_conversation->stop();
  m_asking->openModel({toPath(m_settings.modelPath.get()), m_settings.device.get()});
}

void MainWindow::cyclePanes() {
  const std::pair<QWidget*, std::function<void()>> panes[] = {
      {m_libraryPanel, [this] { m_libraryPanel->focusSearch(); }},
      {m_conversation, [this] { m_conversation->focusQuestion(); }},
      {m_reader, [this] { m_reader->focusContent(); }}};
  const std::size_t count = std::size(panes);
  std::size_t current = count - 1;
  for (std::size_t i = 0; i < count; ++i) {
    if (panes[i].first->isAncestorOf(QApplication::focusWidget())) current = i;
  }
  panes[(current + 1) % count].second();
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event) {
  if (localPaths(event->mimeData()).empty()) return;
  event->acceptProposedAction();
  m_dropHint->setGeometry(rect().adjusted(24, 24, -24, -24));
  m_dropHint->raise();
  m_dropHint->show();
}

void MainWindow::dragLeaveEvent(QDragLeaveEvent* /*event*/) { m_dropHint->hide(); }

void MainWindow::dropEvent(QDropEvent* event) {
  m_dropHint->hide();
  event->acceptProposedAction();
  const std::vector<std::filesystem::path> paths = localPaths(event->mimeData());
  if (paths.size() == 1 && paths.front().extension() == ".gguf") {
    useModel(toQString(paths.front()));
  } else {
    addPaths(paths);
  }
}

void MainWindow::closeEvent(QCloseEvent* event) {
  rememberLayout();
  QMainWindow::closeEvent(event);
}

void MainWindow::setAppearance(const QString& name) {
  m_settings.appearance.set(name);
  m_theme->setAppearance(appearanceNamed(name));
}

void MainWindow::rememberLayout() {
  m_settings.geometry.set(saveGeometry());
  m_settings.splitter.set(m_splitter->saveState());
  m_settings.pageZoom.set(m_reader->zoomSetting());
}

void MainWindow::restoreLayout() {
  if (!restoreGeometry(m_settings.geometry.get())) resize(1320, 820);
  if (!m_splitter->restoreState(m_settings.splitter.get())) m_splitter->setSizes({280, 540, 500});
  m_reader->setZoom(m_settings.pageZoom.get());
  if (m_theme != nullptr) m_theme->setAppearance(appearanceNamed(m_settings.appearance.get()));
}

}  // namespace lectern::ui
