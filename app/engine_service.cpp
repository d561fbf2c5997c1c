// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine_service.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>
#include <utility>

namespace lectern::app {
namespace {

constexpr std::size_t kMostWaiting = 8;                          // messages; the other side sends one request at a time
constexpr auto kTimeToFinish = std::chrono::milliseconds(1000);  // a reply that nobody waits for any more

}  // namespace

// Sends the events of a reply as they come, and stops the reply when nobody takes them.
class EngineService::Events final : public engine::GenerationSink {
 public:
  Events(const EngineService& service, std::uint64_t request) : m_service(service), m_request(request) {}

  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    static_cast<void>(m_service.send(PrefillMessage{m_request, done, total, seconds}));
  }
  void on_text(std::string_view piece) override {
    static_cast<void>(m_service.send(TextMessage{m_request, std::string(piece)}));
  }
  void on_reasoning(std::string_view piece) override {
    static_cast<void>(m_service.send(ReasoningMessage{m_request, std::string(piece)}));
  }

 private:
  const EngineService& m_service;
  std::uint64_t m_request;
};

void EngineService::run() {
  send(HelloMessage{});
  std::thread([this] { readMessages(); }).detach();  // for the life of the process
  for (;;) {
    const EngineMessage message = next();
    if (std::holds_alternative<ListDevicesMessage>(message)) send(DevicesMessage{engine::list_devices()});
    if (const auto* opening = std::get_if<OpenMessage>(&message)) open(*opening);
    if (const auto* counting = std::get_if<CountMessage>(&message)) count(*counting);
    if (const auto* asking = std::get_if<GenerateMessage>(&message)) {
      std::stop_token stop;
      {
        const std::lock_guard lock(m_mutex);
        m_generating = true;
        stop = m_stop.get_token();
      }
      generate(*asking, stop);
      const std::lock_guard lock(m_mutex);
      m_generating = false;
      m_changed.notify_all();
    }
  }
}

void EngineService::readMessages() {
  MessageStream stream;
  std::array<char, 1U << 16> buffer;
  bool greeted = false;
  for (;;) {
    const ssize_t got = recv(m_socket, buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) closed(kEngineDone);
    stream.append({buffer.data(), static_cast<std::size_t>(got)});
    for (;;) {
      engine::Result<std::optional<EngineMessage>> message = stream.next();
      if (!message.ok()) closed(kEngineBadRequest);
      if (!message->has_value()) break;
      if (!greeted) {
        const auto* hello = std::get_if<HelloMessage>(&**message);
        if (hello == nullptr || hello->version != kEngineProtocol) closed(kEngineBadRequest);
        greeted = true;
      } else if (!accept(std::move(**message))) {
        closed(kEngineBadRequest);
      }
    }
  }
}

bool EngineService::accept(EngineMessage message) {
  const std::lock_guard lock(m_mutex);
  if (const auto* cancel = std::get_if<CancelMessage>(&message)) {
    if (cancel->request == m_request) m_stop.request_stop();
    return true;
  }
  if (const auto* asking = std::get_if<GenerateMessage>(&message)) {
    m_request = asking->request;
    m_stop = std::stop_source();
  } else if (!std::holds_alternative<OpenMessage>(message) && !std::holds_alternative<CountMessage>(message) &&
             !std::holds_alternative<ListDevicesMessage>(message)) {
    return false;
  }
  if (m_queue.size() >= kMostWaiting) return false;
  m_queue.push_back(std::move(message));
  m_changed.notify_all();
  return true;
}

// Nothing is worth waiting for but the reply being written, whose session may be on its way to the disk.
void EngineService::closed(int exitCode) {
  std::unique_lock lock(m_mutex);
  m_stop.request_stop();
  m_changed.wait_for(lock, kTimeToFinish, [this] { return !m_generating; });
  std::_Exit(exitCode);
}

EngineMessage EngineService::next() {
  std::unique_lock lock(m_mutex);
  m_changed.wait(lock, [this] { return !m_queue.empty(); });
  EngineMessage message = std::move(m_queue.front());
  m_queue.pop_front();
  return message;
}

// When nobody receives it, readMessages() notices that too and ends the process.
bool EngineService::send(const EngineMessage& message) const {
  const engine::Result<std::string> encoded = encodeMessage(message);
  if (!encoded.ok()) return false;
  std::string_view rest = *encoded;
  while (!rest.empty()) {
    const ssize_t sent = ::send(m_socket, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    rest.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

void EngineService::open(const OpenMessage& message) {
  if (m_engine) std::_Exit(kEngineBadRequest);
  engine::LoadObserver observer;
  observer.on_progress = [this](std::int64_t done, std::int64_t total) { send(LoadingMessage{done, total}); };
  engine::Result<std::unique_ptr<engine::Engine>> opened =
      engine::Engine::open(message.model, message.options, observer);
  if (!opened.ok()) {
    send(FailedMessage{0, opened.error()});
    std::_Exit(kEngineNoModel);
  }
  m_engine = std::move(opened).value();
  send(OpenedMessage{m_engine->info()});
}

void EngineService::count(const CountMessage& message) {
  if (!m_engine) std::_Exit(kEngineBadRequest);
  const engine::Result<std::int64_t> tokens = m_engine->count_prompt_tokens(message.messages, message.thinking);
  if (tokens.ok()) {
    send(CountedMessage{message.request, *tokens});
  } else {
    send(FailedMessage{message.request, tokens.error()});
  }
}

void EngineService::generate(const GenerateMessage& message, const std::stop_token& stop) {
  if (!m_engine) std::_Exit(kEngineBadRequest);
  Events events(*this, message.request);
  engine::Result<engine::GenerationResult> result = m_engine->generate(message.generation, events, stop);
  if (result.ok()) {
    if (send(FinishedMessage{message.request, std::move(result).value()})) return;
    result =
        engine::Error{engine::ErrorCode::kInvalidArgument, "The answer is too long to be passed on; ask for less."};
  }
  send(FailedMessage{message.request, result.error()});
  // Nothing of a failed device can be used or even given back: destroying the engine might wait for it for ever.
  if (result.error().code == engine::ErrorCode::kDevice) std::_Exit(kEngineDeviceLost);
}

}  // namespace lectern::app
