// SPDX-License-Identifier: GPL-3.0-or-later
// What a taken-over document reader would try next. Each attempt runs in its own confined copy of the process, because
// most end in death.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "extractor_sandbox.h"

namespace lectern::app {
namespace {

struct Escape {
  const char* name;
  bool (*succeeds)();  // runs confined
};

bool works(long result) { return result >= 0; }

// Exists and is readable for everybody on any system.
constexpr const char* kCanary = "/etc/passwd";

const std::array kEscapes = {
    Escape{"open another file", [] { return works(open(kCanary, O_RDONLY | O_CLOEXEC)); }},
    Escape{"list a directory", [] { return works(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }},
    Escape{"open a file by /proc", [] { return works(open("/proc/self/environ", O_RDONLY | O_CLOEXEC)); }},
    Escape{"open its own program", [] { return works(open("/proc/self/exe", O_RDONLY | O_CLOEXEC)); }},
    Escape{"create a file", [] { return works(open("/tmp/lectern-escape", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)); }},
    Escape{"create a nameless file", [] { return works(open("/tmp", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600)); }},
    Escape{"make a directory", [] { return works(syscall(SYS_mkdirat, AT_FDCWD, "/tmp/lectern-escape", 0700)); }},
    Escape{"remove a file", [] { return works(syscall(SYS_unlinkat, AT_FDCWD, "/tmp/lectern-escape", 0)); }},
    Escape{"link a file", [] { return works(syscall(SYS_symlinkat, "/", AT_FDCWD, "/tmp/lectern-escape")); }},
    Escape{"truncate a file", [] { return works(syscall(SYS_truncate, "/tmp/lectern-escape", 0)); }},
    Escape{"open an internet socket", [] { return works(socket(AF_INET, SOCK_STREAM, 0)); }},
    Escape{"open an IPv6 socket", [] { return works(socket(AF_INET6, SOCK_DGRAM, 0)); }},
    Escape{"open a local socket", [] { return works(socket(AF_UNIX, SOCK_STREAM, 0)); }},
    Escape{"open a netlink socket", [] { return works(socket(AF_NETLINK, SOCK_RAW, 0)); }},
    Escape{"open a socket pair",
           [] {
             std::array<int, 2> ends{};
             return works(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()));
           }},
    Escape{"start a program",
           [] {
             const std::array<char*, 1> nothing = {nullptr};
             return works(execve("/bin/true", nothing.data(), nothing.data()));
           }},
    Escape{"fork", [] { return works(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr)); }},
    Escape{"enter a new namespace", [] { return works(unshare(CLONE_NEWUSER)); }},
    Escape{"trace its parent", [] { return works(ptrace(PTRACE_SEIZE, getppid(), nullptr, nullptr)); }},
    Escape{"be traced", [] { return works(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr)); }},
    Escape{"signal its parent", [] { return works(kill(getppid(), 0)); }},
    Escape{"read its parent's memory",
           [] { return works(syscall(SYS_process_vm_readv, getppid(), nullptr, 0UL, nullptr, 0UL, 0UL)); }},
    Escape{"make executable memory",
           [] {
             return mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
                    MAP_FAILED;
           }},
    Escape{"make memory executable",
           [] {
             void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
             return page != MAP_FAILED && works(mprotect(page, 4096, PROT_READ | PROT_EXEC));
           }},
    Escape{"make a file in memory", [] { return works(syscall(SYS_memfd_create, "escape", 0)); }},
    Escape{"set up io_uring", [] { return works(syscall(SYS_io_uring_setup, 0, nullptr)); }},
    Escape{"use BPF", [] { return works(syscall(SYS_bpf, 0, nullptr, 0)); }},
    Escape{"handle page faults", [] { return works(syscall(SYS_userfaultfd, 0)); }},
    Escape{"use the keyring", [] { return works(syscall(SYS_keyctl, 0, -3, 0)); }},
    Escape{"change the root directory", [] { return works(chroot("/")); }},
    Escape{"change its user", [] { return works(syscall(SYS_setuid, getuid())); }},
    Escape{"regain core dumps", [] { return works(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)); }},
};

enum AttemptExit { kDenied = 0, kSucceeded = 1 };

bool succeedsInCopy(const Escape& escape, const std::vector<std::filesystem::path>& readable) {
  const pid_t copy = fork();
  if (copy == 0) {
    confine(readable);
    _exit(escape.succeeds() ? kSucceeded : kDenied);
  }
  if (copy < 0) return true;
  int status = 0;
  while (waitpid(copy, &status, 0) < 0 && errno == EINTR) {
  }
  const bool denied = WIFEXITED(status) ? WEXITSTATUS(status) == kDenied : WIFSIGNALED(status);
  return !denied;
}

}  // namespace

EscapeReport tryToEscape(const std::vector<std::filesystem::path>& readable) {
  EscapeReport report;
  for (const Escape& escape : kEscapes) {
    ++report.attempts;
    if (succeedsInCopy(escape, readable)) report.succeeded.emplace_back(escape.name);
  }
  return report;
}

}  // namespace lectern::app
