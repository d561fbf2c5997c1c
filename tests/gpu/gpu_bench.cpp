// SPDX-License-Identifier: GPL-3.0-or-later
// Measures the engine on a GPU at the model's true size with weights made there: README.md says how to read it.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <new>
#include <utility>

#include "cuda/cuda_plan.h"
#include "decoding.h"
#include "dense_products.h"
#include "gpu.h"
#include "operations.h"
#include "options.h"
#include "prefill.h"

namespace lectern::engine::bench {
namespace {

constexpr std::int64_t kMebibyte = std::int64_t{1} << 20;
constexpr std::int64_t kLongContext = 100'000;

struct Measurement {
  std::string group;  // the list of the report that it belongs to
  std::string name;
  double state_bytes = 0;  // of all its sequences, as planned
  std::function<Result<Json>()> run;
  bool instrument_may_fail = false;  // such a failure says nothing about the engine
};

// Activations of a pass, as Transformer takes them, and the working memory of its operations.
std::int64_t planned_scratch(const ModelConfig& config, std::int64_t chunk) {
  CudaWork work;
  work.rows = std::max(chunk, kSmallBatchRows);
  work.widest = std::max({2 * config.hidden_size, config.value_width(), config.query_width()});
  work.experts = config.experts;
  work.chosen = config.experts_per_token;
  work.hidden = config.hidden_size;
  work.inner = config.expert_width;
  work.shared = config.shared_expert_width;
  work.attention = config.attention;
  work.delta = config.delta;
  const std::int64_t width = 5 * config.hidden_size + 2 * config.conv_channels() + config.value_width() +
                             2 * config.delta.value_heads + 2 * config.query_width() + 2 * config.kv_width() +
                             std::max(config.value_width(), config.query_width());
  return 4 * (width * work.rows + kSmallBatchRows * config.vocabulary) + cuda_working_bytes(work);
}

Json json_of(const GpuFacts& facts) {
  Json json;
  json.add("name", facts.name).add("compute_capability", facts.compute_capability);
  json.add("multiprocessors", facts.multiprocessors).add("cache_bytes", facts.cache_bytes);
  json.add("memory_bytes", facts.memory_bytes);
  return json.add("driver_cuda", facts.driver_cuda).add("runtime_cuda", facts.runtime_cuda);
}

Json json_of(const DeviceRates& rates) {
  Json json;
  json.add("copy_bytes_per_second", rates.copy_bytes).add("read_bytes_per_second", rates.read_bytes);
  json.add("bf16_mma_operations_per_second", rates.bf16_operations);
  json.add("host_to_device_bytes_per_second", rates.host_to_device_bytes);
  json.add("graph_node_microseconds", 1e6 * rates.graph_node_seconds);
  return json.add("queued_launch_microseconds", 1e6 * rates.queued_launch_seconds);
}

Json json_of(const DeviceMemory& memory) {
  return Json().add("weights", memory.weights).add("state", memory.state).add("scratch", memory.scratch);
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        config_(options.tiny ? tiny_shape() : large_shape(options.layers)),
        format_(*find_format(options.format)) {}

  // Everything up to the first measurement.
  Result<void> set_up() {
    ENGINE_TRY(const GpuFacts facts, gpu_facts(options_.device));
    report_.add("format", options_.format).add("shape", options_.tiny ? "tiny" : "Qwen3-Next-80B-A3B");
    report_.add("layers", config_.layers.size()).add("seed", options_.seed).add("device", json_of(facts));
    ENGINE_TRY(rates_, measure_device_rates(options_.tiny ? kMebibyte : 8192 * kMebibyte));
    report_.add("rates", json_of(rates_));
    ENGINE_CHECK(make_model());
    report_.add("dense_products", gpu_->plain_backend().dense_products());
    subject_.emplace(Subject{*model_, *backend_, traffic_of(config_, model_->weights()), rates_, options_.passes});
    subject_->deadline = start_ + std::chrono::milliseconds(static_cast<std::int64_t>(1000 * options_.budget_seconds));
    return {};
  }

  // 0: everything went well; 1: a check failed or something could not be measured.
  int run() {
    for (const Measurement& measurement : measurements()) measure(measurement);
    write();
    return failed_ ? 1 : 0;
  }

 private:
  Result<void> make_model() {
    const std::int64_t matrices = weights_bytes(config_, format_);
    const std::int64_t scratch = planned_scratch(config_, options_.chunk);
    ENGINE_TRY(const std::int64_t free, cuda_free_memory(options_.device));
    // More scratch than planned, so that a plan that is too small is seen as one.
    DeviceMemory memory = {128 * kMebibyte, 0, scratch + scratch / 4 + 256 * kMebibyte};
    memory.state = free - matrices - memory.weights - memory.scratch - 1024 * kMebibyte;
    if (options_.tiny) memory = {0, 256 * kMebibyte, 0};
    if (memory.state <= 0) {
      return Error{ErrorCode::kOutOfMemory, "The weights take " + std::to_string(matrices / kMebibyte) + " MiB of " +
                                                std::to_string(free / kMebibyte) + " MiB; take fewer layers."};
    }
    ENGINE_TRY(gpu_, Gpu::open(options_.device, memory));
    ENGINE_TRY(maker_, WeightMaker::create(matrices, static_cast<std::uint64_t>(options_.seed), gpu_->stream()));
    backend_.emplace(gpu_->backend());
    const auto begin = Clock::now();
    ENGINE_TRY(ModelWeights weights, make_weights(config_, format_, *backend_, *maker_));
    std::printf("%lld MiB of weights made in %.1f s\n", static_cast<long long>(matrices / kMebibyte),
                seconds_since(begin));
    ENGINE_TRY(model_, Transformer::assemble(std::move(weights), config_, *backend_, options_.chunk));
    state_room_ = memory.state;
    planned_ = {matrices, 0, scratch};
    return {};
  }

  double state_bytes(std::int64_t tokens, KvType kv, std::int64_t sequences) const {
    const auto caches =
        1 + std::count(config_.layers.begin(), config_.layers.end(), LayerKind::kAttention);  // and MTP's
    const std::int64_t cache = cuda_cache_bytes(config_.attention, kv, tokens + 2 * options_.passes + 512);
    return static_cast<double>(sequences) * (static_cast<double>(caches * cache) + 2 * subject_->traffic.state_bytes);
  }

  void add_decode(std::vector<Measurement>& list, std::int64_t context, std::int64_t sequences, KvType kv) {
    const std::string name = "decode at " + std::to_string(context) + ", " + std::to_string(sequences) +
                             (sequences == 1 ? " sequence, " : " sequences, ") + name_of(kv);
    list.push_back({"decode", name, state_bytes(context, kv, sequences), [this, context, sequences, kv] {
                      return measure_decode(*subject_, {context, sequences, kv});
                    }});
  }

  // One sequence, and for long contexts both kinds of keys and values.
  void add_single(std::vector<Measurement>& list, std::int64_t context) {
    add_decode(list, context, 1, options_.kv[0]);
    if (context >= kLongContext && options_.kv.size() > 1) add_decode(list, context, 1, options_.kv[1]);
  }

  void add_prefill(std::vector<Measurement>& list, std::size_t index) {
    if (index >= options_.prefill.size()) return;
    const std::int64_t tokens = options_.prefill[index];
    list.push_back({"prefill", "prefill of " + std::to_string(tokens), state_bytes(tokens, options_.kv[0], 1),
                    [this, tokens] { return measure_prefill(*subject_, tokens, options_.kv[0]); }});
  }

  void add_scripted(std::vector<Measurement>& list, std::int64_t context) {
    for (const std::int64_t rows : {4, 3, 2}) {
      const std::string name =
          "scripted acceptance at " + std::to_string(context) + ", " + std::to_string(rows) + " rows";
      list.push_back({"scripted", name, state_bytes(context + 1024, options_.kv[0], 1), [this, context, rows] {
                        return measure_scripted(*subject_, {context, 1, options_.kv[0]}, rows);
                      }});
    }
  }

  void add_operations(std::vector<Measurement>& list, std::int64_t context, std::int64_t rows,
                      ObservedBackend::Mode mode) {
    const std::string name = "operations of " + std::to_string(rows) + (rows == 1 ? " row at " : " rows at ") +
                             std::to_string(context) +
                             (mode == ObservedBackend::Mode::kTimedInGraph ? " in the graph" : " queued");
    list.push_back({"operations", name, state_bytes(context, options_.kv[0], 1),
                    [this, context, rows, mode] {
                      return measure_operations(*subject_, {context, rows, options_.kv[0], mode});
                    },
                    mode == ObservedBackend::Mode::kTimedInGraph});
  }

  // The most important first.
  std::vector<Measurement> measurements() {
    using Mode = ObservedBackend::Mode;
    const std::vector<std::int64_t>& contexts = options_.contexts;
    std::vector<Measurement> list;
    list.push_back({"checks", "checks", 0, [this] { return checked(); }});
    if (!contexts.empty()) add_single(list, contexts[0]);
    add_prefill(list, 0);
    if (contexts.size() > 1) add_single(list, contexts[1]);
    if (!contexts.empty()) add_operations(list, contexts[0], 1, Mode::kTimedQueued);
    if (!options_.prefill.empty()) {
      add_operations(list, options_.prefill[0], std::min(options_.chunk, options_.prefill[0]), Mode::kTimedQueued);
    }
    list.push_back({"dense", "dense products", dense_state_bytes(model_->weights(), options_.chunk),
                    [this] { return measure_dense(*subject_, gpu_->plain_backend(), options_.chunk); }});
    for (std::size_t i = 2; i < contexts.size(); ++i) add_single(list, contexts[i]);
    if (!contexts.empty()) add_scripted(list, contexts[0]);
    list.push_back({"routing", "routing", 0, [this] { return measure_routing(*subject_); }});
    add_prefill(list, 1);
    if (contexts.size() > 1) add_scripted(list, contexts[1]);
    for (const std::int64_t sequences : options_.batches) {
      if (sequences == 1) continue;
      for (const std::int64_t context : contexts) add_decode(list, context, sequences, options_.kv[0]);
    }
    for (std::size_t i = 2; i < options_.prefill.size(); ++i) add_prefill(list, i);
    for (std::size_t i = 0; i < std::min<std::size_t>(2, contexts.size()); ++i) {
      add_operations(list, contexts[i], 1, Mode::kTimedInGraph);
    }
    return list;
  }

  Result<Json> checked() {
    ENGINE_TRY(Json json, check_model(*subject_));
    const std::string text = json.text();
    if (text.find("false") != std::string::npos) {
      failed_ = true;
      std::printf("A check of the model failed: %s\n", text.c_str());
    }
    return json;
  }

  void leave_out(const Measurement& measurement, const std::string& why) {
    std::printf("%-52s not measured: %s\n", measurement.name.c_str(), why.c_str());
    left_out_.append(Json().add("name", measurement.name).add("why", why));
  }

  void measure(const Measurement& measurement) {
    if (broken_) return leave_out(measurement, "the GPU had failed before");
    if (Clock::now() >= subject_->deadline) return leave_out(measurement, "the time was used up");
    if (measurement.state_bytes > static_cast<double>(state_room_)) {
      return leave_out(measurement, "it does not fit beside the weights");
    }
    planned_.state = std::max(planned_.state, static_cast<std::int64_t>(measurement.state_bytes));
    const auto begin = Clock::now();
    const Result<Json> result = guarded(measurement);
    if (!result.ok()) {
      failed_ = failed_ || !measurement.instrument_may_fail;
      broken_ = result.error().code == ErrorCode::kDevice;
      return leave_out(measurement, result.error().message);
    }
    std::printf("%-52s %.200s (%.1f s)\n", measurement.name.c_str(), result.value().text().c_str(),
                seconds_since(begin));
    std::fflush(stdout);
    groups_.try_emplace(measurement.group, Json::list()).first->second.append(result.value());
    write();
  }

  Result<Json> guarded(const Measurement& measurement) {
    try {
      return measurement.run();
    } catch (const std::bad_alloc&) {
      return Error{ErrorCode::kOutOfMemory, "working memory was too small"};
    } catch (const std::exception& error) {
      return Error{ErrorCode::kUnsupported, error.what()};
    }
  }

  void write() const {
    if (options_.json.empty()) return;
    Json all = report_;
    DeviceMemory used = backend_->most_memory();
    used.weights += maker_->used();
    all.add("memory", Json().add("planned", json_of(planned_)).add("most_used", json_of(used)));
    for (const auto& [name, list] : groups_) all.add(name, list);
    all.add("not_measured", left_out_).add("failed", failed_).add("seconds", seconds_since(start_));
    const std::filesystem::path whole = options_.json + ".part";
    std::ofstream(whole) << all.text() << "\n";
    std::filesystem::rename(whole, options_.json);
  }

  const Options& options_;
  ModelConfig config_;
  Format format_;
  Clock::time_point start_ = Clock::now();
  DeviceRates rates_;
  std::unique_ptr<Gpu> gpu_;
  std::unique_ptr<WeightMaker> maker_;
  std::optional<ObservedBackend> backend_;
  std::unique_ptr<Transformer> model_;
  std::optional<Subject> subject_;
  std::int64_t state_room_ = 0;
  DeviceMemory planned_;
  Json report_;
  std::map<std::string, Json> groups_;
  Json left_out_ = Json::list();
  bool failed_ = false;
  bool broken_ = false;
};

int run(const Options& options) {
  Bench bench(options);
  if (const Result<void> ready = bench.set_up(); !ready.ok()) {
    std::fprintf(stderr, "%s\n", ready.error().message.c_str());
    return 1;
  }
  return bench.run();
}

}  // namespace
}  // namespace lectern::engine::bench

int main(int argc, char** argv) {
  using namespace lectern::engine;
  const Result<bench::Options> options = bench::parse_options(argc, argv);
  if (!options.ok()) {
    std::fprintf(stderr, "%s\n", options.error().message.c_str());
    return 2;
  }
  if (options.value().help) {
    std::fputs(bench::kHelp, stdout);
    return 0;
  }
  try {
    return bench::run(options.value());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
