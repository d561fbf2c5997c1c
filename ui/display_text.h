// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QString>
#include <cstdint>
#include <filesystem>
#include <string_view>

namespace lectern::ui {

// Text from documents, files and models, made safe to show: no control characters but newline and tab, no
// bidirectional overrides, no invisible or tag characters that could hide or reorder what is read.
QString displayText(const QString& text);
QString displayText(std::string_view utf8);

// The same on one line of at most `maxLength` characters, isolated when it holds right-to-left text, so that it
// cannot reorder the words around it.
QString labelText(const QString& text, int maxLength = 300);
QString labelText(std::string_view utf8, int maxLength = 300);
QString pathText(const std::filesystem::path& path, int maxLength = 300);

QString toQString(const std::filesystem::path& path);
std::filesystem::path toPath(const QString& path);

// For buttons and menus, where '&' marks a shortcut key.
QString buttonText(const QString& text, int maxLength = 300);

// "1.2 s", "45 s", "3 min 5 s".
QString durationText(double seconds);

// "Opening the model: 34 % of 45.1 GB, 2.1 GB/s, 14 s left"
QString loadingText(std::int64_t doneBytes, std::int64_t totalBytes, double seconds);

}  // namespace lectern::ui
