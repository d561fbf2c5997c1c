// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/types.h"
#include "engine_connection.h"
#include "retrieval/ports.h"

namespace lectern::app {

struct EngineProcessLimits {
  std::chrono::milliseconds greeting{30'000};   // from the start of the program to its first word
  std::chrono::milliseconds reply{30'000};      // to what needs no computation of the model
  std::chrono::milliseconds cancelling{120};    // then a stopped answer is taken as it is
  std::chrono::milliseconds finishing{10'000};  // what a stopped computation may take before the process is given up
  std::size_t failures = 3;                     // within `failureSpan`; then it must pass before the next start
  std::chrono::milliseconds failureSpan{60'000};
};

// Bytes of weights loaded, and of all.
using LoadProgress = std::function<void(std::int64_t done, std::int64_t total)>;

// A model in a lectern-engine process. Whatever becomes of that process, such as a failed graphics device, costs one
// request: it ends with an error after the text that had already come, and the next one starts the process anew. No
// call leaves a process behind.
class EngineProcess final : public retrieval::Generator {
 public:
  // Errors: the engine's own (kGenerator), kNotFound when the program is missing, kCancelled.
  static retrieval::Result<std::unique_ptr<EngineProcess>> open(const std::filesystem::path& program,
                                                                const std::filesystem::path& model,
                                                                const engine::EngineOptions& options,
                                                                std::stop_token stop, EngineProcessLimits limits = {},
                                                                const LoadProgress& progress = {});

  // What engine::list_devices() says in a process of its own, because asking a driver can end the one who asks.
  // Errors: kGenerator, kNotFound when the program is missing, kCancelled.
  static retrieval::Result<std::vector<engine::DeviceInfo>> devices(const std::filesystem::path& program,
                                                                    std::stop_token stop,
                                                                    EngineProcessLimits limits = {});
  ~EngineProcess() override;

  const engine::ModelInfo& info() const { return m_info; }

  // Whether the model is open; if not, prepare() or the next request opens it again.
  bool running();
  // Makes the process wait for a request, which may take as long as opening the model. Errors: as open(); kGenerator
  // when the process has failed too often of late.
  retrieval::Result<void> prepare(const std::stop_token& stop, const LoadProgress& progress = {});
  // 0 when it is not running.
  pid_t process() const { return m_connection ? m_connection->process() : 0; }

  std::string model_name() const override { return m_info.name; }
  std::int64_t context_tokens() const override { return m_info.context_tokens; }
  retrieval::Result<std::int64_t> count_tokens(const std::vector<retrieval::ChatMessage>& messages) override;
  // A stop request is obeyed within limits.cancelling, with the text so far.
  retrieval::Result<retrieval::GeneratedText> generate(const std::vector<retrieval::ChatMessage>& messages,
                                                       const retrieval::GenerateOptions& options,
                                                       retrieval::GeneratorSink& sink, std::stop_token stop) override;

 private:
  using Clock = EngineConnection::Clock;
  using Event = EngineConnection::Event;
  class Answer;

  EngineProcess(std::filesystem::path program, std::filesystem::path model, engine::EngineOptions options,
                EngineProcessLimits limits);

  retrieval::Result<void> start(const std::stop_token& stop, const LoadProgress& progress);
  retrieval::Result<void> checkFailures();
  retrieval::Result<void> greet(const StopSignal& stop);
  retrieval::Result<void> openModel(const StopSignal& stop, const LoadProgress& progress);
  retrieval::Result<void> finishOldRequest(const StopSignal& stop, Clock::time_point deadline);
  retrieval::Result<void> send(const EngineMessage& message, const std::string& doing);
  retrieval::Result<std::int64_t> countOnce(const std::vector<retrieval::ChatMessage>& messages);
  retrieval::Result<retrieval::GeneratedText> receiveAnswer(Answer& answer, const StopSignal& stop);

  // Ends what is left of the process; the error says what became of it, in a sentence that begins with `doing`.
  retrieval::Error lose(Event event, const std::string& doing);
  // The same after a FailedMessage that the process ends with.
  retrieval::Error leave(const engine::Error& error);

  const std::filesystem::path m_program;
  const std::filesystem::path m_model;
  const engine::EngineOptions m_options;
  const EngineProcessLimits m_limits;
  engine::ModelInfo m_info;
  std::unique_ptr<EngineConnection> m_connection;  // none while the process does not run
  std::uint64_t m_request = 0;                     // the last one
  bool m_unfinished = false;                       // it was stopped and has not ended yet
  std::deque<Clock::time_point> m_failures;        // within limits.failureSpan
};

}  // namespace lectern::app
