// SPDX-License-Identifier: GPL-3.0-or-later
// How lectern-extract gives up its rights before it reads an untrusted document. Linux only.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace lectern::app {

// Which layers are in force. A kernel that lacks one still has the others.
struct Confinement {
  bool resourceLimits = false;
  bool noNewPrivileges = false;
  int landlockAbi = 0;  // 0: the kernel has no Landlock, or it is switched off
  bool seccomp = false;

  bool complete() const { return resourceLimits && noNewPrivileges && landlockAbi > 0 && seccomp; }
};

// Irrevocably confines this process: afterwards it may compute, read descriptors it holds, write to its pipe, and open
// files beneath `readable` for reading (nothing at all without Landlock). To be called before any thread is started.
Confinement confine(const std::vector<std::filesystem::path>& readable);

// "resource limits, no new privileges, Landlock 7, seccomp", with "no" before what is missing.
std::string describe(const Confinement& confinement);

// Tries in confined copies of this process what must be impossible. Returns the names of the actions that succeeded.
struct EscapeReport {
  int attempts = 0;
  std::vector<std::string> succeeded;
};
EscapeReport tryToEscape(const std::vector<std::filesystem::path>& readable);

}  // namespace lectern::app
