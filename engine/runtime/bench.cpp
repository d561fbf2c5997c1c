// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "cpu/peak_rates.h"
#include "engine/measure.h"
#include "runtime/draft_bench.h"
#include "runtime/no_exceptions.h"
#include "runtime/opened_model.h"
#include "runtime/predicted_speed.h"
#include "runtime/spread.h"
#include "runtime/task_clock.h"
#include "runtime/token_work.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 24;
constexpr std::int64_t kDecodeWeight = 8;  // of a decoded token in the progress, beside one that is read

Result<void> check(const BenchOptions& options) {
  const auto wrong = [](const char* what, std::int64_t low, std::int64_t high) {
    return Error{ErrorCode::kInvalidArgument, std::string("The number of ") + what + " must be " + std::to_string(low) +
                                                  " to " + std::to_string(high) + "."};
  };
  const auto within = [](std::int64_t value, std::int64_t low, std::int64_t high) {
    return value >= low && value <= high;
  };
  if (!within(options.prefill_tokens, 1, kMostTokens)) return wrong("prefill tokens", 1, kMostTokens);
  if (!within(options.decode_tokens, 1, kMostTokens)) return wrong("decode tokens", 1, kMostTokens);
  if (!within(options.depth_tokens, 0, kMostTokens)) return wrong("depth tokens", 0, kMostTokens);
  if (!within(options.sequences, 1, 256)) return wrong("sequences", 1, 256);
  if (!within(options.repeats, 1, 1000)) return wrong("repeats", 1, 1000);
  return {};
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::int64_t peak_resident_bytes() {
  constexpr std::int64_t kKibibyte = 1024;
  rusage usage{};
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss * kKibibyte : 0;
}

// Of the longest sequence, tokens guessed ahead included.
std::int64_t needed_tokens(const BenchOptions& options) {
  return options.depth_tokens + options.prefill_tokens + options.decode_tokens + kSmallBatchRows;
}

class Bench {
 public:
  // `gpu_rates`: measured while the GPU's memory was free.
  Bench(OpenedModel model, const ExpectedRates& gpu_rates, const BenchOptions& options, const TaskSink& progress,
        std::stop_token stop)
      : model_(std::move(model)),
        rates_(gpu_rates),
        options_(options),
        clock_(progress),
        stop_(std::move(stop)),
        logits_(static_cast<std::size_t>(model_.vocabulary())) {
    const std::int64_t per_run = options_.prefill_tokens + kDecodeWeight * options_.decode_tokens;
    total_ = options_.depth_tokens + options_.repeats * per_run;
  }

  Result<BenchReport> run() {
    describe();
    ENGINE_TRY(SequenceState base, model_.transformer->new_sequence(sequence_options()));
    ENGINE_CHECK(fill(base));
    std::vector<double> prefills;
    std::vector<double> decodes;
    report_.repeatable = true;
    for (int run = 0; run < options_.repeats; ++run) {
      run_name_ = ", run " + std::to_string(run + 1) + " of " + std::to_string(options_.repeats);
      ENGINE_TRY(SequenceState state, model_.transformer->fork(base));
      ENGINE_TRY(const double prefill, prefill_seconds(state));
      prefills.push_back(static_cast<double>(options_.prefill_tokens) / prefill);
      ENGINE_TRY(const double decode, decode_seconds(std::move(state)));
      decodes.push_back(static_cast<double>(options_.decode_tokens * options_.sequences) / decode);
      const std::string fingerprint = bits_fingerprint(logits_);
      report_.repeatable = report_.repeatable && (run == 0 || fingerprint == report_.logits_fingerprint);
      report_.logits_fingerprint = fingerprint;
    }
    report_.top_token = most_likely_token(logits_);
    report_.prefill_tokens_per_second = spread_of(std::move(prefills));
    report_.decode_tokens_per_second = spread_of(std::move(decodes));
    if (options_.engine.draft_tokens > 0 && model_.transformer->has_mtp()) {
      clock_.tell("guessing ahead", total_, total_);
      ENGINE_TRY(report_.drafts, measure_drafts(model_, options_, stop_));
    }
    report_.peak_resident_bytes = peak_resident_bytes();
    if (model_.options.device == DeviceKind::kCpu) {
      measure_machine();
    } else {
      for (const std::unique_ptr<Backend>& backend : model_.devices.backends) {
        const DeviceMemory most = backend->most_memory();
        report_.gpu_memory.push_back({most.weights, most.state, most.scratch});
      }
      report_.dense_products = model_.devices.backends.front()->dense_products();
    }
    relate();
    return std::move(report_);
  }

 private:
  SequenceOptions sequence_options() const { return model_.sequence_options(needed_tokens(options_), false); }

  void describe() {
    const ModelWeights& weights = model_.transformer->weights();
    report_.model = model_.name;
    report_.architecture = model_.transformer->config().architecture;
    report_.parameters = weights.parameters;
    report_.weight_bytes = weights.bytes;
    report_.kv_type = model_.options.kv_type;
    report_.options = options_;
    report_.prefill_chunk_tokens = model_.chunk_tokens();
    report_.load_seconds = model_.load_seconds;
    report_.copy_seconds = model_.copy_seconds;
    report_.memory = model_.memory;
  }

  // Last, because it takes memory of its own.
  void measure_machine() {
    clock_.tell("measuring the machine", total_, total_);
    ThreadTeam team(model_.options.threads);
    report_.threads = team.size();
    report_.machine = {measure_read_bandwidth(team), measure_f32_rate(team), measure_bf16_rate(team),
                       measure_int8_rate(team)};
    rates_ = cpu_rates(report_.machine);
  }

  // Token `index` of a text without meaning, the same in every run.
  TokenId token_at(std::int64_t index) const {
    return static_cast<TokenId>((7919 * index + index / 11 + 13) % model_.vocabulary());
  }

  Result<void> read(SequenceState& state, std::int64_t count, const std::string& what) {
    std::vector<TokenId> tokens;
    for (std::int64_t left = count; left > 0; left -= static_cast<std::int64_t>(tokens.size())) {
      clock_.tell(what, done_, total_);
      tokens.clear();
      for (std::int64_t i = 0; i < std::min(left, model_.chunk_tokens()); ++i) {
        tokens.push_back(token_at(state.length() + i));
      }
      const bool last = left == static_cast<std::int64_t>(tokens.size());
      const Outputs outputs = last ? Outputs{1, logits_, {}} : Outputs{};
      ENGINE_CHECK(model_.transformer->forward(state, tokens, outputs, stop_));
      done_ += static_cast<std::int64_t>(tokens.size());
    }
    return {};
  }

  Result<void> fill(SequenceState& state) {
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t real = std::min(options_.depth_tokens, model_.chunk_tokens());
    if (options_.synthetic_depth) {
      ENGINE_CHECK(fill_with_noise(state, options_.depth_tokens - real));
      ENGINE_CHECK(read(state, real, "filling the context"));
    } else {
      ENGINE_CHECK(read(state, options_.depth_tokens, "filling the context"));
    }
    report_.depth_seconds = seconds_since(start);
    return {};
  }

  // Keys and values as they might be, without the work of reading that many tokens.
  Result<void> fill_with_noise(SequenceState& state, std::int64_t count) {
    const ModelConfig& config = model_.transformer->config();
    const Placement& placement = model_.transformer->placement();
    ENGINE_CHECK(state.reserve(count, placement));
    constexpr std::int64_t kRowsAtOnce = 256;
    std::vector<float> numbers(static_cast<std::size_t>(kRowsAtOnce * config.kv_width()));
    std::uint32_t random = 1;
    for (float& number : numbers) {
      random = random * 1664525U + 1013904223U;  // Numerical Recipes' generator
      number = static_cast<float>(random >> 8U) / static_cast<float>(1U << 23U) - 1.0F;
    }
    std::vector<std::unique_ptr<Buffer>> device_numbers;
    for (const std::unique_ptr<Backend>& backend : model_.devices.backends) {
      ENGINE_TRY(std::unique_ptr<Buffer> buffer,
                 backend->make_buffer(static_cast<std::int64_t>(numbers.size()), MemoryUse::kState));
      backend->upload(numbers, buffer->data());
      device_numbers.push_back(std::move(buffer));
    }
    for (std::int64_t left = count; left > 0;) {
      if (stop_.stop_requested()) return Error{ErrorCode::kCancelled, "The measurement was stopped."};
      const std::int64_t rows = std::min(left, kRowsAtOnce);
      state.begin();
      for (std::size_t i = 0; i < config.layers.size(); ++i) {
        if (config.layers[i] != LayerKind::kAttention) continue;
        const Tensor noise{device_numbers[placement.index_of(i)]->data(), rows, config.kv_width()};
        placement.of_layer(i).append_kv(noise, noise, state.cache(i));
      }
      state.end(rows);
      left -= rows;
      done_ += rows;
    }
    return {};
  }

  Result<double> prefill_seconds(SequenceState& state) {
    const auto start = std::chrono::steady_clock::now();
    ENGINE_CHECK(read(state, options_.prefill_tokens, "reading" + run_name_));
    return seconds_since(start);
  }

  Result<double> decode_seconds(SequenceState first) {
    std::vector<SequenceState> states;
    for (int i = 1; i < options_.sequences; ++i) {
      ENGINE_TRY(SequenceState copy, model_.transformer->fork(first));
      states.push_back(std::move(copy));
    }
    states.push_back(std::move(first));
    std::vector<float> other_logits(states.size() > 1 ? logits_.size() : 0);
    const auto start = std::chrono::steady_clock::now();
    for (std::int64_t step = 0; step < options_.decode_tokens; ++step) {
      clock_.tell("writing" + run_name_, done_, total_);
      std::vector<TokenId> tokens;
      for (std::size_t i = 0; i < states.size(); ++i) {
        tokens.push_back(token_at(states[i].length() + 31 * static_cast<std::int64_t>(i)));
      }
      std::vector<Reading> readings;
      for (std::size_t i = 0; i < states.size(); ++i) {
        const std::span<float> to = i == 0 ? std::span(logits_) : std::span(other_logits);
        readings.push_back({&states[i], std::span(tokens).subspan(i, 1), {1, to, {}}});
      }
      ENGINE_CHECK(model_.transformer->advance(readings, stop_));
      done_ += kDecodeWeight;
    }
    const double seconds = seconds_since(start);
    report_.sequence_bytes = states.back().bytes();
    return seconds;
  }

  // Speeds as what they move and compute.
  void relate() {
    const TokenWork work(model_.transformer->weights().files);
    const auto prefill = static_cast<double>(options_.prefill_tokens);
    const auto depth = static_cast<double>(options_.depth_tokens);
    const double decode_depth = depth + prefill + static_cast<double>(options_.decode_tokens) / 2;
    const double passes = report_.decode_tokens_per_second.median / static_cast<double>(options_.sequences);
    report_.decode_bytes_per_pass = work.decode_bytes(decode_depth, report_.kv_type, options_.sequences);
    report_.decode_bytes_per_second = report_.decode_bytes_per_pass * passes;
    EngineOptions options = model_.options;
    options.prefill_chunk_tokens = std::min(model_.chunk_tokens(), options_.prefill_tokens);
    report_.prediction = predict_speed(model_.transformer->weights().files, options, model_.memory, rates_,
                                       static_cast<std::int64_t>(decode_depth), options_.sequences);
    report_.prefill_operations_per_second =
        work.prefill_operations(depth, prefill) / prefill * report_.prefill_tokens_per_second.median;
  }

  OpenedModel model_;
  ExpectedRates rates_;
  const BenchOptions& options_;
  TaskClock clock_;
  std::stop_token stop_;
  std::string run_name_;
  std::int64_t done_ = 0;
  std::int64_t total_ = 0;
  std::vector<float> logits_;  // the first sequence's last
  BenchReport report_;
};

}  // namespace

Result<BenchReport> run_bench(const std::filesystem::path& model, const BenchOptions& options, const TaskSink& progress,
                              std::stop_token stop) {
  return without_exceptions([&]() -> Result<BenchReport> {
    ENGINE_CHECK(check(options));
    ExpectedRates gpu_rates;
    if (options.engine.device == DeviceKind::kCuda) {
      const Result<ExpectedRates> measured = measure_rates(options.engine);
      if (measured.ok()) gpu_rates = *measured;  // what is wrong is said when the model is opened
    }
    ENGINE_TRY(OpenedModel opened, OpenedModel::open(model, options.engine, needed_tokens(options), stop));
    return Bench(std::move(opened), gpu_rates, options, progress, std::move(stop)).run();
  });
}

}  // namespace lectern::engine
