// SPDX-License-Identifier: GPL-3.0-or-later
// A program run as a child: what it inherits, when it ends, and nothing left of it afterwards.
#pragma once

#include <spawn.h>
#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

namespace lectern::app {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int value) : m_value(value) {}
  Descriptor(Descriptor&& other) noexcept : m_value(std::exchange(other.m_value, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(m_value, other.m_value);
    return *this;
  }
  ~Descriptor() { reset(); }

  int get() const { return m_value; }
  bool valid() const { return m_value >= 0; }
  void reset();

 private:
  int m_value = -1;
};

// A copy above the numbers that the child uses, so that placing one descriptor cannot overwrite another.
Descriptor movedUp(Descriptor low);

// Becomes readable when a stop is requested.
class StopSignal {
 public:
  explicit StopSignal(std::stop_token stop);
  int get() const { return m_event.get(); }

 private:
  struct Raise {
    int event;
    void operator()() const;
  };
  Descriptor m_event;
  std::stop_callback<Raise> m_callback;
};

enum class ChildErrors { kDiscarded, kInherited };  // where standard error goes

// The child gets an own process group, because Ctrl-C in the terminal is for us and we pass it on as a stop; standard
// signal handling; /dev/null as standard input; and the descriptors placed here.
class SpawnPlan {
 public:
  explicit SpawnPlan(ChildErrors errors);
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
  ~SpawnPlan();

  void place(const Descriptor& ours, int theirs);
  void closeFrom(int first);

  // With our environment, or with no more than a locale. 0, or the error number.
  int start(const std::filesystem::path& program, std::vector<std::string> arguments, pid_t& child) const;
  int startIsolated(const std::filesystem::path& program, std::vector<std::string> arguments, pid_t& child) const;

 private:
  int start(const std::filesystem::path& program, std::vector<std::string> arguments, char* const* environment,
            pid_t& child) const;

  posix_spawn_file_actions_t m_actions;
  posix_spawnattr_t m_attributes;
};

// A running child; destroying it ends and reaps the child.
class Child {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Child(pid_t id) : m_id(id) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (m_id > 0) static_cast<void>(end());
  }

  pid_t id() const { return m_id; }

  // The functions below return the child's wait status.

  // Kills the child when it has not ended by itself yet.
  int end();
  // Gives the child until `deadline` to end by itself.
  int waitUntil(Clock::time_point deadline);

 private:
  int reap(int options);

  pid_t m_id;
};

}  // namespace lectern::app
