// SPDX-License-Identifier: Apache-2.0
// The engine from a terminal, through its public headers only. Replies go to stdout, everything else to stderr.
#include <charconv>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace {

using namespace lectern::engine;

constexpr const char* kUsage =
    "usage: engine_cli devices\n"
    "       engine_cli info MODEL [options]\n"
    "       engine_cli tokens MODEL TEXT\n"
    "       engine_cli generate MODEL PROMPT [options]\n"
    "       engine_cli score MODEL TEXT_FILE [options]\n"
    "options: --device cpu|cuda   --threads N       --context N   --chunk N\n"
    "         --max N             --temperature X   --top-k N     --top-p X   --min-p X   --seed N\n"
    "         --system TEXT       --stop TEXT       --thinking 0|1\n";

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

volatile std::sig_atomic_t interrupted = 0;

struct Arguments {
  std::vector<std::string> words;
  std::map<std::string, std::string, std::less<>> options;
  bool valid = true;

  Arguments(int count, char** values) {
    for (int i = 1; i < count; ++i) {
      const std::string word = values[i];
      if (!word.starts_with("--")) {
        words.push_back(word);
      } else if (i + 1 < count) {
        options[word.substr(2)] = values[++i];
      } else {
        valid = false;
      }
    }
  }

  std::string text(std::string_view name) const {
    const auto option = options.find(name);
    return option == options.end() ? std::string() : option->second;
  }

  template <class Number>
  void number(std::string_view name, Number& value) {
    const auto option = options.find(name);
    if (option == options.end()) return;
    const char* end = option->second.data() + option->second.size();
    const auto parsed = std::from_chars(option->second.data(), end, value);
    valid = valid && parsed.ec == std::errc() && parsed.ptr == end;
  }
};

class TerminalSink final : public GenerationSink {
 public:
  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    std::fprintf(stderr, "\rprompt %lld of %lld tokens, %.1f s%s", static_cast<long long>(done),
                 static_cast<long long>(total), seconds, done == total ? "\n" : "");
  }
  void on_text(std::string_view piece) override { write(stdout, piece); }
  void on_reasoning(std::string_view piece) override { write(stderr, piece); }

 private:
  static void write(std::FILE* file, std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), file);
    std::fflush(file);
  }
};

int fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message.c_str());
  return kExitFailure;
}

int devices() {
  for (const DeviceInfo& device : list_devices()) {
    std::printf("%s  %s  %.1f GiB  %s\n", device.kind == DeviceKind::kCpu ? "cpu " : "cuda", device.name.c_str(),
                static_cast<double>(device.memory_bytes) / (1U << 30U),
                device.usable ? "usable" : device.reason.c_str());
  }
  return 0;
}

EngineOptions engine_options(Arguments& arguments) {
  EngineOptions options;
  if (arguments.text("device") == "cuda") options.device = DeviceKind::kCuda;
  arguments.number("threads", options.threads);
  arguments.number("context", options.context_tokens);
  arguments.number("chunk", options.prefill_chunk_tokens);
  return options;
}

GenerationRequest generation_request(Arguments& arguments) {
  GenerationRequest request;
  arguments.number("max", request.max_new_tokens);
  arguments.number("temperature", request.sampling.temperature);
  arguments.number("top-k", request.sampling.top_k);
  arguments.number("top-p", request.sampling.top_p);
  arguments.number("min-p", request.sampling.min_p);
  arguments.number("seed", request.sampling.seed);
  int thinking = 0;
  arguments.number("thinking", thinking);
  request.thinking = thinking != 0;
  if (const std::string stop = arguments.text("stop"); !stop.empty()) request.stop_texts.push_back(stop);
  if (const std::string system = arguments.text("system"); !system.empty()) {
    request.messages.push_back({"system", system});
  }
  if (arguments.words.size() > 2) request.messages.push_back({"user", arguments.words[2]});
  return request;
}

