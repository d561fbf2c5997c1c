// SPDX-License-Identifier: Apache-2.0
#include "runtime/opened_model.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <system_error>
#include <utility>

#include "model/model_files.h"
#include "runtime/engine_options.h"
#include "runtime/memory_plan.h"
#include "runtime/model_text.h"

namespace lectern::engine {
Result<OpenedModel> OpenedModel::open(const std::filesystem::path& path, EngineOptions options,
                                      std::int64_t needed_tokens, const std::stop_token& stop) {
  ENGINE_CHECK(check_options(options));
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return Error{ErrorCode::kNotFound, "There is no model directory or GGUF file " + path.string() + "."};
  }
  const auto start = std::chrono::steady_clock::now();
  ENGINE_TRY(ModelFiles files, ModelFiles::open(path));
  OpenedModel model;
  model.name = model_name(path);
  ENGINE_TRY(model.tokenizer, load_tokenizer(path, files));
  if (options.prefill_chunk_tokens == 0) {
    ENGINE_TRY(options.prefill_chunk_tokens, suitable_chunk(files, options));
  }
  if (options.context_tokens == 0) options.context_tokens = needed_tokens;
  ENGINE_TRY(const PlannedContext planned, plan_memory(files, options));
  if (planned.context_tokens < needed_tokens) {
    return Error{ErrorCode::kInvalidArgument, "The measurement needs a context of " + std::to_string(needed_tokens) +
                                                  " tokens, but there are " + std::to_string(planned.context_tokens) +
                                                  "; ask for fewer tokens or for a rope factor."};
  }
  options.context_tokens = planned.context_tokens;
  model.memory = planned.memory;
  if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "Opening the model was stopped."};
  ENGINE_TRY(model.devices, make_devices(options, planned.memory));
  const std::int64_t chunk = std::min(options.prefill_chunk_tokens, planned.context_tokens);
  ENGINE_TRY(model.transformer, Transformer::load(std::move(files), model.devices.placement(), chunk));
  const auto seconds = [&start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  model.load_seconds = seconds();
  model.memory.locked_experts = model.devices.locked_bytes();
  if (copies_weights(options, planned.memory)) {
    ENGINE_CHECK(model.transformer->move_weights_to_memory(options.threads, stop));
    model.copy_seconds = seconds() - model.load_seconds;
  }
  model.options = std::move(options);
  return model;
}

SequenceOptions OpenedModel::sequence_options(std::int64_t tokens, bool with_mtp) const {
  const ModelConfig& config = transformer->config();
  SequenceOptions sequence{options.kv_type, config.yarn, with_mtp};
  if (options.rope_factor > 1 && tokens > config.context_tokens) {
    sequence.yarn = {.factor = options.rope_factor, .original_context = config.context_tokens};
  }
  return sequence;
}

TokenId most_likely_token(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::string bits_fingerprint(std::span<const float> numbers) {
  std::uint64_t hash = 14695981039346656037U;  // FNV-1a over the bits of whole numbers
  for (const float number : numbers) hash = (hash ^ std::bit_cast<std::uint32_t>(number)) * 1099511628211U;
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[hash >> shift & 15U];
  return text;
}

}  // namespace lectern::engine
