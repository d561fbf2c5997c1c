// SPDX-License-Identifier: GPL-3.0-or-later
#include <QApplication>
#include <QCommandLineParser>
#include <QIcon>
#include <QLocale>
#include <QMessageBox>
#include <QStandardPaths>
#include <filesystem>
#include <memory>
#include <optional>
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

constexpr QLatin1String kCudaPrefix("cuda:");
constexpr int kThreadsForEmbedding = 2;  // searching while typing must not take the model's processors

QString gigabytes(std::int64_t bytes) {
  return QLocale().formattedDataSize(bytes, 0, QLocale::DataSizeTraditionalFormat);
}

// The graphics cards, in the order of their numbers.
retrieval::Result<std::vector<ui::DeviceChoice>> listGraphicsCards(const Locations& locations, std::stop_token stop) {
  RETRIEVAL_TRY(const std::vector<engine::DeviceInfo> devices,
                EngineProcess::devices(locations.engine, std::move(stop)));
  std::vector<ui::DeviceChoice> cards;
  for (const engine::DeviceInfo& device : devices) {
    if (device.kind != engine::DeviceKind::kCuda) continue;
    ui::DeviceChoice card;
    card.id = kCudaPrefix + QString::number(cards.size());
    card.label = ui::displayText(device.name);
    if (device.memory_bytes > 0) card.label += QStringLiteral(", ") + gigabytes(device.memory_bytes);
    if (!device.usable) card.problem = ui::displayText(device.reason);
    cards.push_back(std::move(card));
  }
  return cards;
}

// The card that is to compute, or none for the processor. What the user has chosen is never replaced by something else.
retrieval::Result<std::optional<ui::DeviceChoice>> chosenCard(const Locations& locations, const ui::ModelChoice& choice,
                                                              std::stop_token stop) {
  const bool automatic = choice.device == ui::kAutomaticDevice;
  const bool bundled = choice.path.empty();  // small enough for any processor
  if (choice.device == ui::kProcessorDevice || (automatic && bundled)) return std::optional<ui::DeviceChoice>();
  RETRIEVAL_TRY(const std::vector<ui::DeviceChoice> cards, listGraphicsCards(locations, std::move(stop)));
  for (const ui::DeviceChoice& card : cards) {
    if (card.id == choice.device || (automatic && card.problem.isEmpty())) return std::optional(card);
  }
  if (automatic) return std::optional<ui::DeviceChoice>();
  return retrieval::Error{retrieval::ErrorCode::kGenerator,
                          "The graphics card that was chosen is not there; choose another device in the menu Model."};
}

retrieval::Result<ui::OpenedModel> openModel(const Locations& locations, const ui::ModelChoice& choice,
                                             const ui::LoadProgress& progress, std::stop_token stop) {
  RETRIEVAL_TRY(const std::optional<ui::DeviceChoice> card, chosenCard(locations, choice, stop));
  engine::EngineOptions options;
  if (card) {
    options.device = engine::DeviceKind::kCuda;
    // Left alone, the engine takes this card, or several where the model needs them.
    if (choice.device == card->id) options.gpus = {QStringView(card->id).mid(kCudaPrefix.size()).toInt()};
  }
  RETRIEVAL_TRY(OpenedProcess opened,
                openGeneratorProcess(locations, choice.path.string(), options, progress, std::move(stop)));
  ui::OpenedModel model;
  if (card) model.note = QApplication::translate("Model", "computed on %1").arg(card->label);
  if (opened.generator->info().name == kNanoModel) {
    model.note = QApplication::translate("Model", "bundled nano model: extracts sentences only");
  }
  model.ready = [engine = opened.generator.get()] { return engine->running(); };
  model.prepare = [engine = opened.generator.get()](const std::stop_token& token, const ui::LoadProgress& loading) {
    return engine->prepare(token, loading);
  };
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
  services.openModel = [locations](const ui::ModelChoice& choice, const ui::LoadProgress& progress,
                                   std::stop_token stop) {
    return openModel(locations, choice, progress, std::move(stop));
  };
  services.listDevices = [locations](std::stop_token stop) { return listGraphicsCards(locations, std::move(stop)); };
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
