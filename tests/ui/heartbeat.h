// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QElapsedTimer>
#include <QObject>
#include <QTimer>
#include <algorithm>

namespace lectern::ui::test {

// Beats on the thread of the window; the longest time between two beats is how long it was deaf to the user.
class Heartbeat {
 public:
  Heartbeat() {
    m_timer.setTimerType(Qt::PreciseTimer);
    m_timer.setInterval(2);
    QObject::connect(&m_timer, &QTimer::timeout, &m_timer, [this] {
      m_longest = std::max(m_longest, m_clock.restart());
      ++m_beats;
    });
    m_clock.start();
    m_timer.start();
  }

  qint64 longestGapMs() const { return m_longest; }
  int beats() const { return m_beats; }

 private:
  QTimer m_timer;
  QElapsedTimer m_clock;
  qint64 m_longest = 0;
  int m_beats = 0;
};

// The aim is 16 ms; shared test machines are noisy.
inline constexpr qint64 kLongestGapMs = 250;

}  // namespace lectern::ui::test
