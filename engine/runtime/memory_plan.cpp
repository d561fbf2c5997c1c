// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory_plan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cuda/cuda_plan.h"
#include "model/state.h"
#include "runtime/layer_split.h"
#include "runtime/token_work.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kFloat = sizeof(float);
constexpr std::int64_t kReservedShare = 50;  // of a GPU's free memory, one part stays for the driver and the screen

// Rows and columns of a tensor's matrices; experts may be stacked in one tensor. Vectors are matrices of one row.
struct Matrices {
  std::int64_t count = 1;
  HostMatrix one;
};

std::optional<DType> type_named(std::string_view name) {
  for (const DTypeFacts& facts : kDTypes) {
    if (facts.name == name) return facts.type;
  }
  return std::nullopt;
}

Matrices matrices_of(const StoredTensor& tensor) {
  Matrices all;
  const std::size_t dimensions = tensor.shape.size();
  all.one.dtype = dimensions < 2 ? DType::kF32 : type_named(tensor.dtype).value_or(DType::kF32);
  all.one.cols = tensor.shape.empty() ? 1 : tensor.shape.back();
  all.one.rows = dimensions < 2 ? 1 : tensor.shape[dimensions - 2];
  for (std::size_t i = 0; i + 2 < dimensions; ++i) all.count *= tensor.shape[i];
  return all;
}

// What the experts that routers choose take on a GPU.
class ExpertBytes {
 public:
  // A tensor of one expert, or of all of a block in one. Others are left out.
  void add(const std::string& name, const StoredTensor& tensor) {
    constexpr std::string_view kExperts = ".experts.";
    const std::size_t at = name.find(kExperts);
    if (at == std::string::npos || name.ends_with("_scale_inv")) return;
    in_files_ += static_cast<std::int64_t>(tensor.bytes.size());
    Matrices matrices = matrices_of(tensor);
    const std::string rest = name.substr(at + kExperts.size());
    all_ += matrices.count * cuda_weight_bytes(matrices.one);
    if (rest.starts_with("gate_up_proj")) {  // two matrices of each expert
      matrices.one.rows /= 2;
      of_block_[name.substr(0, at)]["all"] += 2 * cuda_weight_bytes(matrices.one);
    } else if (tensor.shape.size() > 2) {
      of_block_[name.substr(0, at)]["all"] += cuda_weight_bytes(matrices.one);
    } else {
      of_block_[name.substr(0, at)][rest.substr(0, rest.find('.'))] += cuda_weight_bytes(matrices.one);
    }
  }

  std::int64_t bytes() const { return all_; }
  std::int64_t bytes_in_files() const { return in_files_; }
  // One of each block, as large as the largest there.
  std::int64_t bytes_of_one() const {
    std::int64_t sum = 0;
    for (const auto& [block, experts] : of_block_) sum += largest_of(experts);
    return sum;
  }
  std::int64_t largest() const {
    std::int64_t most = 0;
    for (const auto& [block, experts] : of_block_) most = std::max(most, largest_of(experts));
    return most;
  }

 private:
  using Experts = std::map<std::string, std::int64_t>;

  static std::int64_t largest_of(const Experts& experts) {
    std::int64_t most = 0;
    for (const auto& [expert, bytes] : experts) most = std::max(most, bytes);
    return most;
  }

  std::int64_t all_ = 0;
  std::int64_t in_files_ = 0;
  std::map<std::string, Experts> of_block_;
};

// What a device with memory of its own, or the computer, takes for a model.
class Planner {
 public:
  Planner(const ModelFiles& files, const EngineOptions& options) : config_(files.config()), options_(options) {
    for (const auto& [name, tensor] : files.tensors()) {
      plan_.weights += weight_bytes(tensor);
      if (on_gpu()) experts_.add(name, tensor);
      has_mtp_ = has_mtp_ || name == "mtp.fc.weight" || name == "model.mtp.fc.weight";
    }
    add_the_rest();
  }

