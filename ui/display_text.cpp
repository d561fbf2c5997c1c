// SPDX-License-Identifier: GPL-3.0-or-later
#include "display_text.h"

#include <QCoreApplication>
#include <QFile>
#include <QLocale>
#include <algorithm>
#include <cmath>

namespace lectern::ui {

namespace {

constexpr char32_t kReplacement = 0xFFFD;

bool isInvisible(char32_t c) {
  if (c == 0x200C || c == 0x200D) return false;  // joiners that several scripts and emoji need
  const bool bidi =
      (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || c == 0x200E || c == 0x200F || c == 0x061C;
  const bool zeroWidth = c == 0x200B || (c >= 0x2060 && c <= 0x2064) || (c >= 0x206A && c <= 0x206F) || c == 0xFEFF ||
                         c == 0x00AD || c == 0x180E;
  const bool tag = c >= 0xE0000 && c <= 0xE007F;
  return bidi || zeroWidth || tag;
}

bool isControl(char32_t c) { return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7F && c < 0xA0); }

bool isLineBreak(char32_t c) { return c == '\n' || c == '\t' || c == 0x2028 || c == 0x2029; }

bool isRightToLeft(char32_t c) {
  const QChar::Direction direction = QChar::direction(c);
  return direction == QChar::DirR || direction == QChar::DirAL;
}

}  // namespace

QString displayText(const QString& text) {
  const auto harmless = [](QChar c) { return (c.unicode() >= 0x20 && c.unicode() < 0x7F) || c == u'\n' || c == u'\t'; };
  if (std::all_of(text.begin(), text.end(), harmless)) return text;

  QString out;
  out.reserve(text.size());
  for (const uint code : text.toUcs4()) {
    const char32_t c = code;
    if (c == '\r' || isInvisible(c)) continue;
    if (c == 0x2028 || c == 0x2029) {
      out += u'\n';
    } else {
      out += QString::fromUcs4(isControl(c) ? &kReplacement : &c, 1);
    }
  }
  return out;
}

QString displayText(std::string_view utf8) {
  return displayText(QString::fromUtf8(utf8.data(), static_cast<qsizetype>(utf8.size())));
}

QString labelText(const QString& text, int maxLength) {
  // Cut first: a label never needs to look at megabytes.
  QString line = displayText(text.left(4 * static_cast<qsizetype>(maxLength)));
  std::replace_if(
      line.begin(), line.end(), [](QChar c) { return isLineBreak(c.unicode()); }, QChar(u' '));
  line = line.simplified();
  if (line.size() > maxLength) line = line.left(maxLength - 1) + u'…';
  const auto codes = line.toUcs4();
  const bool isolate = std::any_of(codes.begin(), codes.end(), [](uint c) { return isRightToLeft(c); });
  return isolate ? QChar(0x2068) + line + QChar(0x2069) : line;
}

QString labelText(std::string_view utf8, int maxLength) {
  const auto bytes = std::min(utf8.size(), static_cast<std::size_t>(maxLength) * 16);
  return labelText(QString::fromUtf8(utf8.data(), static_cast<qsizetype>(bytes)), maxLength);
}

QString pathText(const std::filesystem::path& path, int maxLength) { return labelText(toQString(path), maxLength); }

QString toQString(const std::filesystem::path& path) {
  return QFile::decodeName(QByteArray::fromStdString(path.string()));
}

std::filesystem::path toPath(const QString& path) { return QFile::encodeName(path).toStdString(); }

QString buttonText(const QString& text, int maxLength) {
  return labelText(text, maxLength).replace(QLatin1String("&"), QLatin1String("&&"));
}

QString durationText(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return {};
  const auto tr = [](const char* source) { return QCoreApplication::translate("Duration", source); };
  const QLocale locale;
  if (seconds < 10) return tr("%1 s").arg(locale.toString(seconds, 'f', 1));
  const auto whole = static_cast<qint64>(std::min(seconds, 1e9));
  if (whole < 60) return tr("%1 s").arg(whole);
  if (whole < 3600) return tr("%1 min %2 s").arg(whole / 60).arg(whole % 60);
  return tr("%1 h %2 min").arg(whole / 3600).arg(whole % 3600 / 60);
}

QString loadingText(std::int64_t doneBytes, std::int64_t totalBytes, double seconds) {
  const auto tr = [](const char* source) { return QCoreApplication::translate("Loading", source); };
  const auto size = [](double bytes) {
    return QLocale().formattedDataSize(static_cast<qint64>(bytes), 1, QLocale::DataSizeSIFormat);
  };
  if (totalBytes <= 0) return tr("Opening the model…");
  const QString text =
      tr("Opening the model: %1 % of %2").arg(100 * doneBytes / totalBytes).arg(size(static_cast<double>(totalBytes)));
  constexpr double kSettled = 0.5;  // seconds; before that the rate says nothing
  if (seconds < kSettled || doneBytes <= 0) return text;
  const double rate = static_cast<double>(doneBytes) / seconds;
  return tr("%1, %2/s, %3 left")
      .arg(text, size(rate), durationText(static_cast<double>(totalBytes - doneBytes) / rate));
}

}  // namespace lectern::ui
