// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine_process.h"

#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <exception>
#include <utility>

#include "engine_adapters.h"
#include "engine_service.h"

namespace lectern::app {
namespace {

using namespace std::chrono_literals;
using retrieval::Error;
using retrieval::ErrorCode;
using retrieval::GeneratedText;
using retrieval::Result;

constexpr auto kTimeToEnd = 2s;  // of a process that has closed its socket

constexpr EngineConnection::Clock::time_point kNever = EngineConnection::Clock::time_point::max();

Error cancelled(const std::string& what) { return {ErrorCode::kCancelled, what + " was stopped."}; }

Error generatorFailure(std::string message) { return {ErrorCode::kGenerator, std::move(message)}; }

// What a person can make of a wait status.
std::string endingOf(int status, const std::string& doing) {
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
    return doing +
           " failed because the system ended the engine, as it does when memory runs out; close other programs or "
           "choose a smaller model, then ask again.";
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) {
    return doing +
           " failed because a part of the model's file could not be read any more; fetch the model again if the file "
           "was changed or its disk is failing, then ask again.";
  }
  if (WIFSIGNALED(status)) {
    const char* signal = sigabbrev_np(WTERMSIG(status));
    return doing + " failed because the engine crashed (SIG" + (signal != nullptr ? signal : "?") +
           "); ask again, which opens the model anew.";
  }
  if (WEXITSTATUS(status) == kEngineDeviceLost) {
    return doing + " failed because the graphics device did; ask again, which opens the model anew.";
  }
  return doing + " failed because the engine ended (exit code " + std::to_string(WEXITSTATUS(status)) +
         "); ask again, and install Lectern again if it happens every time.";
}

}  // namespace

// The reply to one request, as it comes.
class EngineProcess::Answer {
 public:
  Answer(std::uint64_t request, retrieval::GeneratorSink& sink) : m_request(request), m_sink(sink) {}

  std::uint64_t request() const { return m_request; }

  // False: this is not part of a reply.
  bool take(const EngineMessage& message) {
    if (const auto* prefill = std::get_if<PrefillMessage>(&message)) return take(*prefill);
    if (const auto* text = std::get_if<TextMessage>(&message)) return take(*text);
    const auto* reasoning = std::get_if<ReasoningMessage>(&message);
    return reasoning != nullptr && reasoning->request == m_request;
  }

  // Of a reply that was stopped.
  GeneratedText partial() && {
    m_text.finish = retrieval::GenerateFinish::kCancelled;
    return std::move(m_text);
  }

  // What the process is doing, as the beginning of a sentence.
  std::string doing() const { return m_text.text.empty() ? "Reading the question" : "Writing the answer"; }

 private:
  bool take(const PrefillMessage& message) {
    if (message.request != m_request || message.done < 0 || message.done > message.total) return false;
    m_text.prompt_tokens = message.total;
    m_text.prefill_seconds = message.seconds;
    if (message.seconds <= 0) m_text.reused_tokens = message.done;
    m_sink.on_prefill(message.done, message.total, message.seconds);
    return true;
  }
  bool take(const TextMessage& message) {
    if (message.request != m_request || message.piece.size() > kLongestEngineMessage - m_text.text.size()) return false;
    m_text.text += message.piece;
    m_sink.on_text(message.piece);
    return true;
  }

  std::uint64_t m_request;
  retrieval::GeneratorSink& m_sink;
  GeneratedText m_text;
};

EngineProcess::EngineProcess(std::filesystem::path program, std::filesystem::path model, engine::EngineOptions options,
                             EngineProcessLimits limits)
    : m_program(std::move(program)), m_model(std::move(model)), m_options(std::move(options)), m_limits(limits) {}

EngineProcess::~EngineProcess() {
  if (m_connection) static_cast<void>(m_connection->end(Clock::now() + kTimeToEnd));
}

Result<std::unique_ptr<EngineProcess>> EngineProcess::open(const std::filesystem::path& program,
                                                           const std::filesystem::path& model,
                                                           const engine::EngineOptions& options, std::stop_token stop,
                                                           EngineProcessLimits limits, const LoadProgress& progress) {
  std::unique_ptr<EngineProcess> process(new EngineProcess(program, model, options, limits));
  RETRIEVAL_CHECK(process->prepare(stop, progress));
  return process;
}

Result<std::vector<engine::DeviceInfo>> EngineProcess::devices(const std::filesystem::path& program,
                                                               std::stop_token stop, EngineProcessLimits limits) {
  const std::string doing = "Looking for graphics cards";
  EngineProcess process(program, {}, {}, limits);
  RETRIEVAL_TRY(process.m_connection, EngineConnection::start(program));
  const StopSignal stopSignal(std::move(stop));
  RETRIEVAL_CHECK(process.greet(stopSignal));
  RETRIEVAL_CHECK(process.send(ListDevicesMessage{}, doing));
  EngineMessage message;
  const Event event = process.m_connection->receive(message, stopSignal.get(), Clock::now() + limits.reply);
  if (event != Event::kDone) return process.lose(event, doing);
  auto* listed = std::get_if<DevicesMessage>(&message);
  if (listed == nullptr) return process.lose(Event::kMalformed, doing);
  return std::move(listed->devices);
}

