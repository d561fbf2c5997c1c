// SPDX-License-Identifier: GPL-3.0-or-later
#include "interrupt.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>

namespace lectern::app {
namespace {

constexpr std::array<int, 3> kStopSignals = {SIGINT, SIGTERM, SIGHUP};
constexpr char kSignalled = 's';
constexpr char kClosing = 'c';

int g_pipe = -1;  // what a signal handler can reach
volatile std::sig_atomic_t g_signalled = 0;

// Runs on any thread: libraries start their own before main() and take signals there, so blocking would not do.
void onSignal(int signal) {
  const int error = errno;
  if (g_signalled != 0) {
    std::signal(signal, SIG_DFL);
    raise(signal);
  }
  g_signalled = 1;
  static_cast<void>(!write(g_pipe, &kSignalled, 1));
  errno = error;
}

}  // namespace

Interrupt::Interrupt() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "watching for Ctrl+C");
  }
  m_signals = ends[0];
  g_pipe = ends[1];
  m_watcher = std::thread([this] { watch(); });

  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of write(), told by Terminal
  struct sigaction action = {};
  action.sa_handler = onSignal;
  action.sa_flags = SA_RESTART | SA_NODEFER;
  for (const int signal : kStopSignals) {
    struct sigaction before = {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);  // nohup ignores SIGHUP
  }
}

Interrupt::~Interrupt() {
  for (const int signal : kStopSignals) std::signal(signal, SIG_DFL);
  static_cast<void>(!write(g_pipe, &kClosing, 1));
  m_watcher.join();
  close(g_pipe);
  close(m_signals);
}

// request_stop() runs callbacks and takes locks, which a signal handler must not.
void Interrupt::watch() {
  for (;;) {
    char event = 0;
    const ssize_t size = read(m_signals, &event, 1);
    if (size < 0 && errno == EINTR) continue;
    if (size != 1 || event == kClosing) return;
    m_stop.request_stop();
  }
}

}  // namespace lectern::app
