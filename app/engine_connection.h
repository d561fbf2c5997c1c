// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "child_process.h"
#include "engine_protocol.h"
#include "retrieval/result.h"

namespace lectern::app {

// A running lectern-engine and the socket to it. Destroying it ends the process.
class EngineConnection {
 public:
  using Clock = std::chrono::steady_clock;

  enum class Event {
    kDone,       // received or sent
    kStopped,    // `stopEvent` became readable
    kDeadline,   // has passed
    kEnded,      // the process has closed the socket, which it does when it ends
    kMalformed,  // what came is no message
  };

  // Errors: kNotFound when the program cannot be started.
  static retrieval::Result<std::unique_ptr<EngineConnection>> start(const std::filesystem::path& program);

  EngineConnection(pid_t child, Descriptor socket) : m_child(child), m_socket(std::move(socket)) {}

  // Waits for the next message; a `stopEvent` of -1 never comes.
  Event receive(EngineMessage& message, int stopEvent, Clock::time_point deadline);
  Event send(const std::string& encoded, int stopEvent, Clock::time_point deadline);

  // Whether the process waits for a request, as far as is known without waiting.
  bool idle() const;
  pid_t process() const { return m_child.id(); }

  // Closes the socket, gives the process until `deadline` to end by itself, and returns its wait status. The last call.
  int end(Clock::time_point deadline);

 private:
  Event waitFor(short events, int stopEvent, Clock::time_point deadline) const;

  Child m_child;
  Descriptor m_socket;
  MessageStream m_stream;
};

}  // namespace lectern::app
