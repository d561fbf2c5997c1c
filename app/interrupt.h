// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <atomic>
#include <stop_token>
#include <thread>

namespace lectern::app {

// Ctrl+C and a polite kill become a stop request; the second one ends the process at once. Construct before any
// other thread starts: they inherit the signal mask.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  std::stop_token token() const { return m_stop.get_token(); }
  bool requested() const { return m_signalled; }

  // Asks for the same stop without a signal, for instance because nobody reads the output any more.
  void stop() { m_stop.request_stop(); }

 private:
  void watch();

  std::stop_source m_stop;
  std::atomic<bool> m_signalled = false;
  int m_wake[2] = {-1, -1};  // pipe that ends the watching thread
  int m_signals = -1;        // signalfd
  std::thread m_watcher;
};

}  // namespace lectern::app
