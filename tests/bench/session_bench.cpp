// SPDX-License-Identifier: GPL-3.0-or-later
// Reads a prompt of many tokens, keeps the session in a file, and goes on from it in a second engine, as after a
// restart of the program. Prints one JSON object.
//   session_bench MODEL TOKENS DIRECTORY [THREADS] [ROPE_FACTOR]
#include <sys/resource.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "engine/engine.h"

namespace {

using namespace lectern::engine;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class T>
T value_of(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::exit(1);
}

double peak_mebibytes() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

class Progress final : public GenerationSink {
 public:
  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    if (done / 16384 != reported_)
      std::fprintf(stderr, "%lld of %lld tokens, %.0f s, %.0f MiB\n", static_cast<long long>(done),
                   static_cast<long long>(total), seconds, peak_mebibytes());
    reported_ = done / 16384;
  }

 private:
  std::int64_t reported_ = 0;
};

struct Run {
  GenerationStatistics statistics;
  std::string text;
  double seconds = 0;
};

Run run(const char* model, std::int64_t tokens, const char* directory, int threads, double rope_factor) {
  EngineOptions options;
  options.threads = threads;
  options.rope_factor = rope_factor;
  options.context_tokens = tokens + 64;
  options.sessions.directory = directory;
  const std::unique_ptr<Engine> engine = value_of(Engine::open(model, options));
  GenerationRequest request;
  request.max_new_tokens = 8;
  std::string text;
  const std::int64_t words = tokens / 2;
  for (std::int64_t i = 0; i < words; ++i) text += " " + std::to_string(i * 7919 % 997);
  request.messages = {{"user", text}};
  while (value_of(engine->count_prompt_tokens(request.messages, false)) > tokens) {
    std::string& content = request.messages.front().content;
    content.resize(content.size() - content.size() / 64 - 1);
  }
  Progress progress;
  const auto start = std::chrono::steady_clock::now();
  GenerationResult result = value_of(engine->generate(request, progress, {}));
  return {result.statistics, std::move(result.text), seconds_since(start)};
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) {
    std::fprintf(stderr, "usage: session_bench MODEL TOKENS DIRECTORY [THREADS] [ROPE_FACTOR]\n");
    return 2;
  }
  const std::int64_t tokens = std::atoll(words[2]);
  const int threads = count > 4 ? std::atoi(words[4]) : 0;
  const double rope_factor = count > 5 ? std::atof(words[5]) : 4;
  const Run first = run(words[1], tokens, words[3], threads, rope_factor);
  const double peak = peak_mebibytes();
  const Run second = run(words[1], tokens, words[3], threads, rope_factor);
  std::uintmax_t bytes = 0;
  for (const auto& file : std::filesystem::directory_iterator(words[3])) bytes += file.file_size();
  std::printf(
      "{\"prompt_tokens\":%lld,\"rope_factor\":%.0f,\"prefill_seconds\":%.2f,\"peak_mebibytes\":%.0f,"
      "\"session_files_bytes\":%ju,\"reused_tokens\":%lld,\"second_run_seconds\":%.3f,\"same_text\":%s}\n",
      static_cast<long long>(first.statistics.prompt_tokens), first.statistics.rope_factor,
      first.statistics.prefill_seconds, peak, bytes, static_cast<long long>(second.statistics.reused_tokens),
      second.seconds, first.text == second.text ? "true" : "false");
  return 0;
}