  // For a part of a model on one of several GPUs.
  Planner(const ModelPart& part, const EngineOptions& options)
      : config_(part.config), options_(options), has_mtp_(part.has_mtp) {
    plan_.weights = part.weights;
    add_the_rest();
  }

  PartPlan of_part(std::int64_t tokens) const { return {plan_, kv_bytes(tokens, options_.kv_type)}; }

  // Long chunks keep the matrix units busy, since every chunk reads all experts once; their activations are to take a
  // small part of the memory.
  static Result<std::int64_t> suitable_gpu_chunk(const ModelFiles& files, EngineOptions options) {
    constexpr std::int64_t kLeast = 1024;
    constexpr std::int64_t kMost = 8192;
    constexpr std::int64_t kShare = 16;
    std::int64_t limit = std::numeric_limits<std::int64_t>::max();
    for (const int gpu : options.gpus) {
      ENGINE_TRY(const std::int64_t memory, gpu_limit(options, gpu));
      limit = std::min(limit, memory);
    }
    for (std::int64_t chunk = kMost; chunk > kLeast; chunk /= 2) {
      options.prefill_chunk_tokens = chunk;
      const Planner planner(files, options);
      if (planner.plan_.scratch <= limit / kShare) return chunk;
    }
    return kLeast;
  }

  Result<PlannedContext> plan() {
    ENGINE_TRY(plan_.limit, limit());
    const std::int64_t longest = longest_context();
    const bool chosen = options_.context_tokens > 0;
    const bool may_host = on_gpu() && config_.experts > 0;
    std::int64_t wanted = chosen ? std::min(options_.context_tokens, longest) : longest;
    std::int64_t least = chosen ? wanted : std::min(wanted, kSmallestContext);
    if (may_host && options_.gpu_experts >= 0 && options_.gpu_experts < config_.experts) {
      host_experts();
      if (fitting_context(options_.kv_type) >= least) place_on_gpu(options_.gpu_experts);
    } else if (may_host && options_.gpu_experts < 0) {
      const std::int64_t useful = chosen ? wanted : std::min(longest, kUsefulContext);
      if (fitting_context(options_.kv_type) < useful) {
        host_experts();
        wanted = useful;
        choose_experts(wanted);
      }
    }
    const std::int64_t fitting = std::min(wanted, fitting_context(options_.kv_type));
    if (fitting < least) return refusal(wanted);
    plan_.kv_cache = kv_bytes(fitting, options_.kv_type);
    if (plan_.sessions > 0) {
      plan_.kept_sessions = std::min(options_.sessions.memory_bytes, plan_.limit - plan_.total());
      plan_.sessions += plan_.kept_sessions;
    }
    if (on_gpu()) {
      plan_.gpus = {{options_.gpus.front(), static_cast<std::int64_t>(config_.layers.size()), plan_.weights,
                     plan_.kv_cache + plan_.state + plan_.sessions, plan_.scratch, plan_.limit}};
    }
    return PlannedContext{fitting, plan_};
  }

 private:
  void add_the_rest() {
    if (on_gpu() && config_.experts > 0) {
      const auto blocks = static_cast<std::int64_t>(config_.layers.size()) + (has_mtp_ ? 1 : 0);
      plan_.weights += blocks * cuda_expert_table_bytes(config_.experts);
    }
    plan_.experts = config_.experts;
    plan_.experts_on_gpu = on_gpu() ? config_.experts : 0;
    plan_.state = state_bytes() + (on_gpu() ? tentative_bytes() + beside_bytes() : 0);
    plan_.scratch = activations() + (on_gpu() ? working_bytes(false) : experts());
    if (on_gpu() && options_.sessions.memory_bytes > 0) plan_.sessions = snapshot_bytes();
  }

  bool on_gpu() const { return options_.device == DeviceKind::kCuda; }

