// SPDX-License-Identifier: GPL-3.0-or-later
#include "terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>

namespace lectern::app {
namespace {

using namespace std::chrono_literals;

constexpr auto kRedrawEvery = 100ms;
constexpr auto kNewLineEvery = 5s;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Character {
  char32_t code = 0;
  std::size_t length = 0;  // 0: not valid UTF-8
};

Character decodeMultibyte(std::string_view text, std::size_t length, char32_t smallest) {
  if (text.size() < length) return {};
  char32_t code = static_cast<unsigned char>(text[0]) & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xC0U) != 0x80U) return {};
    code = (code << 6) | (byte & 0x3FU);
  }
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return code < smallest || code > 0x10FFFF || surrogate ? Character{} : Character{code, length};
}

Character decode(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return {first, 1};
  if (first >= 0xC2 && first < 0xE0) return decodeMultibyte(text, 2, 0x80);
  if (first >= 0xE0 && first < 0xF0) return decodeMultibyte(text, 3, 0x800);
  if (first >= 0xF0 && first < 0xF5) return decodeMultibyte(text, 4, 0x10000);
  return {};
}

bool isObeyedByTerminals(char32_t code) {
  if (code == '\n' || code == '\t') return false;
  if (code < 0x20 || (code >= 0x7F && code <= 0x9F)) return true;  // C0, delete, C1
  const bool bidi = code == 0x061C || code == 0x200E || code == 0x200F || (code >= 0x202A && code <= 0x202E) ||
                    (code >= 0x2066 && code <= 0x2069);
  const bool lineSeparator = code == 0x2028 || code == 0x2029;
  const bool tag = code >= 0xE0000 && code <= 0xE007F;
  return bidi || lineSeparator || tag;
}

std::size_t columnsOf(int descriptor) {
  winsize size{};
  if (ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

// At most `columns` characters; wide characters are counted once, which at worst wraps a progress line.
std::string_view cutToColumns(std::string_view text, std::size_t columns) {
  std::size_t bytes = 0;
  for (std::size_t column = 0; column < columns && bytes < text.size(); ++column) {
    bytes += std::max<std::size_t>(1, decode(text.substr(bytes)).length);
  }
  return text.substr(0, bytes);
}

bool writeAll(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const Character character = decode(text);
    if (character.length == 0) {
      clean += kReplacement;
      text.remove_prefix(1);
      continue;
    }
    if (!isObeyedByTerminals(character.code)) clean += text.substr(0, character.length);
    text.remove_prefix(character.length);
  }
  return clean;
}

std::string printableLine(std::string_view text) {
  std::string line;
  for (const char byte : printable(text)) {
    const bool space = byte == ' ' || byte == '\n' || byte == '\t';
    if (!space) {
      line += byte;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  if (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

Terminal::Terminal(Talk talk) : m_talk(talk), m_redraws(isatty(STDERR_FILENO) == 1) {}

Terminal::~Terminal() { endProgress(); }

bool Terminal::write(std::string_view text) {
  endProgress();
  if (m_outputClosed || m_outputFailed) return false;
  if (writeAll(STDOUT_FILENO, text)) return true;
  (errno == EPIPE ? m_outputClosed : m_outputFailed) = true;
  return false;
}

void Terminal::note(std::string_view sentence) {
  if (m_talk == Talk::kAll) say("", sentence);
}

void Terminal::error(std::string_view sentence) { say("lectern-cli: ", sentence); }

void Terminal::say(std::string_view prefix, std::string_view sentence) {
  endProgress();
  // Nothing can be done about a stderr that does not take text.
  static_cast<void>(writeAll(STDERR_FILENO, std::string(prefix) + printable(sentence) + "\n"));
}

void Terminal::progress(std::string_view line) {
  if (m_talk != Talk::kAll) return;
  const auto now = std::chrono::steady_clock::now();
  const bool first = m_lastProgress == std::chrono::steady_clock::time_point();
  if (first && !m_redraws) m_lastProgress = now;  // quick work says nothing
  if (now - m_lastProgress < (m_redraws ? std::chrono::nanoseconds(kRedrawEvery) : kNewLineEvery)) return;
  m_lastProgress = now;
  const std::string clean = printableLine(line);
  std::string text = clean + "\n";
  if (m_redraws) {
    text = "\r\x1b[K";
    text += cutToColumns(clean, columnsOf(STDERR_FILENO) - 1);
    m_progressShown = true;
  }
  static_cast<void>(writeAll(STDERR_FILENO, text));
}

void Terminal::endProgress() {
  if (!m_progressShown) return;
  m_progressShown = false;
  static_cast<void>(writeAll(STDERR_FILENO, "\r\x1b[K"));
}

std::string duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "";
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 60) return std::to_string(whole) + " s";
  if (whole < 3600) return std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
  return std::to_string(whole / 3600) + " h " + std::to_string(whole % 3600 / 60) + " min";
}

std::string byteCount(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1000;
    ++unit;
  }
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
  return text.data();
}

std::string loadingLine(double seconds, std::int64_t doneBytes, std::int64_t totalBytes) {
  const std::string doing = "Loading the model: ";
  if (totalBytes <= 0 || doneBytes <= 0 || seconds <= 0) return doing + duration(seconds);
  const auto done = static_cast<double>(doneBytes);
  const auto total = static_cast<double>(totalBytes);
  const double rate = done / seconds;
  return doing + byteCount(done) + " of " + byteCount(total) + ", " + byteCount(rate) + "/s, " +
         duration((total - done) / rate) + " left";
}

std::string counted(long long count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

}  // namespace lectern::app
