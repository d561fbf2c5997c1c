// SPDX-License-Identifier: GPL-3.0-or-later
#include "cli_measure.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lectern::app {
namespace {

retrieval::ErrorCode codeOf(engine::ErrorCode code) {
  switch (code) {
    case engine::ErrorCode::kInvalidArgument:
      return retrieval::ErrorCode::kInvalidArgument;
    case engine::ErrorCode::kNotFound:
      return retrieval::ErrorCode::kNotFound;
    case engine::ErrorCode::kCorrupt:
      return retrieval::ErrorCode::kCorrupt;
    case engine::ErrorCode::kIo:
      return retrieval::ErrorCode::kStorage;
    case engine::ErrorCode::kCancelled:
      return retrieval::ErrorCode::kCancelled;
    default:
      return retrieval::ErrorCode::kGenerator;
  }
}

constexpr std::string_view kCuda = "cuda";

// The numbers behind "cuda:".
std::optional<std::vector<int>> gpusOf(const std::string& device) {
  constexpr std::size_t kMostDigits = 3;
  std::vector<int> gpus;
  std::string_view rest = std::string_view(device).substr(kCuda.size());
  while (!rest.empty()) {
    rest.remove_prefix(1);  // ':' or ','
    const std::string_view number = rest.substr(0, rest.find(','));
    const bool digits = number.find_first_not_of("0123456789") == number.npos;
    if (number.empty() || number.size() > kMostDigits || !digits) return std::nullopt;
    gpus.push_back(std::stoi(std::string(number)));
    rest.remove_prefix(number.size());
  }
  return gpus;
}

}  // namespace

std::string mixHelp() {
  std::string names;
  for (const engine::MixInfo& mix : engine::quantisation_mixes()) names += (names.empty() ? "" : ", ") + mix.name;
  return "Types of the weights: " + names;
}

std::string checkDevice(const std::string& text) {
  const bool known = text == "cpu" || text == kCuda || (text.starts_with("cuda:") && gpusOf(text));
  return known ? std::string()
               : "must be cpu, cuda (as many GPUs as the model needs), or cuda:N or cuda:N,M,... for the GPUs of these "
                 "numbers, counted from 0";
}

engine::EngineOptions engineOptions(const CliOptions& options) {
  engine::EngineOptions engine;
  engine.threads = options.threads;
  const std::string& device = options.measure.device;
  if (device.starts_with(kCuda)) {
    engine.device = engine::DeviceKind::kCuda;
    engine.gpus = gpusOf(device).value_or(std::vector<int>());
  }
  engine.sessions.directory = options.measure.sessions;
  engine.context_tokens = options.measure.contextTokens;
  engine.prefill_chunk_tokens = options.measure.chunkTokens;
  engine.rope_factor = options.measure.ropeFactor;
  engine.gpu_experts = options.measure.gpuExperts;
  engine.draft_tokens = options.measure.draftTokens;
  if (options.measure.weights == "map") engine.weights = engine::WeightPlacement::kMapped;
  if (options.measure.weights == "copy") engine.weights = engine::WeightPlacement::kCopied;
  if (options.measure.kv == "f32") engine.kv_type = engine::KvType::kF32;
  if (options.measure.kv == "q8") engine.kv_type = engine::KvType::kQ8;
  return engine;
}

ExitCode fail(const CommandContext& context, const engine::Error& error) {
  context.terminal.endProgress();
  const bool cancelled = error.code == engine::ErrorCode::kCancelled;
  return fail(context, retrieval::Error{codeOf(error.code), error.message}, cancelled ? kExitInterrupted : kExitError);
}

engine::TaskSink progressOn(const CommandContext& context, const std::string& verb) {
  return [&context, verb](const engine::TaskProgress& progress) {
    std::string line = verb;
    if (progress.total > 0) {
      const double share = static_cast<double>(progress.done) / static_cast<double>(progress.total);
      line += " " + std::to_string(std::lround(std::floor(100 * share))) + " %";
      if (progress.done > 0 && progress.seconds >= 1) {
        line += ", " + duration(progress.seconds * (1 - share) / share) + " left";
      }
    }
    context.terminal.progress(line + ": " + printableLine(progress.item));
  };
}

const char* name(engine::KvType type) {
  switch (type) {
    case engine::KvType::kF32:
      return "f32";
    case engine::KvType::kQ8:
      return "q8";
    case engine::KvType::kBF16:
      break;
  }
  return "bf16";
}

