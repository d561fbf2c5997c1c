// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <QApplication>

#include "ui/english_plurals.h"
#include "ui/theme.h"

int main(int argc, char** argv) {
  if (qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  testing::InitGoogleTest(&argc, argv);
  QApplication application(argc, argv);
  lectern::ui::EnglishPlurals english;
  QApplication::installTranslator(&english);
  new lectern::ui::Theme(&application, lectern::ui::Appearance::kLight);
  return RUN_ALL_TESTS();
}
