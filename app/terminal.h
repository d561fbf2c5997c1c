// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace lectern::app {

// `text` without what a terminal would obey: control characters other than newline and tab, the start of escape
// sequences, bidirectional overrides, invisible tag characters. Invalid UTF-8 becomes U+FFFD.
std::string printable(std::string_view text);

// As printable(), on one line: runs of white space become one space.
std::string printableLine(std::string_view text);

// Results on stdout, everything said about the work on stderr. One thread at a time.
class Terminal {
 public:
  enum class Talk { kAll, kErrorsOnly };

  explicit Terminal(Talk talk);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Text of ours or already printable(). False when nobody takes it any more.
  bool write(std::string_view text);
  void note(std::string_view sentence);
  void error(std::string_view sentence);

  // One line that is redrawn; where stderr is no terminal, a new line every few seconds.
  void progress(std::string_view line);
  void endProgress();

  bool outputClosed() const { return m_outputClosed; }  // the reader went away
  bool outputFailed() const { return m_outputFailed; }  // a full disk, for instance

 private:
  void say(std::string_view prefix, std::string_view sentence);

  Talk m_talk;
  bool m_redraws;
  bool m_progressShown = false;
  bool m_outputClosed = false;
  bool m_outputFailed = false;
  std::chrono::steady_clock::time_point m_lastProgress;
};

// "3 s", "2 min 5 s", "1 h 10 min"; empty when negative.
std::string duration(double seconds);
// "512 bytes", "3.2 MB"
std::string byteCount(double bytes);
// "Loading the model: 12 GB of 45 GB, 2.1 GB/s, 14 s left"; with the seconds alone while no bytes are known.
std::string loadingLine(double seconds, std::int64_t doneBytes, std::int64_t totalBytes);
// "1 page", "2 pages"
std::string counted(long long count, const std::string& noun);

}  // namespace lectern::app
