// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/model_tools.h"
#include "model/model_files.h"
#include "model/tensor_plan.h"
#include "runtime/memory_plan.h"
#include "runtime/model_text.h"
#include "runtime/no_exceptions.h"
#include "runtime/token_work.h"
#include "runtime/type_shares.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kContexts[] = {4096, 32768, 131072, 262144, 1048576};

void add_tensors(const ModelFiles& files, ModelReport& report) {
  const auto add = [&report](const std::string& name, const std::string& type, const std::vector<std::int64_t>& shape,
                             std::size_t bytes) {
    report.tensors.push_back({name, type, shape, static_cast<std::int64_t>(bytes)});
  };
  if (files.gguf() != nullptr) {
    for (const auto& [name, tensor] : files.gguf()->tensors()) {
      add(name, std::string(name_of(tensor.dtype)), tensor.shape, tensor.bytes.size());
    }
  } else {
    for (const auto& [name, tensor] : files.tensors()) add(name, tensor.dtype, tensor.shape, tensor.bytes.size());
  }
  TypeShares shares;
  for (const TensorReport& tensor : report.tensors) {
    std::int64_t numbers = 1;
    for (const std::int64_t length : tensor.shape) numbers *= length;
    shares.add(tensor.type, numbers, tensor.bytes);
    report.weight_bytes += tensor.bytes;
  }
  report.types = shares.list();
}

void add_memory(const ModelFiles& files, ModelReport& report) {
  report.available_memory = available_memory();
  std::vector<std::int64_t> contexts;
  for (const std::int64_t context : kContexts) contexts.push_back(std::min(context, report.context_tokens));
  contexts.push_back(report.context_tokens);
  std::sort(contexts.begin(), contexts.end());
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  for (const std::int64_t context : contexts) {
    for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kQ8}) {
      EngineOptions options;
      options.context_tokens = context;
      options.kv_type = type;
      const Result<std::int64_t> chunk = suitable_chunk(files, options);
      if (!chunk.ok()) continue;
      options.prefill_chunk_tokens = *chunk;
      options.memory_limit_bytes = std::numeric_limits<std::int64_t>::max() / 4;
      Result<PlannedContext> planned = plan_memory(files, options);
      if (!planned.ok()) continue;
      planned->memory.limit = report.available_memory;
      const bool fits = planned->memory.total() <= report.available_memory;
      report.memory.push_back({context, type, planned->memory, fits});
    }
  }
}

void add_tokenizer(const std::filesystem::path& path, const ModelFiles& files, ModelReport& report) {
  const Result<std::unique_ptr<Tokenizer>> tokenizer = load_tokenizer(path, files);
  if (tokenizer.ok()) {
    report.tokenizer_tokens = (*tokenizer)->size();
  } else {
    report.tokenizer_note = tokenizer.error().message;
  }
}

Result<ModelReport> inspect(const std::filesystem::path& path) {
  ENGINE_TRY(const ModelFiles files, ModelFiles::open(path));
  ENGINE_TRY(const ModelPlan plan, plan_model(files, /*keep_mtp=*/true));
  const ModelConfig& config = files.config();
  const TokenWork work(files);
  ModelReport report;
  report.name = model_name(path);
  report.format = files.gguf() != nullptr ? "GGUF" : "safetensors";
  report.architecture = config.architecture;
  report.fingerprint = files.fingerprint();
  for (const TensorPlan& tensor : plan.tensors) report.parameters += tensor.numbers();
  report.active_parameters = static_cast<std::int64_t>(work.active_parameters());
  report.mtp_bytes = static_cast<std::int64_t>(work.mtp_bytes());
  report.context_tokens = config.context_tokens;
  report.hidden_size = config.hidden_size;
  report.vocabulary = config.vocabulary;
  report.attention_layers = std::count(config.layers.begin(), config.layers.end(), LayerKind::kAttention);
  report.delta_layers = static_cast<std::int64_t>(config.layers.size()) - report.attention_layers;
  report.experts = config.experts;
  report.experts_per_token = config.experts_per_token;
  report.has_mtp = plan.has_mtp;
  add_tensors(files, report);
  add_memory(files, report);
  add_tokenizer(path, files, report);
  return report;
}

}  // namespace

Result<ModelReport> inspect_model(const std::filesystem::path& path) {
  return without_exceptions([&] { return inspect(path); });
}

}  // namespace lectern::engine