  Result<std::int64_t> limit() const {
    if (on_gpu()) return gpu_limit(options_, options_.gpus.front());
    return options_.memory_limit_bytes > 0 ? options_.memory_limit_bytes : available_memory();
  }

  std::int64_t weight_bytes(const StoredTensor& tensor) const {
    return on_gpu() ? gpu_weight_bytes(tensor) : static_cast<std::int64_t>(tensor.bytes.size());
  }

  // From here on experts are in the computer's memory, for now all of them.
  void host_experts() {
    plan_.expert_staging = cuda_expert_staging_bytes(config_.experts, experts_.largest());
    plan_.weights += plan_.expert_staging - experts_.bytes();
    plan_.scratch = activations() + working_bytes(true);
    plan_.experts_on_gpu = 0;
    plan_.hosted_experts = experts_.bytes_in_files();
    // Locked pages are lost to all others: not where little else would remain.
    const std::int64_t available = available_memory();
    plan_.locked_experts = plan_.hosted_experts <= available - available / 4 ? plan_.hosted_experts : 0;
  }

  void place_on_gpu(std::int64_t count) {
    plan_.weights += count * experts_.bytes_of_one();
    plan_.experts_on_gpu = count;
  }

  // As many as fit beside the context and some kept sessions; those that fit are used first, so that the rest may wait.
  void choose_experts(std::int64_t context) {
    const std::int64_t kept = plan_.sessions > 0 ? std::min(options_.sessions.memory_bytes, plan_.limit / 16) : 0;
    const std::int64_t room = plan_.limit - plan_.total() - kv_bytes(context, options_.kv_type) - kept;
    if (room > 0 && experts_.bytes_of_one() > 0) {
      place_on_gpu(std::min(config_.experts - 1, room / experts_.bytes_of_one()));
    }
  }

  std::int64_t delta_layers() const {
    return std::count(config_.layers.begin(), config_.layers.end(), LayerKind::kDeltaNet);
  }

  std::int64_t state_bytes() const {
    const std::int64_t recurrent = config_.delta.value_heads * config_.delta.key_dim * config_.delta.value_dim;
    return delta_layers() * (buffer_bytes(recurrent) + buffer_bytes((config_.conv_taps - 1) * config_.conv_channels()));
  }

  static std::int64_t buffer_bytes(std::int64_t floats) {
    constexpr std::int64_t kPiece = 256;  // what a GPU's memory is cut into
    return (floats * kFloat + kPiece - 1) / kPiece * kPiece;
  }

  // A sequence on its way to the sessions: states, and keys and values that it does not share.
  std::int64_t snapshot_bytes() const { return state_bytes() + kv_bytes(1, options_.kv_type); }

  // See TentativeRows.
  std::int64_t tentative_bytes() const {
    const std::int64_t change = config_.delta.value_heads * (config_.delta.key_dim + config_.delta.value_dim + 1);
    return delta_layers() *
           (buffer_bytes(kSmallBatchRows * config_.conv_channels()) + buffer_bytes(kSmallBatchRows * change));
  }

  // What is known about a sequence beside its states: rows for the MTP module, and which tokens occurred.
  std::int64_t beside_bytes() const {
    const std::int64_t rows = has_mtp_ && options_.draft_tokens > 0 ? kKeptRows : 0;
    return buffer_bytes(rows * config_.hidden_size) + buffer_bytes((config_.vocabulary + kFloat - 1) / kFloat);
  }

  std::int64_t longest_context() const {
    const double factor = std::max(1.0, options_.rope_factor);
    return static_cast<std::int64_t>(factor * static_cast<double>(config_.context_tokens));
  }

