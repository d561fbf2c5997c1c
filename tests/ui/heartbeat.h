// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <time.h>

#include <QElapsedTimer>
#include <QObject>
#include <QTimer>
#include <algorithm>

namespace lectern::ui::test {

// Beats on the thread of the window. Between two beats the window is deaf to the user; how long that was is measured
// in wall time, which catches waiting, and in time of the processor, which a busy test machine cannot spoil.
class Heartbeat {
 public:
  Heartbeat() : m_work(workMs()) {
    m_timer.setTimerType(Qt::PreciseTimer);
    m_timer.setInterval(2);
    QObject::connect(&m_timer, &QTimer::timeout, &m_timer, [this] { beat(); });
    m_clock.start();
    m_timer.start();
  }

  double longestGapMs() const { return m_longestGap; }
  double longestWorkMs() const { return m_longestWork; }

 private:
  static double workMs() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
  }

  void beat() {
    const double work = workMs();
    m_longestWork = std::max(m_longestWork, work - m_work);
    m_longestGap = std::max(m_longestGap, static_cast<double>(m_clock.restart()));
    m_work = work;
  }

  QTimer m_timer;
  QElapsedTimer m_clock;
  double m_work;
  double m_longestGap = 0;
  double m_longestWork = 0;
};

// The aim is 16 ms. Sanitizers and slow test machines need room, and a processor shared with other programs more.
inline constexpr double kLongestWorkMs = 100;
inline constexpr double kLongestGapMs = 2000;

}  // namespace lectern::ui::test
