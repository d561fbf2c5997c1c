// SPDX-License-Identifier: GPL-3.0-or-later
// Prefill and decode speed of a model directory on the CPU, beside the read bandwidth that the machine gives in the
// same run. Prints one JSON object.
//   engine_bench MODEL [--threads N] [--prompt N] [--decode N] [--repeat N]
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/parallel.h"
#include "model/transformer.h"
#include "support/load_transformer.h"

namespace {

using namespace lectern::engine;

struct Options {
  std::string model;
  std::map<std::string, int, std::less<>> numbers = {{"threads", 0}, {"prompt", 2048}, {"decode", 128}, {"repeat", 3}};
};

bool parse(int count, char** words, Options& options) {
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (!word.starts_with("--")) {
      options.model = word;
      continue;
    }
    const auto number = options.numbers.find(word.substr(2));
    if (number == options.numbers.end() || ++i == count) return false;
    const std::string_view text = words[i];
    if (std::from_chars(text.data(), text.data() + text.size(), number->second).ec != std::errc()) return false;
  }
  return !options.model.empty();
}

struct Duration {
  double wall = 0;
  double processor = 0;
};

Duration time_of(const std::function<void()>& action) {
  const std::clock_t processor = std::clock();
  const auto start = std::chrono::steady_clock::now();
  action();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
          static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC};
}

// Best of several passes over memory far larger than the caches, in bytes per second.
double read_bandwidth(int threads) {
  constexpr std::int64_t kWords = std::int64_t{64} << 20;
  constexpr std::int64_t kSlice = std::int64_t{1} << 20;
  const std::vector<std::uint64_t> memory(kWords, 1);
  std::vector<std::uint64_t> sums(kWords / kSlice);
  ThreadTeam team(threads);
  double best = 0;
  for (int pass = 0; pass < 4; ++pass) {
    const double seconds = time_of([&] {
                             team.parallel_for(kWords / kSlice, [&](std::int64_t slice) {
                               std::uint64_t sum[8] = {};
                               const std::uint64_t* words = memory.data() + slice * kSlice;
                               for (std::int64_t i = 0; i < kSlice; i += 8) {
                                 for (int j = 0; j < 8; ++j) sum[j] += words[i + j];
                               }
                               for (const std::uint64_t part : sum) sums[static_cast<std::size_t>(slice)] += part;
                             });
                           }).wall;
    best = std::max(best, static_cast<double>(kWords) * 8 / seconds);
  }
  return sums.front() == 0 ? 0 : best;
}

// Bytes that one token of decode has to read or write: weights that take part, recurrent state both ways, keys and
// values so far.
double bytes_per_token(const Transformer& model, std::int64_t depth) {
  const ModelConfig& c = model.config();
  const double d = static_cast<double>(c.hidden_size);
  double parameters = d * static_cast<double>(c.vocabulary);
  double state = 0;
  for (const LayerKind kind : c.layers) {
    const auto experts = static_cast<double>(c.experts_per_token * c.expert_width + c.shared_expert_width);
    parameters += d * (3 * experts + static_cast<double>(c.experts + 1));
    if (kind == LayerKind::kDeltaNet) {
      parameters += d * static_cast<double>(c.conv_channels() + 2 * c.value_width() + 2 * c.delta.value_heads);
      state += 2 * 4.0 * static_cast<double>(c.delta.value_heads * c.delta.key_dim * c.delta.value_dim);
    } else {
      parameters += d * static_cast<double>(3 * c.query_width() + 2 * c.kv_width());
      state += 2 * 4.0 * static_cast<double>(c.kv_width() * depth);
    }
  }
  const double width = static_cast<double>(model.weights().bytes) / static_cast<double>(model.weights().parameters);
  return parameters * width + state;
}

// Tokens per second.
struct Speed {
  double wall = 0;
  double processor = 0;

  void keep_best(int tokens, const Duration& time) {
    wall = std::max(wall, tokens / time.wall);
    processor = std::max(processor, tokens / std::max(time.processor, 1e-6));
  }
};

struct Speeds {
  Speed prefill;
  Speed decode;
};

void stop_on(const Result<void>& result) {
  if (result.ok()) return;
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::exit(1);
}

void measure(Transformer& model, int prompt, int decode, Speeds& speeds) {
  auto created = model.new_sequence({.kv = KvType::kBF16});
  if (!created.ok()) stop_on(created.error());
  SequenceState state = std::move(created).value();
  std::vector<TokenId> tokens;
  for (int i = 0; i < prompt; ++i) tokens.push_back(static_cast<TokenId>((7919L * i + 13) % model.config().vocabulary));
  std::vector<float> logits(static_cast<std::size_t>(model.config().vocabulary));
  const Outputs last = {1, logits, {}};
  speeds.prefill.keep_best(prompt, time_of([&] { stop_on(model.forward(state, tokens, last)); }));
  speeds.decode.keep_best(decode, time_of([&] {
                            for (int i = 0; i < decode; ++i) {
                              const auto at = static_cast<std::size_t>(i % prompt);
                              stop_on(model.forward(state, std::span(tokens).subspan(at, 1), last));
                            }
                          }));
}

}  // namespace

int main(int count, char** words) {
  Options options;
  if (!parse(count, words, options)) {
    std::fprintf(stderr, "usage: engine_bench MODEL [--threads N] [--prompt N] [--decode N] [--repeat N]\n");
    return 2;
  }
  const int threads = options.numbers["threads"];
  const int prompt = std::max(1, options.numbers["prompt"]);
  const int decode = std::max(1, options.numbers["decode"]);
  const std::unique_ptr<Backend> backend = make_cpu_backend(threads);
  std::unique_ptr<Transformer> model;
  const double load = time_of([&] {
                        auto loaded = support::load_transformer(options.model, *backend, 2048);
                        if (!loaded.ok()) stop_on(loaded.error());
                        model = std::move(loaded).value();
                      }).wall;
  Speeds best;
  double bandwidth = 0;
  for (int i = 0; i < std::max(1, options.numbers["repeat"]); ++i) {
    bandwidth = std::max(bandwidth, read_bandwidth(threads));
    measure(*model, prompt, decode, best);
  }
  const double bytes = bytes_per_token(*model, prompt + decode / 2);
  std::printf(
      "{\"model\":\"%s\",\"backend_threads\":%d,\"parameters\":%lld,\"weight_bytes\":%lld,\"load_seconds\":%.3f,"
      "\"prompt_tokens\":%d,\"decode_tokens\":%d,"
      "\"prefill_tokens_per_second\":%.1f,\"prefill_tokens_per_processor_second\":%.1f,"
      "\"decode_tokens_per_second\":%.1f,\"decode_tokens_per_processor_second\":%.1f,"
      "\"decode_bytes_per_token\":%.0f,\"decode_gigabytes_per_second\":%.2f,"
      "\"read_bandwidth_gigabytes_per_second\":%.2f}\n",
      std::filesystem::path(options.model).filename().c_str(), threads,
      static_cast<long long>(model->weights().parameters), static_cast<long long>(model->weights().bytes), load, prompt,
      decode, best.prefill.wall, best.prefill.processor, best.decode.wall, best.decode.processor, bytes,
      best.decode.wall * bytes / 1e9, bandwidth / 1e9);
  return 0;
}
