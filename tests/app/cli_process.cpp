// SPDX-License-Identifier: GPL-3.0-or-later
#include "cli_process.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include <gtest/gtest.h>

namespace lectern::app {
namespace {

constexpr int kCannotStart = 126;

struct Pipe {
  int read = -1;
  int write = -1;
};

Pipe makePipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe2");
  return {ends[0], ends[1]};
}

bool dropOverride() {
  return prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0 &&
         prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0) == 0;
}

[[noreturn]] void becomeProgram(const std::vector<char*>& arguments, const std::string& data, Privilege privilege,
                                int out, int err) {
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  setenv("LECTERN_DATA", data.c_str(), 1);
  if (privilege == Privilege::kNoOverride && geteuid() == 0 && !dropOverride()) _exit(kCannotStart);
  execv(arguments[0], arguments.data());
  _exit(kCannotStart);
}

// False at the end of the stream.
bool append(int& descriptor, std::string& text) {
  std::array<char, 65536> buffer{};
  const ssize_t size = read(descriptor, buffer.data(), buffer.size());
  if (size > 0) {
    text.append(buffer.data(), static_cast<std::size_t>(size));
    return true;
  }
  close(std::exchange(descriptor, -1));
  return false;
}

}  // namespace

nlohmann::json Finished::json() const {
  nlohmann::json parsed = nlohmann::json::parse(out, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << "not JSON: " << out << "\nstderr: " << err;
  return parsed;
}

std::size_t Finished::errorLines() const { return static_cast<std::size_t>(std::count(err.begin(), err.end(), '\n')); }

Finished Cli::run(const std::vector<std::string>& arguments, Privilege privilege) const {
  return start(arguments, privilege).finish();
}

Cli::Running Cli::start(const std::vector<std::string>& arguments, Privilege privilege,
                        const std::string& outputTo) const {
  std::vector<std::string> words = {LECTERN_CLI};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  const Pipe out = makePipe();
  const Pipe err = makePipe();
  const int output = outputTo.empty() ? out.write : open(outputTo.c_str(), O_WRONLY | O_CLOEXEC);
  const pid_t process = fork();
  if (process < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (process == 0) becomeProgram(pointers, m_data.string(), privilege, output, err.write);
  if (output != out.write) close(output);
  close(out.write);
  close(err.write);
  return {process, out.read, err.read};
}

Cli::Running::Running(Running&& other) noexcept
    : m_process(std::exchange(other.m_process, -1)),
      m_out(std::exchange(other.m_out, -1)),
      m_err(std::exchange(other.m_err, -1)),
      m_result(std::move(other.m_result)) {}

Cli::Running::~Running() {
  if (m_process > 0) {
    kill(m_process, SIGKILL);
    waitpid(m_process, nullptr, 0);
  }
  for (const int descriptor : {m_out, m_err}) {
    if (descriptor >= 0) close(descriptor);
  }
}

bool Cli::Running::readMore() {
  std::array<pollfd, 2> waits = {{{m_out, POLLIN, 0}, {m_err, POLLIN, 0}}};
  if (m_out < 0 && m_err < 0) return false;
  if (poll(waits.data(), waits.size(), -1) < 0) return errno == EINTR;
  if (waits[0].revents != 0) append(m_out, m_result.out);
  if (waits[1].revents != 0) append(m_err, m_result.err);
  return true;
}

bool Cli::Running::waitForOutput(const std::string& text) {
  while (m_result.out.find(text) == std::string::npos) {
    if (!readMore()) return false;
  }
  return true;
}

void Cli::Running::signal(int number) const { kill(m_process, number); }

void Cli::Running::closeOutput() { close(std::exchange(m_out, -1)); }

Finished Cli::Running::finish() {
  while (readMore()) {
  }
  int status = 0;
  waitpid(std::exchange(m_process, -1), &status, 0);
  m_result.code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return m_result;
}

std::string readFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool canDropOverride() {
  if (geteuid() != 0) return true;
  const pid_t child = fork();
  if (child == 0) _exit(dropOverride() ? 0 : 1);
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace lectern::app
