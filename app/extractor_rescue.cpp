// SPDX-License-Identifier: GPL-3.0-or-later
#include "extractor_rescue.h"

#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "retrieval/extract.h"

namespace lectern::app {
namespace {

constexpr std::array kRescueSignals = {SIGPROF, SIGXCPU, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};

// What a handler may read. Changed only while the signals are blocked.
struct ReadyMessage {
  const char* head = nullptr;
  std::size_t headSize = 0;
  const char* pages = nullptr;
  std::size_t pagesSize = 0;
};
ReadyMessage readyMessage;

// Sanitizers replace _exit by something that opens files.
void leave(int status) { syscall(SYS_exit_group, status); }

void writeAll(const char* bytes, std::size_t size) {
  while (size > 0) {
    const ssize_t written = write(STDOUT_FILENO, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) leave(1);
    bytes += written;
    size -= static_cast<std::size_t>(written);
  }
}

// Runs on its own stack and calls only what is safe at any moment.
void sendWhatIsReady(int number) {
  if (readyMessage.head == nullptr) {
    const int cause = number == SIGPROF ? SIGXCPU : number;  // what the parent reads as "too much time"
    signal(cause, SIG_DFL);
    raise(cause);
    return;
  }
  writeAll(readyMessage.head, readyMessage.headSize);
  writeAll(readyMessage.pages, readyMessage.pagesSize);
  leave(0);
}

sigset_t rescueSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : kRescueSignals) sigaddset(&signals, number);
  return signals;
}

}  // namespace

PageRescue::PageRescue(std::chrono::milliseconds pageTime) : m_pageTime(pageTime) {
  alignas(16) static std::array<char, 65536> stack;
  stack_t place{};
  place.ss_sp = stack.data();
  place.ss_size = stack.size();
  sigaltstack(&place, nullptr);
  struct sigaction action {};
  action.sa_handler = sendWhatIsReady;
  action.sa_flags = SA_ONSTACK;
  action.sa_mask = rescueSignals();
  for (const int number : kRescueSignals) sigaction(number, &action, nullptr);
  startClock();
}

PageRescue::~PageRescue() { finish(); }

void PageRescue::addPage(const retrieval::ExtractedPage& page, std::size_t pageCount) {
  const sigset_t signals = rescueSignals();
  sigset_t before;
  sigprocmask(SIG_BLOCK, &signals, &before);
  readyMessage = {};
  ++m_done;
  retrieval::append_encoded_page(m_pages, page);
  retrieval::ExtractedDocument partial;
  partial.kind = retrieval::DocumentKind::kPdf;
  const std::string next = std::to_string(m_done + 1);
  partial.warnings = {m_done + 1 < pageCount ? "pages " + next + " to " + std::to_string(pageCount) +
                                                   " not read: page " + next + " takes too much time or memory"
                                             : "page " + next + " not read: it takes too much time or memory"};
  m_head = retrieval::encode_head(partial, m_done);
  if (m_done < pageCount) readyMessage = {m_head.data(), m_head.size(), m_pages.data(), m_pages.size()};
  startClock();
  sigprocmask(SIG_SETMASK, &before, nullptr);
}

void PageRescue::finish() {
  const itimerval none{};
  setitimer(ITIMER_PROF, &none, nullptr);
  for (const int number : kRescueSignals) signal(number, SIG_DFL);
  readyMessage = {};
}

void PageRescue::startClock() const {
  itimerval timer{};
  timer.it_value.tv_sec = m_pageTime.count() / 1000;
  timer.it_value.tv_usec = m_pageTime.count() % 1000 * 1000;
  setitimer(ITIMER_PROF, &timer, nullptr);
}

}  // namespace lectern::app
