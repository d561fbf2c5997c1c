// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <QApplication>
#include <cstdio>
#include <cstdlib>

#include "ui/english_plurals.h"
#include "ui/theme.h"

namespace {

// The offscreen platform complains about every window.
void onlyRealMessages(QtMsgType type, const QMessageLogContext& /*context*/, const QString& message) {
  if (message.contains(QStringLiteral("propagateSizeHints"))) return;
  std::fprintf(stderr, "%s\n", message.toLocal8Bit().constData());
  if (type == QtFatalMsg) std::abort();
}

}  // namespace

int main(int argc, char** argv) {
  if (qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  qInstallMessageHandler(onlyRealMessages);
  testing::InitGoogleTest(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();  // the build asks for the names
  QApplication application(argc, argv);
  lectern::ui::EnglishPlurals english;
  QApplication::installTranslator(&english);
  new lectern::ui::Theme(&application, lectern::ui::Appearance::kLight);
  return RUN_ALL_TESTS();
}
