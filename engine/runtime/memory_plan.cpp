// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory_plan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <limits>
#include <string>

namespace lectern::engine {
namespace {

constexpr std::int64_t kFloat = sizeof(float);
constexpr std::int64_t kSmallestContext = 512;  // less is of no use

// Bytes of one number of the KV cache; 8-bit numbers carry a float scale for every 32.
double bytes_of(KvType type) { return type == KvType::kF32 ? 4 : type == KvType::kBF16 ? 2 : 1 + 4.0 / 32; }

std::string gibibytes(std::int64_t bytes) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  return text.data();
}

class Planner {
 public:
  Planner(const ModelFiles& files, const EngineOptions& options) : config_(files.config()), options_(options) {
    for (const auto& [name, tensor] : files.tensors()) {
      plan_.weights += static_cast<std::int64_t>(tensor.bytes.size());
      has_mtp_ = has_mtp_ || name == "mtp.fc.weight" || name == "model.mtp.fc.weight";
    }
    const std::int64_t delta_layers = std::count(config_.layers.begin(), config_.layers.end(), LayerKind::kDeltaNet);
    const std::int64_t recurrent = config_.delta.value_heads * config_.delta.key_dim * config_.delta.value_dim;
    plan_.state = delta_layers * kFloat * (recurrent + (config_.conv_taps - 1) * config_.conv_channels());
    plan_.scratch = activations() + experts();
    plan_.limit = options.memory_limit_bytes > 0 ? options.memory_limit_bytes : available_memory();
  }

  Result<PlannedContext> plan() {
    const std::int64_t longest = longest_context();
    const bool chosen = options_.context_tokens > 0;
    const std::int64_t wanted = chosen ? std::min(options_.context_tokens, longest) : longest;
    const std::int64_t fitting = std::min(wanted, fitting_context(options_.kv_type));
    if (fitting < (chosen ? wanted : std::min(wanted, kSmallestContext))) return refusal(wanted);
    plan_.kv_cache = kv_bytes(fitting, options_.kv_type);
    return PlannedContext{fitting, plan_};
  }

 private:
  std::int64_t longest_context() const {
    const double factor = std::max(1.0, options_.rope_factor);
    return static_cast<std::int64_t>(factor * static_cast<double>(config_.context_tokens));
  }

  std::int64_t kv_bytes(std::int64_t tokens, KvType type) const {
    const std::int64_t layers = std::count(config_.layers.begin(), config_.layers.end(), LayerKind::kAttention) +
                                (has_mtp_ && options_.draft_tokens > 0 ? 1 : 0);
    return static_cast<std::int64_t>(static_cast<double>(2 * layers * config_.kv_width() * tokens) * bytes_of(type));
  }

  std::int64_t fitting_context(KvType type) const {
    const std::int64_t room = plan_.limit - plan_.total();
    const std::int64_t per_token = std::max<std::int64_t>(1, kv_bytes(1, type));
    return room <= 0 ? 0 : room / per_token;
  }

  std::int64_t activations() const {
    const std::int64_t width = 3 * config_.hidden_size + 2 * config_.conv_channels() + config_.value_width() +
                               2 * config_.query_width() + 2 * config_.kv_width() +
                               std::max(config_.value_width(), config_.query_width()) + 2 * config_.dense_width;
    return kFloat * (width * options_.prefill_chunk_tokens + kSmallBatchRows * config_.vocabulary);
  }

  // Rows sorted by expert: input, gate and inner product of every chosen expert.
  std::int64_t experts() const {
    const std::int64_t rows = options_.prefill_chunk_tokens * (config_.experts_per_token + 1);
    return config_.experts == 0 ? 0 : kFloat * rows * (config_.hidden_size + 2 * config_.expert_width);
  }

  Error refusal(std::int64_t wanted) const {
    std::string text = "The model needs " + gibibytes(plan_.total() + kv_bytes(wanted, options_.kv_type)) +
                       " of memory (weights " + gibibytes(plan_.weights) + ", keys and values of " +
                       std::to_string(wanted) + " tokens " + gibibytes(kv_bytes(wanted, options_.kv_type)) +
                       ", states " + gibibytes(plan_.state) + ", activations " + gibibytes(plan_.scratch) + "), but " +
                       gibibytes(plan_.limit) + " are available; ";
    const std::int64_t fitting = fitting_context(options_.kv_type);
    const std::int64_t fitting_in_8_bits = fitting_context(KvType::kQ8);
    if (fitting >= kSmallestContext) {
      text += "a context of " + std::to_string(fitting) + " tokens fits";
      if (fitting_in_8_bits > fitting) text += ", " + std::to_string(fitting_in_8_bits) + " with 8-bit keys and values";
      text += ".";
    } else {
      text += "use a smaller model or a smaller quantisation of it (at most " +
              gibibytes(std::max<std::int64_t>(0, plan_.limit - (plan_.total() - plan_.weights))) +
              "), or raise the memory limit to run it from disk, slowly.";
    }
    return {ErrorCode::kOutOfMemory, text};
  }

  const ModelConfig& config_;
  const EngineOptions& options_;
  MemoryPlan plan_;
  bool has_mtp_ = false;
};

// The number after `key`, in KiB as /proc/meminfo writes it.
std::int64_t meminfo_bytes(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  for (std::string name, unit; file >> name;) {
    std::int64_t kibibytes = 0;
    if (!(file >> kibibytes)) return 0;
    std::getline(file, unit);
    if (name == key + ":") return kibibytes * 1024;
  }
  return 0;
}

std::int64_t control_group_room() {
  std::ifstream most("/sys/fs/cgroup/memory.max");
  std::ifstream used("/sys/fs/cgroup/memory.current");
  std::int64_t limit = 0;
  std::int64_t current = 0;
  if (!(most >> limit) || !(used >> current)) return std::numeric_limits<std::int64_t>::max();
  return std::max<std::int64_t>(0, limit - current);
}

}  // namespace

std::int64_t suitable_chunk(const ModelConfig& config) {
  constexpr std::int64_t kRowsPerExpert = 32;
  constexpr std::int64_t kLeast = 512;
  constexpr std::int64_t kMost = 2048;
  if (config.experts == 0) return kLeast;
  const std::int64_t enough = kRowsPerExpert * config.experts / config.experts_per_token;
  return std::clamp((enough + kLeast - 1) / kLeast * kLeast, kLeast, kMost);
}

Result<PlannedContext> plan_memory(const ModelFiles& files, const EngineOptions& options) {
  return Planner(files, options).plan();
}

bool copies_weights(const EngineOptions& options, const MemoryPlan& plan) {
  constexpr std::int64_t kWorthCopying = std::int64_t{256} << 20;
  if (options.weights != WeightPlacement::kAuto) return options.weights == WeightPlacement::kCopied;
  return plan.weights >= kWorthCopying && plan.total() + plan.weights / 4 <= plan.limit;
}

std::int64_t available_memory() {
  const std::int64_t available = meminfo_bytes("MemAvailable");
  return std::min(available > 0 ? available : std::numeric_limits<std::int64_t>::max() / 2, control_group_room());
}

}  // namespace lectern::engine