int info(const Engine& engine) {
  const ModelInfo& model = engine.info();
  std::printf("name        %s\n", model.name.c_str());
  std::printf("type        %s, %lld layers%s\n", model.architecture.c_str(), static_cast<long long>(model.layers),
              model.has_mtp ? ", with draft head" : "");
  std::printf("parameters  %lld\n", static_cast<long long>(model.parameters));
  std::printf("weights     %.1f MiB\n", static_cast<double>(model.weight_bytes) / (1U << 20U));
  std::printf("context     %lld tokens\n", static_cast<long long>(model.context_tokens));
  std::printf("vocabulary  %d tokens\n", engine.tokenizer().size());
  return 0;
}

int tokens(const std::string& model, const std::string& text) {
  const auto tokenizer = Tokenizer::load(model);
  if (!tokenizer.ok()) return fail(tokenizer.error());
  for (const TokenId token : (*tokenizer)->encode(text, Tokenizer::SpecialTokens::kRecognise)) {
    const std::string_view bytes = (*tokenizer)->token_bytes(token);
    std::printf("%d\t%.*s\n", token, static_cast<int>(bytes.size()), bytes.data());
  }
  return 0;
}

int generate(Engine& engine, const GenerationRequest& request) {
  std::signal(SIGINT, [](int) { interrupted = 1; });
  std::stop_source stop;
  const std::jthread watcher([&stop](const std::stop_token& done) {
    while (!done.stop_requested()) {
      if (interrupted != 0) stop.request_stop();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  TerminalSink sink;
  const auto result = engine.generate(request, sink, stop.get_token());
  if (!result.ok()) return fail(result.error());
  const GenerationStatistics& statistics = result->statistics;
  constexpr const char* kReasons[] = {"stop", "length", "cancelled"};
  std::fprintf(
      stderr, "\n%s: prompt %lld tokens in %.2f s, reply %lld tokens in %.2f s (%.1f tokens/s)\n",
      kReasons[static_cast<int>(result->finish)], static_cast<long long>(statistics.prompt_tokens),
      statistics.prefill_seconds, static_cast<long long>(statistics.generated_tokens), statistics.decode_seconds,
      statistics.decode_seconds > 0 ? static_cast<double>(statistics.generated_tokens) / statistics.decode_seconds
                                    : 0.0);
  return 0;
}

int score(Engine& engine, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) return fail({ErrorCode::kNotFound, path + " cannot be read."});
  const std::vector<TokenId> tokens = engine.tokenizer().encode(text, Tokenizer::SpecialTokens::kIgnore);
  const auto scores = engine.score(tokens, {});
  if (!scores.ok()) return fail(scores.error());
  const double sum = std::accumulate(scores->begin(), scores->end(), 0.0);
  const double mean = sum / static_cast<double>(scores->size());
  std::printf("tokens %zu  log probability %.6f  mean %.6f  perplexity %.4f\n", tokens.size(), sum, mean,
              std::exp(-mean));
  return 0;
}

}  // namespace

int main(int count, char** values) {
  Arguments arguments(count, values);
  const EngineOptions options = engine_options(arguments);
  const GenerationRequest request = generation_request(arguments);
  const std::string command = arguments.words.empty() ? "" : arguments.words[0];
  const std::size_t words = arguments.words.size();
  if (arguments.valid && command == "devices" && words == 1) return devices();
  if (arguments.valid && command == "tokens" && words == 3) return tokens(arguments.words[1], arguments.words[2]);
  const bool opens = (command == "info" && words == 2) || ((command == "generate" || command == "score") && words == 3);
  if (!arguments.valid || !opens) {
    std::fputs(kUsage, stderr);
    return kExitUsage;
  }
  const auto engine = Engine::open(arguments.words[1], options);
  if (!engine.ok()) return fail(engine.error());
  if (command == "info") return info(**engine);
  return command == "score" ? score(**engine, arguments.words[2]) : generate(**engine, request);
}