  std::int64_t kv_bytes(std::int64_t tokens, KvType type) const {
    const std::int64_t layers = std::count(config_.layers.begin(), config_.layers.end(), LayerKind::kAttention) +
                                (has_mtp_ && options_.draft_tokens > 0 ? 1 : 0);
    if (on_gpu()) return layers * cuda_cache_bytes(config_.attention, type, tokens);
    return static_cast<std::int64_t>(static_cast<double>(2 * layers * config_.kv_width() * tokens) *
                                     kv_number_bytes(type));
  }

  // The most tokens whose keys and values fit; caches grow in blocks, so that it is searched for.
  std::int64_t fitting_context(KvType type) const {
    const std::int64_t room = plan_.limit - plan_.total();
    std::int64_t fits = 0;
    for (std::int64_t step = std::int64_t{1} << 40; step > 0; step /= 2) {
      if (fits + step <= longest_context() && kv_bytes(fits + step, type) <= room) fits += step;
    }
    return fits;
  }

  std::int64_t activations() const {
    const std::int64_t width = 3 * config_.hidden_size + 2 * config_.conv_channels() + config_.value_width() +
                               2 * config_.delta.value_heads + 2 * config_.query_width() + 2 * config_.kv_width() +
                               std::max(config_.value_width(), config_.query_width()) + 2 * config_.dense_width +
                               (has_mtp_ ? 2 * config_.hidden_size : 0);
    const std::int64_t rows = std::max(options_.prefill_chunk_tokens, kSmallBatchRows);
    return kFloat * (width * rows + kSmallBatchRows * (config_.vocabulary + 1));
  }

  // Rows sorted by expert: input, gate and inner product of every chosen expert.
  std::int64_t experts() const {
    const std::int64_t rows = options_.prefill_chunk_tokens * (config_.experts_per_token + 1);
    return config_.experts == 0 ? 0 : kFloat * rows * (config_.hidden_size + 2 * config_.expert_width);
  }

  std::int64_t working_bytes(bool hosted) const {
    CudaWork work;
    work.rows = std::max(options_.prefill_chunk_tokens, kSmallBatchRows);
    work.widest =
        std::max({2 * config_.hidden_size, config_.value_width(), config_.query_width(), config_.dense_width});
    work.experts = config_.experts;
    work.chosen = config_.experts_per_token;
    work.hidden = config_.hidden_size;
    work.inner = config_.expert_width;
    work.shared = config_.shared_expert_width;
    work.logits = config_.vocabulary;
    work.hosted = hosted;
    work.attention = config_.attention;
    work.delta = config_.delta;
    return cuda_working_bytes(work);
  }

  Error refusal(std::int64_t wanted) const {
    std::string text = "The model needs " + gibibytes(plan_.total() + kv_bytes(wanted, options_.kv_type)) + " of " +
                       (on_gpu() ? "GPU memory" : "memory") + " (weights " + gibibytes(plan_.weights) +
                       ", keys and values of " + std::to_string(wanted) + " tokens " +
                       gibibytes(kv_bytes(wanted, options_.kv_type)) + ", states " + gibibytes(plan_.state) +
                       ", activations " + gibibytes(plan_.scratch) + "), but " + gibibytes(plan_.limit) +
                       " are available; ";
    const std::int64_t fitting = fitting_context(options_.kv_type);
    const std::int64_t fitting_in_8_bits = fitting_context(KvType::kQ8);
    if (plan_.expert_staging > 0) text += "all experts would be in the computer's memory already; ";
    if (fitting >= kSmallestContext) {
      text += "a context of " + std::to_string(fitting) + " tokens fits";
      if (fitting_in_8_bits > fitting) text += ", " + std::to_string(fitting_in_8_bits) + " with 8-bit keys and values";
      text += ".";
    } else {
      text += "use a smaller model or a smaller quantisation of it (at most " +
              gibibytes(std::max<std::int64_t>(0, plan_.limit - (plan_.total() - plan_.weights))) +
              (on_gpu() ? "), or run it on the CPU." : "), or raise the memory limit to run it from disk, slowly.");
    }
    return {ErrorCode::kOutOfMemory, text};
  }

