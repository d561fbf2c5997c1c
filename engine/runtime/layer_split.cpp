// SPDX-License-Identifier: Apache-2.0
#include "runtime/layer_split.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda/cuda_devices.h"

namespace lectern::engine {
namespace {

std::vector<int> usable_gpus() {
  std::vector<int> gpus;
  const std::vector<DeviceInfo> devices = cuda_devices();
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (devices[i].usable) gpus.push_back(static_cast<int>(i));
  }
  return gpus;
}

// "0", "0 and 1", "0, 1 and 2"
std::string list_of(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " and " : ", ";
    text += items[i];
  }
  return text;
}

std::string device_option(const std::vector<int>& gpus) {
  std::string text = "--device cuda:";
  for (const int gpu : gpus) text += (text.back() == ':' ? "" : ",") + std::to_string(gpu);
  return text;
}

// Bytes on a GPU of every layer's weights, of the embedding and of what is behind the layers.
struct WeightsByLayer {
  std::vector<std::int64_t> layers;
  std::int64_t embedding = 0;
  std::int64_t behind = 0;
  bool has_mtp = false;

  explicit WeightsByLayer(const ModelFiles& files) : layers(files.config().layers.size()) {
    for (const auto& [name, tensor] : files.tensors()) {
      const std::int64_t bytes = gpu_weight_bytes(tensor);
      if (name == "model.embed_tokens.weight") {
        embedding += bytes;
      } else if (const std::optional<std::size_t> layer = layer_of(name); layer && *layer < layers.size()) {
        layers[*layer] += bytes;
      } else {
        behind += bytes;
      }
      has_mtp = has_mtp || name == "mtp.fc.weight" || name == "model.mtp.fc.weight";
    }
    if (files.config().tied_embeddings || has_mtp) behind += embedding;
  }

 private:
  static std::optional<std::size_t> layer_of(std::string_view name) {
    constexpr std::string_view kLayers = "model.layers.";
    if (!name.starts_with(kLayers)) return std::nullopt;
    std::size_t layer = 0;
    const auto read = std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer);
    return read.ec == std::errc() ? std::optional(layer) : std::nullopt;
  }
};

using Layers = std::vector<std::int64_t>;  // of each GPU

class Splitter {
 public:
  Splitter(const ModelFiles& files, const EngineOptions& options)
      : config_(files.config()), options_(options), weights_(files) {}

  Result<PlannedContext> plan() {
    ENGINE_CHECK(check());
    for (const int gpu : options_.gpus) {
      ENGINE_TRY(const std::int64_t limit, gpu_limit(options_, gpu));
      limits_.push_back(limit);
    }
    ENGINE_CHECK(check_each());
    const auto longest =
        static_cast<std::int64_t>(std::max(1.0, options_.rope_factor) * static_cast<double>(config_.context_tokens));
    const bool chosen = options_.context_tokens > 0;
    const std::int64_t wanted = chosen ? std::min(options_.context_tokens, longest) : longest;
    const std::int64_t least = chosen ? wanted : std::min(wanted, kSmallestContext);
    const std::int64_t fitting = fitting_context(wanted);
    if (fitting < least) return refusal(wanted, fitting);
    return PlannedContext{fitting, memory(fitting, even_layers(fitting))};
  }

 private:
  std::size_t gpus() const { return options_.gpus.size(); }

  Result<void> check() const {
    if (gpus() > config_.layers.size()) {
      const std::string layers = std::to_string(config_.layers.size());
      return Error{ErrorCode::kInvalidArgument, "The model has " + layers + " layers for " + std::to_string(gpus()) +
                                                    " GPUs; name at most " + layers + " of them."};
    }
    if (options_.gpu_experts >= 0 && options_.gpu_experts < config_.experts) {
      return Error{ErrorCode::kInvalidArgument,
                   "Experts stay in the computer's memory (gpu_experts) for one GPU only; name one (" +
                       device_option({options_.gpus.front()}) + "), or leave all experts to the GPUs."};
    }
    return {};
  }

  // A GPU that has no room for a single layer would only be in the way.
  Result<void> check_each() const {
    for (std::size_t gpu = 0; gpu < gpus(); ++gpu) {
      std::int64_t least = bytes(gpu, 0, 1, kSmallestContext);
      for (std::size_t i = 1; i < config_.layers.size(); ++i) {
        least = std::min(least, bytes(gpu, i, i + 1, kSmallestContext));
      }
      if (least <= limits_[gpu]) continue;
      std::vector<int> others = options_.gpus;
      others.erase(others.begin() + static_cast<std::ptrdiff_t>(gpu));
      return Error{ErrorCode::kInvalidArgument, "GPU " + std::to_string(options_.gpus[gpu]) + " has " +
                                                    gibibytes(limits_[gpu]) + " available, and one layer takes " +
                                                    gibibytes(least) + " there; leave it out (" +
                                                    device_option(others) + ")."};
    }
    return {};
  }

