// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <stop_token>
#include <thread>

namespace lectern::app {

// Ctrl+C and a polite kill become a stop request; the second one ends the process at once. One per process.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  std::stop_token token() const { return m_stop.get_token(); }

  // Asks for the same stop without a signal, for instance because nobody reads the output any more.
  void stop() { m_stop.request_stop(); }

 private:
  void watch();

  std::stop_source m_stop;
  int m_signals = -1;  // reading end of the pipe that the signal handler writes to
  std::thread m_watcher;
};

}  // namespace lectern::app
