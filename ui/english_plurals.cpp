// SPDX-License-Identifier: GPL-3.0-or-later
#include "english_plurals.h"

namespace lectern::ui {

QString EnglishPlurals::translate(const char* /*context*/, const char* source, const char* /*disambiguation*/,
                                  int n) const {
  if (n < 0) return {};
  QString text = QString::fromUtf8(source);
  return text.replace(QLatin1String("(s)"), n == 1 ? QLatin1String() : QLatin1String("s"));
}

}  // namespace lectern::ui
