// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine_connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace lectern::app {
namespace {

using retrieval::Error;
using retrieval::ErrorCode;
using retrieval::Result;

int millisecondsUntil(EngineConnection::Clock::time_point deadline) {
  const auto now = EngineConnection::Clock::now();
  if (deadline <= now) return 0;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now).count();
  return static_cast<int>(std::min<long long>(left, 3'600'000) + 1);
}

Error noProgram(const std::filesystem::path& program, int cause) {
  return {ErrorCode::kNotFound, "The engine " + program.string() + " cannot be started (" + std::strerror(cause) +
                                    "); install Lectern again."};
}

}  // namespace

Result<std::unique_ptr<EngineConnection>> EngineConnection::start(const std::filesystem::path& program) {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) return noProgram(program, errno);
  Descriptor ours(ends[0]);
  const Descriptor theirs = movedUp(Descriptor(ends[1]));
  if (!theirs.valid()) return noProgram(program, errno);
  SpawnPlan plan(ChildErrors::kInherited);
  plan.place(theirs, kEngineDescriptor);
  plan.closeFrom(kEngineDescriptor + 1);
  pid_t child = 0;
  if (const int cause = plan.start(program, {}, child); cause != 0) return noProgram(program, cause);
  return std::make_unique<EngineConnection>(child, std::move(ours));
}

EngineConnection::Event EngineConnection::receive(EngineMessage& message, int stopEvent, Clock::time_point deadline) {
  for (;;) {
    engine::Result<std::optional<EngineMessage>> next = m_stream.next();
    if (!next.ok()) return Event::kMalformed;
    if (next->has_value()) {
      message = std::move(**next);
      return Event::kDone;
    }
    if (const Event event = waitFor(POLLIN, stopEvent, deadline); event != Event::kDone) return event;
    std::array<char, 1U << 14> buffer;
    const ssize_t got = recv(m_socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) return Event::kEnded;
    m_stream.append({buffer.data(), static_cast<std::size_t>(got)});
  }
}

EngineConnection::Event EngineConnection::send(const std::string& encoded, int stopEvent, Clock::time_point deadline) {
  std::string_view rest = encoded;
  while (!rest.empty()) {
    if (const Event event = waitFor(POLLOUT, stopEvent, deadline); event != Event::kDone) return event;
    const ssize_t sent = ::send(m_socket.get(), rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (sent < 0) return Event::kEnded;
    rest.remove_prefix(static_cast<std::size_t>(sent));
  }
  return Event::kDone;
}

bool EngineConnection::idle() const {
  pollfd watched = {m_socket.get(), POLLIN, 0};
  return poll(&watched, 1, 0) == 0;
}

int EngineConnection::end(Clock::time_point deadline) {
  m_socket.reset();
  return m_child.waitUntil(deadline);
}

EngineConnection::Event EngineConnection::waitFor(short events, int stopEvent, Clock::time_point deadline) const {
  for (;;) {
    std::array<pollfd, 2> watched = {{{m_socket.get(), events, 0}, {stopEvent, POLLIN, 0}}};
    const int ready = poll(watched.data(), watched.size(), millisecondsUntil(deadline));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return Event::kEnded;
    if (watched[1].revents != 0) return Event::kStopped;
    if (watched[0].revents != 0) return Event::kDone;
    if (Clock::now() >= deadline) return Event::kDeadline;
  }
}

}  // namespace lectern::app
