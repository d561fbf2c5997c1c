// SPDX-License-Identifier: GPL-3.0-or-later
#include "extractor_sandbox.h"

#include <fcntl.h>
#include <linux/types.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#ifdef LECTERN_HAVE_SECCOMP
#include <seccomp.h>
#endif

namespace lectern::app {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // shadow memory reserves terabytes of addresses
#else
constexpr bool kSanitized = false;
#endif

bool limit(__rlimit_resource_t resource, rlim_t soft, rlim_t hard) {
  rlimit current{};
  if (getrlimit(resource, &current) != 0) return false;
  const rlimit wanted{std::min(soft, current.rlim_max), std::min(hard, current.rlim_max)};
  return setrlimit(resource, &wanted) == 0;
}

bool limitResources() {
  constexpr rlim_t kMegabyte = 1U << 20;
  bool all = kSanitized || limit(RLIMIT_AS, 1024 * kMegabyte, 1024 * kMegabyte);
  all = limit(RLIMIT_CPU, 120, 125) && all;
  all = limit(RLIMIT_FSIZE, 0, 0) && all;
  all = limit(RLIMIT_NOFILE, 32, 32) && all;
  all = limit(RLIMIT_NPROC, 0, 0) && all;
  all = limit(RLIMIT_CORE, 0, 0) && all;
  return limit(RLIMIT_STACK, 64 * kMegabyte, 64 * kMegabyte) && all;
}

// The kernel's Landlock interface; libc headers of supported systems lack its newer parts.
struct LandlockRules {
  std::uint64_t files;
  std::uint64_t network;  // since ABI 4
  std::uint64_t scopes;   // since ABI 6
};
struct __attribute__((packed)) LandlockPath {
  std::uint64_t allowed;
  std::int32_t directory;
};
constexpr long kLandlockCreate = 444;
constexpr long kLandlockAddRule = 445;
constexpr long kLandlockRestrict = 446;
constexpr unsigned kLandlockVersionFlag = 1;
constexpr int kLandlockPathRule = 1;
constexpr std::uint64_t kReadFile = 1U << 2;
constexpr std::uint64_t kReadDirectory = 1U << 3;

// Every right that the running ABI knows is taken away.
LandlockRules landlockRules(long abi) {
  std::uint64_t files = (1U << 13) - 1;
  if (abi >= 2) files |= 1U << 13;  // linking across directories
  if (abi >= 3) files |= 1U << 14;  // truncation
  if (abi >= 5) files |= 1U << 15;  // device control
  return {files, abi >= 4 ? 3U : 0U, abi >= 6 ? 3U : 0U};
}

int restrictFiles(const std::vector<std::filesystem::path>& readable) {
  const long abi = syscall(kLandlockCreate, nullptr, 0, kLandlockVersionFlag);
  if (abi < 1) return 0;
  const LandlockRules rules = landlockRules(abi);
  const std::size_t size = abi >= 6 ? sizeof rules : abi >= 4 ? offsetof(LandlockRules, scopes) : sizeof rules.files;
  const long ruleset = syscall(kLandlockCreate, &rules, size, 0);
  if (ruleset < 0) return 0;
  for (const std::filesystem::path& directory : readable) {
    const int descriptor = open(directory.c_str(), O_PATH | O_CLOEXEC | O_DIRECTORY);
    if (descriptor < 0) continue;
    const LandlockPath rule{kReadFile | kReadDirectory, descriptor};
    static_cast<void>(syscall(kLandlockAddRule, ruleset, kLandlockPathRule, &rule, 0));
    close(descriptor);
  }
  const bool restricted = syscall(kLandlockRestrict, ruleset, 0) == 0;
  close(static_cast<int>(ruleset));
  return restricted ? static_cast<int>(abi) : 0;
}

#ifdef LECTERN_HAVE_SECCOMP
class Filter {
 public:
  Filter() : m_context(seccomp_init(SCMP_ACT_KILL_PROCESS)), m_good(m_context != nullptr) {}
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;
  ~Filter() {
    if (m_context != nullptr) seccomp_release(m_context);
  }

  void add(std::uint32_t action, int call, std::initializer_list<scmp_arg_cmp> conditions = {}) {
    if (call == __NR_SCMP_ERROR || !m_good) return;
    const int status =
        seccomp_rule_add_array(m_context, action, call, static_cast<unsigned>(conditions.size()), conditions.begin());
    m_good = status == 0;
  }
  void add(std::uint32_t action, std::initializer_list<int> calls) {
    for (const int call : calls) add(action, call);
  }
  bool load() { return m_good && seccomp_load(m_context) == 0; }