Result<void> EngineProcess::start(const std::stop_token& stop, const LoadProgress& progress) {
  if (running()) return {};
  RETRIEVAL_CHECK(checkFailures());
  RETRIEVAL_TRY(m_connection, EngineConnection::start(m_program));
  const StopSignal stopSignal(stop);
  RETRIEVAL_CHECK(greet(stopSignal));
  return openModel(stopSignal, progress);
}

// A process that fails again and again is not started again and again.
Result<void> EngineProcess::checkFailures() {
  const Clock::time_point now = Clock::now();
  while (!m_failures.empty() && m_failures.front() + m_limits.failureSpan <= now) m_failures.pop_front();
  if (m_failures.size() < m_limits.failures) return {};
  const auto wait = std::chrono::ceil<std::chrono::seconds>(m_failures.front() + m_limits.failureSpan - now);
  return generatorFailure("The engine has failed " + std::to_string(m_failures.size()) +
                          " times in short order and rests; ask again in " + std::to_string(wait.count()) +
                          " s, or choose another model.");
}

Result<void> EngineProcess::greet(const StopSignal& stop) {
  const std::string doing = "Starting " + m_program.filename().string();
  RETRIEVAL_CHECK(send(HelloMessage{}, doing));
  EngineMessage message;
  const Event event = m_connection->receive(message, stop.get(), Clock::now() + m_limits.greeting);
  if (event != Event::kDone) return lose(event, doing);
  const auto* hello = std::get_if<HelloMessage>(&message);
  if (hello != nullptr && hello->version == kEngineProtocol) return {};
  static_cast<void>(lose(Event::kMalformed, doing));
  return generatorFailure("The program " + m_program.string() + " is of another version; install Lectern again.");
}

Result<void> EngineProcess::openModel(const StopSignal& stop, const LoadProgress& progress) {
  const std::string doing = "Opening the model " + m_model.filename().string();
  RETRIEVAL_CHECK(send(OpenMessage{m_model.string(), m_options}, doing));
  for (;;) {
    EngineMessage message;
    const Event event = m_connection->receive(message, stop.get(), kNever);
    if (event != Event::kDone) return lose(event, doing);
    if (auto* opened = std::get_if<OpenedMessage>(&message)) {
      m_info = std::move(opened->info);
      return {};
    }
    if (const auto* failed = std::get_if<FailedMessage>(&message)) return leave(failed->error);
    const auto* loading = std::get_if<LoadingMessage>(&message);
    const bool sound = loading != nullptr && loading->done >= 0 && loading->done <= loading->total;
    if (!sound) return lose(Event::kMalformed, doing);
    if (progress) progress(loading->done, loading->total);
  }
}

bool EngineProcess::running() {
  if (!m_connection) return false;
  const StopSignal never{std::stop_token()};
  if (m_unfinished) {
    static_cast<void>(finishOldRequest(never, Clock::now()));
    return m_connection != nullptr;
  }
  if (m_connection->idle()) return true;
  EngineMessage message;
  const Event event = m_connection->receive(message, -1, Clock::now());
  static_cast<void>(lose(event == Event::kDone ? Event::kMalformed : event, "Waiting"));
  return false;
}

Result<void> EngineProcess::prepare(const std::stop_token& stop, const LoadProgress& progress) {
  if (m_connection && m_unfinished) {
    RETRIEVAL_CHECK(finishOldRequest(StopSignal(stop), Clock::now() + m_limits.finishing));
    if (m_unfinished) static_cast<void>(lose(Event::kDeadline, "Stopping the last answer"));
  }
  return start(stop, progress);
}

// What still comes of an answer that was stopped. Not an error: the process has ended, or the deadline has passed.
Result<void> EngineProcess::finishOldRequest(const StopSignal& stop, Clock::time_point deadline) {
  struct Nobody final : retrieval::GeneratorSink {
    void on_prefill(std::int64_t, std::int64_t, double) override {}
    void on_text(std::string_view) override {}
  } nobody;
  Answer rest(m_request, nobody);
  for (;;) {
    EngineMessage message;
    Event event = m_connection->receive(message, stop.get(), deadline);
    if (event == Event::kStopped) return cancelled("Waiting for the last answer to end");
    if (event == Event::kDeadline) return {};
    const auto* finished = std::get_if<FinishedMessage>(&message);
    const auto* failed = std::get_if<FailedMessage>(&message);
    if (event == Event::kDone && (finished != nullptr || failed != nullptr)) {
      m_unfinished = false;
      if (failed != nullptr && failed->error.code == engine::ErrorCode::kDevice)
        static_cast<void>(leave(failed->error));
      return {};
    }
    if (event == Event::kDone && rest.take(message)) continue;
    static_cast<void>(lose(event == Event::kDone ? Event::kMalformed : event, "Stopping the last answer"));
    return {};
  }
}

