// SPDX-License-Identifier: Apache-2.0
#include "runtime/predicted_speed.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cpu/peak_rates.h"
#include "cuda/cuda_plan.h"
#include "cuda/cuda_rates.h"
#include "engine/model_tools.h"
#include "runtime/engine_options.h"
#include "runtime/memory_plan.h"
#include "runtime/no_exceptions.h"
#include "runtime/token_work.h"

namespace lectern::engine {
namespace {

// Of the rates that a device reaches when it does nothing else. The CPU's shares were measured with Q4_K_M and Q8_0,
// see "Measured" in engine/README.md; the GPU's are assumed, because none has been measured.
constexpr double kCpuShareOfMemory = 0.9;
constexpr double kCpuShareOfOperations = 0.6;       // of BF16 or float, in products of many rows
constexpr double kCpuShareOfSmallOperations = 0.2;  // of 8 bits, in products of few rows, which decode as much
constexpr double kGpuShareOfMemory = 0.8;
constexpr double kGpuShareOfOperations = 0.5;

// Assumed too: of a launch in a graph and of one without; and of bringing rows of a block to the CPU and back.
constexpr double kGraphLaunchSeconds = 2e-6;
constexpr double kLaunchSeconds = 5e-6;
constexpr double kExchangeSeconds = 30e-6;
constexpr double kLaunchesOfALayer = 8;

double touched_share(double chosen_share, double tokens) { return 1 - std::pow(1 - chosen_share, tokens); }

double quotient(double amount, double rate) { return amount <= 0 ? 0 : amount / rate; }

double tokens_per_second(double tokens, double seconds) {
  return seconds > 0 && std::isfinite(seconds) ? tokens / seconds : 0;
}

PredictedSpeed predict_one(const ModelFiles& files, const EngineOptions& options, const MemoryPlan& plan,
                           const ExpectedRates& rates, std::int64_t depth, int sequences) {
  const SpeedWork work = speed_work(files, options, plan, depth, sequences);
  PredictedSpeed speed;
  speed.experts_on_gpu = plan.experts_on_gpu;
  speed.depth_tokens = depth;
  speed.decode_tokens_per_second = tokens_per_second(work.sequences, decode_seconds(work, rates));
  speed.prefill_tokens_per_second = tokens_per_second(work.chunk_tokens, chunk_seconds(work, rates));
  return speed;
}

}  // namespace

SpeedWork speed_work(const ModelFiles& files, const EngineOptions& options, const MemoryPlan& plan,
                     std::int64_t depth_tokens, int sequences) {
  const ModelConfig& config = files.config();
  const TokenWork tokens(files);
  const auto depth = static_cast<double>(depth_tokens);
  const auto layers = static_cast<double>(config.layers.size());
  const bool on_gpu = options.device == DeviceKind::kCuda;
  const bool hosted = on_gpu && plan.experts_on_gpu < plan.experts;
  SpeedWork work;
  work.sequences = sequences;
  work.chunk_tokens = static_cast<double>(std::max<std::int64_t>(1, options.prefill_chunk_tokens));
  if (hosted) work.chunk_tokens = std::min(work.chunk_tokens, static_cast<double>(kExpertRowsAtOnce));
  if (config.experts > 0) {
    work.chosen_share = static_cast<double>(config.experts_per_token) / static_cast<double>(config.experts);
    work.expert_bytes = tokens.expert_bytes();
    work.blocks = layers;
  }
  work.other_bytes = tokens.decode_bytes(depth, options.kv_type, sequences) -
                     work.expert_bytes * touched_share(work.chosen_share, sequences);
  work.expert_operations = tokens.expert_operations();
  work.small_operations = 2 * tokens.active_parameters() - work.expert_operations;
  work.other_operations =
      tokens.prefill_operations(depth, work.chunk_tokens) / work.chunk_tokens - work.expert_operations;
  if (on_gpu) work.overhead_seconds = layers * kLaunchesOfALayer * (hosted ? kLaunchSeconds : kGraphLaunchSeconds);
  if (!hosted) return work;
  work.overhead_seconds += layers * kExchangeSeconds;
  work.on_device_share = static_cast<double>(plan.experts_on_gpu) / static_cast<double>(plan.experts);
  work.staging_bytes = static_cast<double>(plan.expert_staging);
  work.locked = plan.locked_experts > 0;
  return work;
}

double decode_seconds(const SpeedWork& work, const ExpectedRates& rates) {
  const auto needed = [](double bytes, double memory, double operations, double rate) {
    return std::max(quotient(bytes, memory), rate > 0 ? quotient(operations, rate) : 0);
  };
  const double bytes = work.expert_bytes * touched_share(work.chosen_share, work.sequences);
  const double operations = work.expert_operations * work.sequences;
  const double share = work.on_device_share;
  const double here =
      needed(bytes * share, rates.memory_bytes_per_second, operations * share, rates.small_operations_per_second);
  const double there = needed(bytes * (1 - share), rates.host_bytes_per_second, operations * (1 - share),
                              rates.host_operations_per_second);
  const double others = needed(work.other_bytes, rates.memory_bytes_per_second, work.small_operations * work.sequences,
                               rates.small_operations_per_second);
  const double seconds = others + std::max(here, there) + work.overhead_seconds;
  return std::isfinite(seconds) ? seconds : 0;
}

double chunk_seconds(const SpeedWork& work, const ExpectedRates& rates) {
  const double touched = work.expert_bytes * touched_share(work.chosen_share, work.chunk_tokens);
  const auto computing = [&](double operations, double bytes) {
    return std::max(quotient(work.chunk_tokens * operations, rates.operations_per_second),
                    quotient(bytes, rates.memory_bytes_per_second));
  };
  const double others = computing(work.other_operations, work.other_bytes);
  const double experts = computing(work.expert_operations, touched);
  // Through the buffers every byte is read and written by one thread of the processor first.
  const double rate = work.locked ? rates.transfer_bytes_per_second
                                  : std::min(rates.transfer_bytes_per_second, rates.host_bytes_per_second / 2);
  const double transfers = quotient(touched * (1 - work.on_device_share), rate);
  const double hidden = work.locked ? std::min(others, quotient(work.blocks * work.staging_bytes, rate)) : 0;
  const double seconds = others + std::max(experts, transfers - hidden);
  return std::isfinite(seconds) ? seconds : 0;
}

ExpectedRates cpu_rates(const MachineRates& machine) {
  const double operations =
      machine.bf16_operations_per_second > 0 ? machine.bf16_operations_per_second : machine.f32_operations_per_second;
  ExpectedRates rates;
  rates.host_bytes_per_second = kCpuShareOfMemory * machine.read_bytes_per_second;
  rates.memory_bytes_per_second = rates.host_bytes_per_second;
  rates.operations_per_second = kCpuShareOfOperations * operations;
  rates.host_operations_per_second = kCpuShareOfSmallOperations * machine.int8_operations_per_second;
  rates.small_operations_per_second = rates.host_operations_per_second;
  return rates;
}

Result<ExpectedRates> measure_rates(const EngineOptions& options) {
  ThreadTeam team(options.threads);
  MachineRates machine;
  machine.read_bytes_per_second = measure_read_bandwidth(team);
  machine.int8_operations_per_second = measure_int8_rate(team);
  if (options.device == DeviceKind::kCpu) {
    machine.bf16_operations_per_second = measure_bf16_rate(team);
    machine.f32_operations_per_second = measure_f32_rate(team);
    return cpu_rates(machine);
  }
  ENGINE_TRY(ExpectedRates rates, cuda_rates(options.gpus.empty() ? 0 : options.gpus.front()));
  rates.memory_bytes_per_second *= kGpuShareOfMemory;
  rates.operations_per_second *= kGpuShareOfOperations;
  rates.host_bytes_per_second = cpu_rates(machine).host_bytes_per_second;
  rates.host_operations_per_second = cpu_rates(machine).host_operations_per_second;
  return rates;
}

SpeedPrediction predict_speed(const ModelFiles& files, const EngineOptions& options, const MemoryPlan& plan,
                              const ExpectedRates& rates, std::int64_t depth_tokens, int sequences) {
  SpeedPrediction prediction;
  prediction.rates = rates;
  prediction.chosen = predict_one(files, options, plan, rates, depth_tokens, sequences);
  if (options.device == DeviceKind::kCpu || options.gpu_experts < 0) return prediction;
  EngineOptions free = options;
  free.gpu_experts = -1;
  free.memory_limit_bytes = plan.limit;  // the model may have been loaded since
  const Result<PlannedContext> planned = plan_memory(files, free);
  if (planned.ok()) {
    prediction.planned = predict_one(files, free, planned->memory, rates, depth_tokens, sequences);
  }
  return prediction;
}

Result<PlacementReport> plan_placement(const std::filesystem::path& model, const EngineOptions& options) {
  return without_exceptions([&]() -> Result<PlacementReport> {
    constexpr std::int64_t kUsualDepth = 4096;
    EngineOptions chosen = options;
    ENGINE_CHECK(check_options(chosen));
    ENGINE_TRY(const ModelFiles files, ModelFiles::open(model));
    if (chosen.prefill_chunk_tokens == 0) {
      ENGINE_TRY(chosen.prefill_chunk_tokens, suitable_chunk(files, chosen));
    }
    ENGINE_TRY(const PlannedContext planned, plan_memory(files, chosen));
    ENGINE_TRY(const ExpectedRates rates, measure_rates(chosen));
    const std::int64_t depth =
        options.context_tokens > 0 ? planned.context_tokens : std::min(kUsualDepth, planned.context_tokens);
    return PlacementReport{planned.context_tokens, planned.memory,
                           predict_speed(files, chosen, planned.memory, rates, depth)};
  });
}

}  // namespace lectern::engine
