// SPDX-License-Identifier: GPL-3.0-or-later
#include <QApplication>
#include <QCommandLineParser>
#include <QIcon>
#include <QMessageBox>
#include <QStandardPaths>
#include <filesystem>
#include <memory>
#include <stop_token>
#include <utility>
#include <vector>

#include "composition.h"
#include "ui/display_text.h"
#include "ui/english_plurals.h"
#include "ui/main_window.h"
#include "ui/services.h"
#include "ui/theme.h"

namespace lectern::app {
namespace {

constexpr int kThreadsForEmbedding = 2;  // searching while typing must not take the model's processors

retrieval::Result<ui::OpenedModel> openModel(const Locations& locations, const std::filesystem::path& directory,
                                             std::stop_token stop) {
  RETRIEVAL_TRY(OpenedProcess opened, openGeneratorProcess(locations, directory.string(), {}, std::move(stop)));
  ui::OpenedModel model;
  if (opened.generator->info().name == kNanoModel) {
    model.note = QApplication::translate("Model", "bundled nano model: extracts sentences only");
  }
  model.ready = [engine = opened.generator.get()] { return engine->running(); };
  model.prepare = [engine = opened.generator.get()](const std::stop_token& token) { return engine->prepare(token); };
  model.generator = std::move(opened.generator);
  model.profile = std::move(opened.profile);
  return model;
}

retrieval::Result<ui::Services> makeServices(const std::filesystem::path& library) {
  RETRIEVAL_TRY(const Locations locations, findLocations());
  ui::Services services;
  RETRIEVAL_TRY(services.library, openLibrary(locations, library, MissingLibrary::kCreate));
  services.extractor = makeExtractor(locations);
  services.embedder = openEmbedder(locations, kThreadsForEmbedding).embedder;
  services.openModel = [locations](const std::filesystem::path& directory, std::stop_token stop) {
    return openModel(locations, directory, std::move(stop));
  };
  services.samples = locations.samples();
  services.settingsFile =
      QStandardPaths::writableLocation(QStandardPaths::AppConfigLocation) + QStringLiteral("/window.ini");
  return services;
}

int run(QApplication& application) {
  QCommandLineParser arguments;
  arguments.setApplicationDescription(
      QApplication::translate("Main", "Reads, searches and answers from your documents."));
  arguments.addHelpOption();
  arguments.addVersionOption();
  const QCommandLineOption library(QStringLiteral("library"), QApplication::translate("Main", "Open this library."),
                                   QApplication::translate("Main", "directory"));
  arguments.addOption(library);
  arguments.addPositionalArgument(QStringLiteral("files"),
                                  QApplication::translate("Main", "Files and folders to add to the library."),
                                  QStringLiteral("[files...]"));
  arguments.process(application);

  auto* theme = new ui::Theme(&application, ui::Appearance::kSystem);
  retrieval::Result<ui::Services> services = makeServices(ui::toPath(arguments.value(library)));
  if (!services.ok()) {
    QMessageBox::critical(nullptr, QStringLiteral("Lectern"), ui::displayText(services.error().message));
    return 1;
  }
  ui::MainWindow window(std::move(services).value(), theme);
  window.show();
  std::vector<std::filesystem::path> paths;
  for (const QString& file : arguments.positionalArguments())
    paths.push_back(std::filesystem::absolute(ui::toPath(file)));
  window.addPaths(paths);
  return QApplication::exec();
}

}  // namespace
}  // namespace lectern::app

int main(int argc, char** argv) {
  QApplication application(argc, argv);
  QApplication::setApplicationName(QStringLiteral("lectern"));
  QApplication::setApplicationVersion(QStringLiteral(LECTERN_VERSION));
  QApplication::setDesktopFileName(QStringLiteral("lectern"));
  QApplication::setWindowIcon(QIcon(QStringLiteral(":/lectern/icons/lectern.svg")));
  lectern::ui::EnglishPlurals english;
  QApplication::installTranslator(&english);
  return lectern::app::run(application);
}