  ModelPart part(std::size_t gpu, std::size_t first, std::size_t end) const {
    ModelPart part;
    part.config = config_;
    part.config.layers.assign(config_.layers.begin() + static_cast<std::ptrdiff_t>(first),
                              config_.layers.begin() + static_cast<std::ptrdiff_t>(end));
    for (std::size_t i = first; i < end; ++i) part.weights += weights_.layers[i];
    if (gpu == 0) part.weights += weights_.embedding;
    if (gpu + 1 == gpus()) {
      part.weights += weights_.behind;
      part.has_mtp = weights_.has_mtp;
    } else {
      part.config.vocabulary = 0;
    }
    return part;
  }

  std::int64_t bytes(std::size_t gpu, std::size_t first, std::size_t end, std::int64_t context) const {
    return plan_part(part(gpu, first, end), options_, context).total();
  }

  // Every GPU but the last takes as many layers as fill this share of its memory; none where that is not enough.
  std::optional<Layers> layers_within(double share, std::int64_t context) const {
    Layers layers;
    std::size_t first = 0;
    for (std::size_t gpu = 0; gpu < gpus(); ++gpu) {
      const auto room = static_cast<std::int64_t>(share * static_cast<double>(limits_[gpu]));
      const std::size_t most = config_.layers.size() - (gpus() - 1 - gpu);  // every later one has one at least
      std::size_t end = gpu + 1 == gpus() ? most : first + 1;
      if (end > most || bytes(gpu, first, end, context) > room) return std::nullopt;
      while (end < most && bytes(gpu, first, end + 1, context) <= room) ++end;
      layers.push_back(static_cast<std::int64_t>(end - first));
      first = end;
    }
    return layers;
  }

  // The fullest GPU is as empty as it can be.
  Layers even_layers(std::int64_t context) const {
    constexpr int kSteps = 12;
    double low = 0;
    double high = 1;
    Layers best = *layers_within(1, context);
    for (int step = 0; step < kSteps; ++step) {
      const double middle = (low + high) / 2;
      const std::optional<Layers> layers = layers_within(middle, context);
      (layers ? high : low) = middle;
      if (layers) best = *layers;
    }
    return best;
  }

  // The most tokens, up to `most`, that fit.
  std::int64_t fitting_context(std::int64_t most) const {
    if (layers_within(1, most)) return most;
    std::int64_t fits = 0;
    for (std::int64_t step = std::int64_t{1} << 40; step > 0; step /= 2) {
      if (fits + step < most && layers_within(1, fits + step)) fits += step;
    }
    return fits;
  }

  MemoryPlan memory(std::int64_t context, const Layers& layers) const {
    MemoryPlan all;
    std::vector<PartPlan> parts;
    std::size_t first = 0;
    for (std::size_t gpu = 0; gpu < gpus(); ++gpu) {
      const std::size_t end = first + static_cast<std::size_t>(layers[gpu]);
      parts.push_back(plan_part(part(gpu, first, end), options_, context));
      const MemoryPlan& one = parts.back().memory;
      all.weights += one.weights;
      all.kv_cache += parts.back().kv_cache;
      all.state += one.state;
      all.scratch += one.scratch;
      all.sessions += one.sessions;
      all.limit += limits_[gpu];
      all.gpus.push_back({options_.gpus[gpu], layers[gpu], one.weights,
                          parts.back().kv_cache + one.state + one.sessions, one.scratch, limits_[gpu]});
      first = end;
    }
    all.experts = config_.experts;
    all.experts_on_gpu = config_.experts;
    if (all.sessions > 0) add_kept_sessions(parts, all);
    return all;
  }

  // A kept sequence is spread over the GPUs as its states are, if it is short, and as its keys and values, if it is
  // long: every GPU has room for the worse.
  void add_kept_sessions(const std::vector<PartPlan>& parts, MemoryPlan& all) const {
    std::vector<double> spread;
    auto kept = static_cast<double>(options_.sessions.memory_bytes);
    for (std::size_t gpu = 0; gpu < gpus(); ++gpu) {
      const auto part_of = [](std::int64_t part, std::int64_t whole) {
        return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
      };
      spread.push_back(
          std::max(part_of(parts[gpu].memory.state, all.state), part_of(parts[gpu].kv_cache, all.kv_cache)));
      const auto room = static_cast<double>(limits_[gpu] - parts[gpu].total());
      if (spread[gpu] > 0) kept = std::min(kept, room / spread[gpu]);
    }
    all.kept_sessions = static_cast<std::int64_t>(kept);
    for (std::size_t gpu = 0; gpu < gpus(); ++gpu) {
      const auto bytes = static_cast<std::int64_t>(kept * spread[gpu]);
      all.gpus[gpu].sequences += bytes;
      all.sessions += bytes;
    }
  }

