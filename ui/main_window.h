// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QMainWindow>
#include <filesystem>
#include <vector>

#include "services.h"
#include "settings.h"

class QLabel;
class QSplitter;

namespace lectern::ui {

class AskController;
class ContextMeter;
class ConversationView;
class LibraryController;
class LibraryPanel;
class ReaderView;
class SearchController;
class Theme;

// Places library, conversation and reader side by side and connects them; takes what is dropped anywhere on it.
class MainWindow : public QMainWindow {
  Q_OBJECT

 public:
  // `theme` may be null: appearance cannot then be chosen.
  MainWindow(Services services, Theme* theme, QWidget* parent = nullptr);
  ~MainWindow() override;

  void addPaths(const std::vector<std::filesystem::path>& paths);

  LibraryPanel* libraryPanel() const { return m_libraryPanel; }
  ConversationView* conversation() const { return m_conversation; }
  ReaderView* reader() const { return m_reader; }
  LibraryController* library() const { return m_library; }
  AskController* asking() const { return m_asking; }

 protected:
  void dragEnterEvent(QDragEnterEvent* event) override;
  void dragLeaveEvent(QDragLeaveEvent* event) override;
  void dropEvent(QDropEvent* event) override;
  void closeEvent(QCloseEvent* event) override;

 private:
  void buildPanes();
  void buildStatusBar();
  void buildMenus();
  void buildViewMenu();
  void connectPanes();
  void connectStatus();
  void useModel(const QString& path);
  void useDevice(const QString& id);
  void openModel();
  void cyclePanes();
  void documentsListed(const std::vector<retrieval::DocumentInfo>& documents);
  void offerSamples();
  void setAppearance(const QString& name);
  void rememberLayout();
  void restoreLayout();

  Services m_services;
  Settings m_settings;
  Theme* m_theme;
  LibraryController* m_library;
  SearchController* m_search;
  AskController* m_asking;
  LibraryPanel* m_libraryPanel = nullptr;
  ConversationView* m_conversation = nullptr;
  ReaderView* m_reader = nullptr;
  QSplitter* m_splitter = nullptr;
  QLabel* m_modelLine = nullptr;
  ContextMeter* m_meter = nullptr;
  QLabel* m_dropHint = nullptr;
  qint64 m_contextTokens = 0;
};

}  // namespace lectern::ui
