// SPDX-License-Identifier: GPL-3.0-or-later
// Drives the real window through a first start and saves pictures of it: make_screenshots OUTPUT_DIRECTORY.
#include <QApplication>
#include <QLineEdit>
#include <QTest>
#include <cstdio>

#include "composition.h"
#include "ui/answer_view.h"
#include "ui/ask_controller.h"
#include "ui/conversation_turn.h"
#include "ui/conversation_view.h"
#include "ui/english_plurals.h"
#include "ui/library_controller.h"
#include "ui/library_panel.h"
#include "ui/main_window.h"
#include "ui/page_view.h"
#include "ui/reader_view.h"
#include "ui/source_row.h"
#include "ui/theme.h"
#include "window_services.h"

namespace lectern::ui::test {
namespace {

constexpr int kPatienceMs = 30'000;

template <class Condition>
void waitFor(Condition condition) {
  if (!QTest::qWaitFor(condition, kPatienceMs)) std::fprintf(stderr, "gave up waiting\n");
}

class Pictures {
 public:
  Pictures(MainWindow& window, QString directory, QString suffix)
      : m_window(window), m_directory(std::move(directory)), m_suffix(std::move(suffix)) {}

  void take(const QString& name) {
    QTest::qWait(400);
    m_window.grab().save(QStringLiteral("%1/%2%3.png").arg(m_directory, name, m_suffix));
  }

 private:
  MainWindow& m_window;
  QString m_directory;
  QString m_suffix;
};

// The bundled model, as the program opens it.
retrieval::Result<OpenedModel> openBundledModel() {
  app::Locations locations;
  locations.resources = LECTERN_RESOURCES;
  locations.modelDirectories = {locations.resources / "models"};
  RETRIEVAL_TRY(app::OpenedGenerator opened, app::openGenerator(locations, {}, {}));
  OpenedModel model;
  model.generator = std::move(opened.generator);
  model.profile = std::move(opened.profile);
  model.note = QStringLiteral("bundled nano model: extracts sentences only");
  return model;
}

void ask(MainWindow& window, const QString& question) {
  window.conversation()->ask(question);
  waitFor([&] { return !window.asking()->busy(); });
  waitFor([&] { return window.conversation()->lastTurn()->answerView()->complete(); });
}

void openFirstSource(MainWindow& window) {
  const auto rows = window.conversation()->lastTurn()->findChildren<SourceRow*>();
  if (rows.isEmpty()) return;
  rows.front()->click();
  waitFor([&] { return window.reader()->pageView()->pageCount() > 0; });
}

void tour(Theme& theme, Appearance appearance, const QString& directory) {
  WindowServices world([](const std::string&) { return std::string(); });
  world.services.samples = std::filesystem::path(LECTERN_RESOURCES) / "samples";
  world.services.openModel = [](const ModelChoice&, const LoadProgress&, std::stop_token) {
    return openBundledModel();
  };
  theme.setAppearance(appearance);
  MainWindow window(world.services, nullptr);
  Pictures pictures(window, directory, appearance == Appearance::kDark ? QStringLiteral("-dark") : QString());
  window.resize(1360, 840);
  window.show();
  waitFor([&] { return window.library()->ingesting(); });
  pictures.take(QStringLiteral("reading"));
  waitFor([&] { return !window.library()->ingesting(); });
  pictures.take(QStringLiteral("start"));
  ask(window, QStringLiteral("What did the repair of the landing cost?"));
  ask(window, QStringLiteral("What was the highest water ever recorded at Skerry Point?"));
  ask(window, QStringLiteral("Who designed the tower?"));
  openFirstSource(window);
  pictures.take(QStringLiteral("window"));
  QTest::keyClicks(window.libraryPanel()->findChild<QLineEdit*>(), QStringLiteral("mercury lens"));
  QTest::qWait(1000);
  pictures.take(QStringLiteral("search"));
}

}  // namespace
}  // namespace lectern::ui::test

int main(int argc, char** argv) {
  QApplication application(argc, argv);
  if (argc != 2) {
    std::fprintf(stderr, "Usage: make_screenshots OUTPUT_DIRECTORY\n");
    return 2;
  }
  using namespace lectern::ui;
  EnglishPlurals english;
  QApplication::installTranslator(&english);
  auto* theme = new Theme(&application, Appearance::kLight);
  for (const Appearance appearance : {Appearance::kLight, Appearance::kDark}) {
    test::tour(*theme, appearance, QString::fromLocal8Bit(argv[1]));
  }
  return 0;
}