  Error refusal(std::int64_t wanted, std::int64_t fitting) const {
    const PartPlan whole = plan_part(whole_model(), options_, wanted);
    std::vector<std::string> names;
    std::vector<std::string> rooms;
    for (std::size_t gpu = 0; gpu < gpus(); ++gpu) {
      names.push_back(std::to_string(options_.gpus[gpu]));
      rooms.push_back(gibibytes(limits_[gpu]));
    }
    std::string text = "The model needs " + gibibytes(whole.total()) + " of GPU memory (weights " +
                       gibibytes(whole.memory.weights) + ", keys and values of " + std::to_string(wanted) + " tokens " +
                       gibibytes(whole.kv_cache) + ") and " + gibibytes(whole.memory.scratch) +
                       " of activations on every further GPU, but GPUs " + list_of(names) + " have " + list_of(rooms) +
                       " available, and each takes whole layers; ";
    if (fitting >= kSmallestContext) {
      text += "a context of " + std::to_string(fitting) + " tokens fits.";
    } else {
      text += "use a smaller model or a smaller quantisation of it, or run it on the CPU";
      if (config_.experts > 0) {
        text +=
            ", or on one GPU with experts in the computer's memory (" + device_option({options_.gpus.front()}) + ")";
      }
      text += ".";
    }
    return {ErrorCode::kOutOfMemory, text};
  }

  ModelPart whole_model() const {
    ModelPart whole;
    whole.config = config_;
    whole.weights = weights_.embedding + weights_.behind;
    for (const std::int64_t layer : weights_.layers) whole.weights += layer;
    whole.has_mtp = weights_.has_mtp;
    return whole;
  }

  const ModelConfig& config_;
  const EngineOptions& options_;
  WeightsByLayer weights_;
  std::vector<std::int64_t> limits_;
};

// Most free memory first; without those that do not answer.
std::vector<int> largest_first(const std::vector<int>& gpus, const EngineOptions& options) {
  std::vector<std::pair<std::int64_t, int>> limits;
  for (const int gpu : gpus) {
    const Result<std::int64_t> limit = gpu_limit(options, gpu);
    if (limit.ok()) limits.emplace_back(*limit, gpu);
  }
  std::stable_sort(limits.begin(), limits.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<int> sorted;
  for (const auto& [limit, gpu] : limits) sorted.push_back(gpu);
  return sorted;
}

// Whether nothing is gained by more GPUs.
bool fits_well(const PlannedContext& planned, const ModelFiles& files, const EngineOptions& options) {
  return planned.memory.experts_on_gpu == planned.memory.experts &&
         (options.context_tokens > 0 ||
          planned.context_tokens >= std::min(files.config().context_tokens, kUsefulContext));
}

bool is_better(const PlannedContext& a, const PlannedContext& b) {
  const auto worth = [](const PlannedContext& planned) {
    return std::tuple(std::min(planned.context_tokens, kUsefulContext), planned.memory.experts_on_gpu,
                      planned.context_tokens);
  };
  return worth(a) > worth(b);
}

}  // namespace

EngineOptions with_a_gpu(EngineOptions options) {
  if (!options.gpus.empty()) return options;
  const std::vector<int> usable = usable_gpus();
  options.gpus = {usable.empty() ? 0 : usable.front()};
  return options;
}

Result<PlannedContext> plan_split(const ModelFiles& files, const EngineOptions& options) {
  return Splitter(files, options).plan();
}

Result<PlannedContext> plan_on_few_gpus(const ModelFiles& files, const EngineOptions& options) {
  EngineOptions chosen = with_a_gpu(options);
  Result<PlannedContext> best = plan_memory(files, chosen);
  const bool hosts_experts = options.gpu_experts >= 0 && options.gpu_experts < files.config().experts;
  if (hosts_experts || (best.ok() && fits_well(*best, files, options))) return best;
  chosen.gpus.clear();
  for (const int gpu : largest_first(usable_gpus(), options)) {
    chosen.gpus.push_back(gpu);
    Result<PlannedContext> planned = plan_memory(files, chosen);
    if (planned.ok() && fits_well(*planned, files, options)) return planned;
    if (!planned.ok() && planned.error().code == ErrorCode::kInvalidArgument) break;  // too small, as are the others
    if (!best.ok() || (planned.ok() && is_better(*planned, *best))) best = std::move(planned);
  }
  return best;
}

}  // namespace lectern::engine