  const ModelConfig& config_;
  const EngineOptions& options_;
  MemoryPlan plan_;
  ExpertBytes experts_;
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

std::string gibibytes(std::int64_t bytes) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  return text.data();
}

Result<std::int64_t> gpu_limit(const EngineOptions& options, int gpu) {
  ENGINE_TRY(const std::int64_t free, cuda_free_memory(gpu));
  return options.memory_limit_bytes > 0 ? options.memory_limit_bytes
                                        : std::max<std::int64_t>(0, free - free / kReservedShare);
}

std::int64_t gpu_weight_bytes(const StoredTensor& tensor) {
  const Matrices matrices = matrices_of(tensor);
  return matrices.count * cuda_weight_bytes(matrices.one);
}

PartPlan plan_part(const ModelPart& part, const EngineOptions& options, std::int64_t tokens) {
  return Planner(part, options).of_part(tokens);
}

Result<std::int64_t> suitable_chunk(const ModelFiles& files, const EngineOptions& options) {
  if (options.device == DeviceKind::kCuda) return Planner::suitable_gpu_chunk(files, with_a_gpu(options));
  const ModelConfig& config = files.config();
  constexpr std::int64_t kRowsPerExpert = 32;
  constexpr std::int64_t kLeast = 512;
  constexpr std::int64_t kMost = 2048;
  if (config.experts == 0) return kLeast;
  const std::int64_t enough = kRowsPerExpert * config.experts / config.experts_per_token;
  return std::clamp((enough + kLeast - 1) / kLeast * kLeast, kLeast, kMost);
}

Result<PlannedContext> plan_memory(const ModelFiles& files, const EngineOptions& options) {
  if (options.device == DeviceKind::kCpu || options.gpus.size() == 1) return Planner(files, options).plan();
  return options.gpus.empty() ? plan_on_few_gpus(files, options) : plan_split(files, options);
}

Result<Devices> make_devices(const EngineOptions& options, const MemoryPlan& plan) {
  Devices devices;
  if (options.device == DeviceKind::kCpu) {
    devices.backends.push_back(make_cpu_backend(options.threads));
    devices.layers.push_back(0);
  }
  for (const GpuShare& share : plan.gpus) {
    ENGINE_TRY(std::unique_ptr<Backend> backend,
               make_cuda_backend(share.gpu, {share.weights, share.sequences, share.scratch},
                                 {.on_device = plan.experts_on_gpu < plan.experts ? plan.experts_on_gpu : -1,
                                  .staging_bytes = plan.expert_staging,
                                  .threads = options.threads,
                                  .locked_bytes = plan.locked_experts}));
    devices.backends.push_back(std::move(backend));
    devices.layers.push_back(share.layers);
  }
  return devices;
}

Placement Devices::placement() const {
  std::vector<Placement::Share> shares;
  for (std::size_t i = 0; i < backends.size(); ++i) shares.push_back({backends[i].get(), layers[i]});
  return Placement(std::move(shares));
}

std::int64_t Devices::locked_bytes() const {
  std::int64_t sum = 0;
  for (const std::unique_ptr<Backend>& backend : backends) sum += backend->locked_bytes();
  return sum;
}

bool copies_weights(const EngineOptions& options, const MemoryPlan& plan) {
  if (options.device != DeviceKind::kCpu) return false;
  constexpr std::int64_t kWorthCopying = std::int64_t{256} << 20;
  if (options.weights != WeightPlacement::kAuto) return options.weights == WeightPlacement::kCopied;
  return plan.weights >= kWorthCopying && plan.total() + plan.weights / 4 <= plan.limit;
}

std::int64_t available_memory() {
  const std::int64_t available = meminfo_bytes("MemAvailable");
  return std::min(available > 0 ? available : std::numeric_limits<std::int64_t>::max() / 2, control_group_room());
}

}  // namespace lectern::engine