Result<void> EngineProcess::send(const EngineMessage& message, const std::string& doing) {
  const engine::Result<std::string> encoded = encodeMessage(message);
  if (!encoded.ok()) return generatorError(encoded.error());
  const Event event = m_connection->send(*encoded, -1, Clock::now() + m_limits.reply);
  if (event != Event::kDone) return lose(event, doing);
  return {};
}

Result<std::int64_t> EngineProcess::count_tokens(const std::vector<retrieval::ChatMessage>& messages) {
  try {
    Result<std::int64_t> tokens = countOnce(messages);
    // That the process has ended since the last request may show only now, and costs nobody anything yet.
    if (!tokens.ok() && !m_connection) tokens = countOnce(messages);
    return tokens;
  } catch (const std::exception& problem) {
    return generatorFailure(std::string("The question cannot be measured (") + problem.what() +
                            "); close other programs and ask again.");
  }
}

Result<std::int64_t> EngineProcess::countOnce(const std::vector<retrieval::ChatMessage>& messages) {
  RETRIEVAL_CHECK(prepare({}));
  const std::string doing = "Measuring the question";
  RETRIEVAL_CHECK(send(CountMessage{++m_request, toEngine(messages), false}, doing));
  EngineMessage message;
  const Event event = m_connection->receive(message, -1, Clock::now() + m_limits.reply);
  if (event != Event::kDone) return lose(event, doing);
  const auto* counted = std::get_if<CountedMessage>(&message);
  if (counted != nullptr && counted->request == m_request && counted->tokens >= 0) return counted->tokens;
  const auto* failed = std::get_if<FailedMessage>(&message);
  if (failed != nullptr && failed->request == m_request) return generatorError(failed->error);
  return lose(Event::kMalformed, doing);
}

Result<GeneratedText> EngineProcess::generate(const std::vector<retrieval::ChatMessage>& messages,
                                              const retrieval::GenerateOptions& options, retrieval::GeneratorSink& sink,
                                              std::stop_token stop) {
  try {
    Answer answer(m_request + 1, sink);
    const Result<void> ready = prepare(stop);
    if (!ready.ok() && ready.error().code == ErrorCode::kCancelled) return std::move(answer).partial();
    if (!ready.ok()) return ready.error();
    RETRIEVAL_CHECK(send(GenerateMessage{++m_request, toEngine(messages, options)}, answer.doing()));
    m_unfinished = true;
    return receiveAnswer(answer, StopSignal(std::move(stop)));
  } catch (const std::exception& problem) {
    return generatorFailure(std::string("The question cannot be answered (") + problem.what() +
                            "); close other programs and ask again.");
  }
}

Result<GeneratedText> EngineProcess::receiveAnswer(Answer& answer, const StopSignal& stop) {
  int stopEvent = stop.get();
  Clock::time_point deadline = kNever;
  for (;;) {
    EngineMessage message;
    const Event event = m_connection->receive(message, stopEvent, deadline);
    if (event == Event::kStopped) {
      stopEvent = -1;
      deadline = Clock::now() + m_limits.cancelling;
      RETRIEVAL_CHECK(send(CancelMessage{answer.request()}, answer.doing()));
      continue;
    }
    if (event == Event::kDeadline) return std::move(answer).partial();
    if (event != Event::kDone) return lose(event, answer.doing());
    auto* finished = std::get_if<FinishedMessage>(&message);
    if (finished != nullptr && finished->request == answer.request()) {
      m_unfinished = false;
      return fromEngine(std::move(finished->result));
    }
    const auto* failed = std::get_if<FailedMessage>(&message);
    if (failed != nullptr && failed->request == answer.request()) {
      m_unfinished = false;
      return failed->error.code == engine::ErrorCode::kDevice ? leave(failed->error) : generatorError(failed->error);
    }
    if (!answer.take(message)) return lose(Event::kMalformed, answer.doing());
  }
}

Error EngineProcess::lose(Event event, const std::string& doing) {
  const bool byItself = event == Event::kEnded;
  const int status = m_connection->end(byItself ? Clock::now() + kTimeToEnd : Clock::now());
  m_connection.reset();
  m_unfinished = false;
  if (event == Event::kStopped) return cancelled(doing);
  m_failures.push_back(Clock::now());
  if (byItself) return generatorFailure(endingOf(status, doing));
  const std::string cause = event == Event::kMalformed ? "gave an answer that makes no sense" : "did not answer";
  return generatorFailure(doing + " failed because the engine " + cause +
                          "; ask again, and install Lectern again if it happens every time.");
}

Error EngineProcess::leave(const engine::Error& error) {
  static_cast<void>(m_connection->end(Clock::now() + kTimeToEnd));
  m_connection.reset();
  m_unfinished = false;
  if (error.code == engine::ErrorCode::kDevice) m_failures.push_back(Clock::now());
  return generatorError(error);
}

}  // namespace lectern::app
