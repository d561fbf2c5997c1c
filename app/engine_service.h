// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string_view>

#include "engine/engine.h"
#include "engine_protocol.h"

namespace lectern::app {

// Exit codes of lectern-engine.
inline constexpr int kEngineDone = 0;        // the other side has closed the socket
inline constexpr int kEngineNoModel = 1;     // said in a FailedMessage
inline constexpr int kEngineBadRequest = 2;  // the other side does not speak the protocol
inline constexpr int kEngineDeviceLost = 3;  // said in a FailedMessage

// Serves one model over a socket, as engine_protocol.h says. A thread of its own reads, so that a request to stop, or
// the end of the other side, is noticed whatever the engine is doing.
class EngineService {
 public:
  explicit EngineService(int socket) : m_socket(socket) {}

  // Ends the process with one of the codes above.
  [[noreturn]] void run();

 private:
  class Events;

  void readMessages();
  bool accept(EngineMessage message);  // false: not allowed here
  [[noreturn]] void closed(int exitCode);

  EngineMessage next();
  bool send(const EngineMessage& message) const;
  void open(const OpenMessage& message);
  void count(const CountMessage& message);
  void generate(const GenerateMessage& message, const std::stop_token& stop);

  const int m_socket;
  std::unique_ptr<engine::Engine> m_engine;

  std::mutex m_mutex;  // guards what follows
  std::condition_variable m_changed;
  std::deque<EngineMessage> m_queue;
  std::uint64_t m_request = 0;  // whose reply m_stop stops
  std::stop_source m_stop;
  bool m_generating = false;
};

}  // namespace lectern::app
