// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QTranslator>

namespace lectern::ui {

// The texts of the source are English with "(s)" where a number decides; this makes them "1 page" and "2 pages" as
// long as no other translation is installed above it.
class EnglishPlurals : public QTranslator {
 public:
  using QTranslator::QTranslator;

  bool isEmpty() const override { return false; }
  QString translate(const char* context, const char* source, const char* disambiguation, int n) const override;
};

}  // namespace lectern::ui