Json toJson(const engine::MemoryPlan& memory) {
  Json gpus = Json::array();
  for (const engine::GpuShare& share : memory.gpus) {
    gpus.push_back({{"gpu", share.gpu},
                    {"layers", share.layers},
                    {"weights_bytes", share.weights},
                    {"sequences_bytes", share.sequences},
                    {"scratch_bytes", share.scratch},
                    {"limit_bytes", share.limit}});
  }
  return {{"total_bytes", memory.total()},
          {"weights_bytes", memory.weights},
          {"kv_cache_bytes", memory.kv_cache},
          {"state_bytes", memory.state},
          {"scratch_bytes", memory.scratch},
          {"limit_bytes", memory.limit},
          {"experts", memory.experts},
          {"experts_on_gpu", memory.experts_on_gpu},
          {"hosted_experts_bytes", memory.hosted_experts},
          {"locked_experts_bytes", memory.locked_experts},
          {"gpus", std::move(gpus)}};
}

namespace {

Json toJson(const engine::PredictedSpeed& speed) {
  Json json = {{"experts_on_gpu", speed.experts_on_gpu}, {"depth_tokens", speed.depth_tokens}};
  if (speed.prefill_tokens_per_second > 0) json["prefill_tokens_per_second"] = speed.prefill_tokens_per_second;
  if (speed.decode_tokens_per_second > 0) json["decode_tokens_per_second"] = speed.decode_tokens_per_second;
  return json;
}

std::string speedText(const engine::PredictedSpeed& speed) {
  const auto number = [](double rate) { return rate > 0 ? threeDigits(rate) : std::string("unknown"); };
  return "reading " + number(speed.prefill_tokens_per_second) + ", writing " + number(speed.decode_tokens_per_second) +
         " tokens/s";
}

}  // namespace

Json toJson(const engine::SpeedPrediction& prediction) {
  constexpr double kGiga = 1e9;
  const engine::ExpectedRates& rates = prediction.rates;
  Json json = toJson(prediction.chosen);
  json["assumed"] = {{"memory_gigabytes_per_second", rates.memory_bytes_per_second / kGiga},
                     {"gigaflops", rates.operations_per_second / kGiga},
                     {"host_gigaops_of_few_rows", rates.host_operations_per_second / kGiga},
                     {"host_gigabytes_per_second", rates.host_bytes_per_second / kGiga},
                     {"transfer_gigabytes_per_second", rates.transfer_bytes_per_second / kGiga}};
  if (prediction.planned) json["planned"] = toJson(*prediction.planned);
  return json;
}

std::string expertsText(const engine::MemoryPlan& plan) {
  if (plan.experts_on_gpu == plan.experts || plan.hosted_experts == 0) return "";
  return "; " + std::to_string(plan.experts_on_gpu) + " of " + std::to_string(plan.experts) +
         " experts of each block on the GPU, the others in the computer's memory, " +
         (plan.locked_experts == 0 ? "which is not page-locked: they go to the GPU through two buffers, slower"
          : plan.locked_experts < plan.hosted_experts
              ? "which is page-locked in part: the rest goes to the GPU through two buffers, slower"
              : "which is page-locked");
}

std::string predictionText(const engine::SpeedPrediction& prediction, const engine::MemoryPlan& plan) {
  std::string text = speedText(prediction.chosen) + " at " + std::to_string(prediction.chosen.depth_tokens) + " tokens";
  if (!prediction.planned) return text;
  const engine::PredictedSpeed& planned = *prediction.planned;
  if (planned.experts_on_gpu == plan.experts_on_gpu) return text + "; the planner would have chosen the same";
  return text + "; the planner would have put " + std::to_string(planned.experts_on_gpu) + " of " +
         std::to_string(plan.experts) + " experts on the GPU: " + speedText(planned);
}

void put(Json& json, const std::string& prefix, const engine::Spread& spread) {
  json[prefix] = spread.median;
  json[prefix + "_least"] = spread.least;
  json[prefix + "_most"] = spread.most;
}

std::string threeDigits(double number) {
  std::array<char, 64> text{};
  const int decimals = std::abs(number) >= 100 ? 0 : std::abs(number) >= 10 ? 1 : 2;
  std::snprintf(text.data(), text.size(), "%.*f", decimals, number);
  return text.data();
}

std::string percent(double share) { return threeDigits(100 * share) + " %"; }

}  // namespace lectern::app
