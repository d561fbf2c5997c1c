// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QString>
#include <QStringList>
#include <ostream>

// How a failed comparison shows texts of Qt.
inline void PrintTo(const QString& text, std::ostream* out) { *out << '"' << text.left(300).toStdString() << '"'; }

inline void PrintTo(const QStringList& texts, std::ostream* out) { PrintTo(texts.join(QStringLiteral("\", \"")), out); }
