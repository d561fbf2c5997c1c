// SPDX-License-Identifier: GPL-3.0-or-later
#include "child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>

namespace lectern::app {

void Descriptor::reset() {
  if (m_value >= 0) close(m_value);
  m_value = -1;
}

Descriptor movedUp(Descriptor low) { return Descriptor(fcntl(low.get(), F_DUPFD_CLOEXEC, 16)); }

StopSignal::StopSignal(std::stop_token stop)
    : m_event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), m_callback(std::move(stop), Raise{m_event.get()}) {}

void StopSignal::Raise::operator()() const {
  const std::uint64_t one = 1;
  static_cast<void>(!write(event, &one, sizeof one));
}

SpawnPlan::SpawnPlan(ChildErrors errors) {
  posix_spawn_file_actions_init(&m_actions);
  posix_spawnattr_init(&m_attributes);
  sigset_t none, standard;
  sigemptyset(&none);
  sigfillset(&standard);
  posix_spawnattr_setsigmask(&m_attributes, &none);
  posix_spawnattr_setsigdefault(&m_attributes, &standard);
  posix_spawnattr_setpgroup(&m_attributes, 0);
  posix_spawnattr_setflags(&m_attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  posix_spawn_file_actions_addopen(&m_actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (errors == ChildErrors::kDiscarded) {
    posix_spawn_file_actions_addopen(&m_actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  }
}

SpawnPlan::~SpawnPlan() {
  posix_spawn_file_actions_destroy(&m_actions);
  posix_spawnattr_destroy(&m_attributes);
}

void SpawnPlan::place(const Descriptor& ours, int theirs) {
  posix_spawn_file_actions_adddup2(&m_actions, ours.get(), theirs);
}

void SpawnPlan::closeFrom(int first) { posix_spawn_file_actions_addclosefrom_np(&m_actions, first); }

int SpawnPlan::start(const std::filesystem::path& program, std::vector<std::string> arguments, pid_t& child) const {
  return start(program, std::move(arguments), environ, child);
}

int SpawnPlan::startIsolated(const std::filesystem::path& program, std::vector<std::string> arguments,
                             pid_t& child) const {
  std::string locale = "LC_ALL=C.UTF-8";
  const std::array<char*, 2> environment = {locale.data(), nullptr};
  return start(program, std::move(arguments), environment.data(), child);
}

int SpawnPlan::start(const std::filesystem::path& program, std::vector<std::string> arguments, char* const* environment,
                     pid_t& child) const {
  std::string name = program.string();
  std::vector<char*> argv = {name.data()};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  return posix_spawn(&child, program.c_str(), &m_actions, &m_attributes, argv.data(), environment);
}

int Child::end() {
  kill(m_id, SIGKILL);
  return reap(0);
}

int Child::waitUntil(Clock::time_point deadline) {
  while (Clock::now() < deadline) {
    const int status = reap(WNOHANG);
    if (m_id <= 0) return status;
    poll(nullptr, 0, 1);
  }
  return end();
}

int Child::reap(int options) {
  int status = 0;
  pid_t got = 0;
  do {
    got = waitpid(m_id, &status, options);
  } while (got < 0 && errno == EINTR);
  if (got != 0) m_id = 0;
  return status;
}

}  // namespace lectern::app
