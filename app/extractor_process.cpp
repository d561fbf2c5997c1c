// SPDX-License-Identifier: GPL-3.0-or-later
#include "extractor_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <string_view>
#include <utility>
#include <vector>

#include "child_process.h"

namespace lectern::app {
namespace {

using Clock = std::chrono::steady_clock;
using retrieval::Error;
using retrieval::ErrorCode;
using retrieval::Result;

// Where the program finds the document.
constexpr int kDocumentDescriptor = 3;

enum class ReadingEnd { kComplete, kStopped, kDeadline, kTooMuch, kFailed };

int millisecondsUntil(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left + 1, 0, 1'000'000));
}

ReadingEnd readAll(int pipe, int stopEvent, Clock::time_point deadline, std::size_t limit, std::string& bytes) {
  std::vector<char> buffer(1U << 18);
  for (;;) {
    std::array<pollfd, 2> watched = {{{pipe, POLLIN, 0}, {stopEvent, POLLIN, 0}}};
    const int ready = poll(watched.data(), watched.size(), millisecondsUntil(deadline));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return ReadingEnd::kFailed;
    if (watched[1].revents != 0) return ReadingEnd::kStopped;
    if (Clock::now() >= deadline) return ReadingEnd::kDeadline;
    if (watched[0].revents == 0) continue;
    const ssize_t got = read(pipe, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ReadingEnd::kFailed;
    if (got == 0) return ReadingEnd::kComplete;
    if (bytes.size() + static_cast<std::size_t>(got) > limit) return ReadingEnd::kTooMuch;
    bytes.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

struct Answer {
  ReadingEnd end = ReadingEnd::kFailed;
  int status = 0;  // as waitpid reports it
  std::string bytes;
};

Error noProgram(const std::filesystem::path& program, int cause) {
  return {ErrorCode::kNotFound, "The document reader " + program.string() + " cannot be started (" +
                                    std::strerror(cause) + "); install Lectern again."};
}

// Runs the program with `document` (when valid) on descriptor 3 and collects what it prints.
Result<Answer> runProgram(const std::filesystem::path& program, std::vector<std::string> arguments,
                          const Descriptor& document, const ExtractorProcessLimits& limits, std::stop_token stop) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return noProgram(program, errno);
  const Descriptor readEnd(ends[0]);
  Descriptor writeEnd = movedUp(Descriptor(ends[1]));
  if (!writeEnd.valid()) return noProgram(program, errno);

  SpawnPlan plan(ChildErrors::kDiscarded);
  plan.place(writeEnd, STDOUT_FILENO);
  if (document.valid()) plan.place(document, kDocumentDescriptor);
  plan.closeFrom(document.valid() ? kDocumentDescriptor + 1 : kDocumentDescriptor);
  const StopSignal stopSignal(std::move(stop));
  const Clock::time_point deadline = Clock::now() + limits.deadline;
  pid_t id = 0;
  if (const int cause = plan.startIsolated(program, std::move(arguments), id); cause != 0)
    return noProgram(program, cause);
  Child child(id);
  writeEnd.reset();

  Answer answer;
  answer.end = readAll(readEnd.get(), stopSignal.get(), deadline, limits.answerBytes, answer.bytes);
  const bool finished = answer.end == ReadingEnd::kComplete;
  answer.status = finished ? child.waitUntil(std::min(deadline, Clock::now() + std::chrono::seconds(2))) : child.end();
  return answer;
}

Error crashError(const std::string& name, int status) {
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (signal == SIGXCPU || signal == SIGKILL) {
    return {ErrorCode::kUnreadable,
            name + " takes too much time or memory to read; save it again with another program."};
  }
  if (signal == SIGSYS) {
    return {ErrorCode::kUnreadable,
            name + " made its reader try something forbidden; it may be built to do harm, so leave it out."};
  }
  return {ErrorCode::kUnreadable,
          name + " made its reader fail; it is damaged or built to do harm, so leave it out or add a repaired copy."};
}

Result<retrieval::ExtractedDocument> interpret(const std::string& name, const Answer& answer) {
  switch (answer.end) {
    case ReadingEnd::kStopped:
      return Error{ErrorCode::kCancelled, "Reading " + name + " was stopped."};
    case ReadingEnd::kDeadline:
      return Error{ErrorCode::kUnreadable, name + " takes too long to read; save it again with another program."};
    case ReadingEnd::kTooMuch:
      return Error{ErrorCode::kTooLarge, name + " holds more text than can be read; split it first."};
    case ReadingEnd::kFailed:
    case ReadingEnd::kComplete:
      break;
  }
  if (answer.end == ReadingEnd::kFailed || !WIFEXITED(answer.status) || WEXITSTATUS(answer.status) != 0) {
    return crashError(name, answer.status);
  }
  Result<retrieval::ExtractedDocument> document = retrieval::decode_extraction(answer.bytes);
  if (document.ok() || document.error().message.find(name) != std::string::npos) return document;
  return Error{document.error().code, name + ": " + document.error().message};
}

}  // namespace

ExtractorProcess::ExtractorProcess(std::filesystem::path program, ExtractorProcessLimits limits)
    : m_program(std::move(program)), m_limits(limits) {}

Result<retrieval::ExtractedDocument> ExtractorProcess::extract(const std::filesystem::path& file,
                                                               std::stop_token stop) {
  try {
    const std::string name = retrieval::shown_name(file);
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "Reading " + name + " was stopped."};
    RETRIEVAL_TRY(const int opened, retrieval::open_document(file, m_limits.document));
    const Descriptor document = movedUp(Descriptor(opened));
    if (!document.valid()) return noProgram(m_program, errno);
    RETRIEVAL_TRY(const Answer answer, runProgram(m_program,
                                                  {"--name", file.filename().string(), "--page-milliseconds",
                                                   std::to_string(m_limits.pageTime.count())},
                                                  document, m_limits, std::move(stop)));
    return interpret(name, answer);
  } catch (const std::exception& problem) {
    return Error{ErrorCode::kTooLarge, retrieval::shown_name(file) + " cannot be read (" + problem.what() +
                                           "); close other programs and try again."};
  }
}

Result<std::string> ExtractorProcess::selfTest() {
  try {
    ExtractorProcessLimits limits;
    limits.deadline = std::chrono::seconds(20);
    limits.answerBytes = 65536;
    RETRIEVAL_TRY(Answer answer, runProgram(m_program, {"--self-test"}, Descriptor(), limits, {}));
    if (answer.end == ReadingEnd::kComplete && WIFEXITED(answer.status) && WEXITSTATUS(answer.status) == 0) {
      return std::move(answer.bytes);
    }
    return Error{ErrorCode::kPermission,
                 "Documents are not read in full confinement on this system: " + answer.bytes +
                     " Use a kernel with seccomp and Landlock, or add only documents that you trust."};
  } catch (const std::exception& problem) {
    return Error{ErrorCode::kPermission, std::string("The document reader cannot be tested (") + problem.what() +
                                             "); close other programs and try again."};
  }
}

}  // namespace lectern::app
