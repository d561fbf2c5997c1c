// SPDX-License-Identifier: GPL-3.0-or-later
#include "interrupt.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

namespace lectern::app {
namespace {

sigset_t stopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  return set;
}

[[noreturn]] void dieOf(int signal) {
  std::signal(signal, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  raise(signal);
  _exit(128 + signal);
}

}  // namespace

Interrupt::Interrupt() {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of write(), told by Terminal
  const sigset_t set = stopSignals();
  m_signals = signalfd(-1, &set, SFD_CLOEXEC);
  if (m_signals < 0 || pipe2(m_wake, O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "watching for Ctrl+C");
  }
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  m_watcher = std::thread([this] { watch(); });
}

Interrupt::~Interrupt() {
  close(m_wake[1]);
  m_watcher.join();
  close(m_wake[0]);
  close(m_signals);
}

void Interrupt::watch() {
  pollfd waits[2] = {{m_signals, POLLIN, 0}, {m_wake[0], POLLIN, 0}};
  for (;;) {
    if (poll(waits, 2, -1) < 0 && errno != EINTR) return;
    if (waits[1].revents != 0) return;
    signalfd_siginfo info{};
    if ((waits[0].revents & POLLIN) == 0 || read(m_signals, &info, sizeof info) != sizeof info) continue;
    if (m_signalled.exchange(true)) dieOf(static_cast<int>(info.ssi_signo));
    m_stop.request_stop();
  }
}

}  // namespace lectern::app