 private:
  scmp_filter_ctx m_context;
  bool m_good;
};

scmp_arg_cmp maskedEqual(unsigned argument, std::uint64_t mask, std::uint64_t value) {
  return {argument, SCMP_CMP_MASKED_EQ, mask, value};
}
scmp_arg_cmp equal(unsigned argument, std::uint64_t value) { return {argument, SCMP_CMP_EQ, value, 0}; }

void allowOpening(Filter& filter, bool confinedByLandlock) {
  constexpr std::uint64_t kWriting = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | O_TMPFILE;
  if (!confinedByLandlock) {
    filter.add(SCMP_ACT_ERRNO(EACCES), {SCMP_SYS(openat), SCMP_SYS(open)});
    return;
  }
  // O_TMPFILE contains O_DIRECTORY, which reading a directory needs.
  constexpr std::uint64_t kMask = kWriting & ~static_cast<std::uint64_t>(O_DIRECTORY);
  filter.add(SCMP_ACT_ALLOW, SCMP_SYS(openat), {maskedEqual(2, kMask, O_RDONLY)});
  filter.add(SCMP_ACT_ERRNO(EACCES), {SCMP_SYS(open)});
}

bool filterCalls(bool confinedByLandlock) {
  Filter filter;
  filter.add(SCMP_ACT_ALLOW, {SCMP_SYS(read),
                              SCMP_SYS(pread64),
                              SCMP_SYS(readv),
                              SCMP_SYS(write),
                              SCMP_SYS(writev),
                              SCMP_SYS(lseek),
                              SCMP_SYS(close),
                              SCMP_SYS(fstat),
                              SCMP_SYS(newfstatat),
                              SCMP_SYS(statx),
                              SCMP_SYS(getdents64),
                              SCMP_SYS(munmap),
                              SCMP_SYS(mremap),
                              SCMP_SYS(madvise),
                              SCMP_SYS(brk),
                              SCMP_SYS(futex),
                              SCMP_SYS(rt_sigaction),
                              SCMP_SYS(rt_sigprocmask),
                              SCMP_SYS(rt_sigreturn),
                              SCMP_SYS(clock_gettime),
                              SCMP_SYS(clock_getres),
                              SCMP_SYS(gettimeofday),
                              SCMP_SYS(time),
                              SCMP_SYS(getrandom),
                              SCMP_SYS(getpid),
                              SCMP_SYS(gettid),
                              SCMP_SYS(sysinfo),
                              SCMP_SYS(sched_yield),
                              SCMP_SYS(restart_syscall),
                              SCMP_SYS(setitimer),
                              SCMP_SYS(sigaltstack),
                              SCMP_SYS(exit),
                              SCMP_SYS(exit_group)});
  const auto self = static_cast<std::uint64_t>(getpid());
  filter.add(SCMP_ACT_ALLOW, SCMP_SYS(tgkill), {equal(0, self)});  // abort()
  filter.add(SCMP_ACT_ALLOW, SCMP_SYS(mmap), {maskedEqual(2, PROT_EXEC, 0)});
  filter.add(SCMP_ACT_ALLOW, SCMP_SYS(mprotect), {maskedEqual(2, PROT_EXEC, 0)});
  allowOpening(filter, confinedByLandlock);
  // Harmless questions that libraries ask: they get an answer instead of death.
  filter.add(SCMP_ACT_ERRNO(EACCES), {SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(readlink),
                                      SCMP_SYS(readlinkat), SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(getcwd)});
  filter.add(SCMP_ACT_ERRNO(ENOTTY), {SCMP_SYS(ioctl)});
  filter.add(SCMP_ACT_ERRNO(EPERM),
             {SCMP_SYS(fcntl), SCMP_SYS(prlimit64), SCMP_SYS(getrlimit), SCMP_SYS(getrusage), SCMP_SYS(uname),
              SCMP_SYS(sched_getaffinity), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid)});
  return filter.load();
}
#else
bool filterCalls(bool /*confinedByLandlock*/) { return false; }
#endif

}  // namespace

Confinement confine(const std::vector<std::filesystem::path>& readable) {
  Confinement confinement;
  confinement.noNewPrivileges = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
  confinement.landlockAbi = confinement.noNewPrivileges ? restrictFiles(readable) : 0;
  confinement.resourceLimits = limitResources();
  confinement.seccomp = confinement.noNewPrivileges && filterCalls(confinement.landlockAbi > 0);
  return confinement;
}

std::string describe(const Confinement& confinement) {
  const auto layer = [](bool present, const std::string& name) { return (present ? "" : "no ") + name; };
  const std::string landlock =
      confinement.landlockAbi > 0 ? "Landlock " + std::to_string(confinement.landlockAbi) : "no Landlock";
  return layer(confinement.resourceLimits, "resource limits") + ", " +
         layer(confinement.noNewPrivileges, "no new privileges") + ", " + landlock + ", " +
         layer(confinement.seccomp, "seccomp");
}

}  // namespace lectern::app
