// SPDX-License-Identifier: GPL-3.0-or-later
// lectern-engine: runs a model for the desktop, in a process of its own because a device context that has failed cannot
// be repaired. What it is given is written nowhere but into the session files that the desktop asks for.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>

#include "engine_protocol.h"
#include "engine_service.h"

namespace lectern::app {
namespace {

// That the desktop is gone is known by the end of the socket, whatever ended it. (PR_SET_PDEATHSIG would also fire when
// no more than the thread ends that started us.)
bool isSocket(int descriptor) {
  int domain = 0;
  socklen_t length = sizeof domain;
  return getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX;
}

// When memory runs out, this process goes first, and the window stays.
void volunteerForLackOfMemory() {
  const int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  static_cast<void>(!write(file, "500", 3));
  close(file);
}

}  // namespace
}  // namespace lectern::app

int main() {
  using namespace lectern::app;
  if (!isSocket(kEngineDescriptor)) {
    std::fputs("lectern-engine is started by the program lectern; use that, or lectern-cli.\n", stderr);
    return kEngineBadRequest;
  }
  fcntl(kEngineDescriptor, F_SETFD, FD_CLOEXEC);
  constexpr rlimit kNoCore = {0, 0};  // documents are not left behind in a core file
  setrlimit(RLIMIT_CORE, &kNoCore);
  volunteerForLackOfMemory();
  EngineService service(kEngineDescriptor);
  service.run();
}
