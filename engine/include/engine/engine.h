// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <vector>

#include "engine/result.h"
#include "engine/tokenizer.h"
#include "engine/types.h"

namespace lectern::engine {

// Devices this build knows of, usable or not; the CPU is always the first.
std::vector<DeviceInfo> list_devices();

// Watches a model being loaded; both are optional.
struct LoadObserver {
  // Bytes of weights handed to the device so far, and of all. Called on the loading thread, at most 20 times a second
  // and at the end.
  std::function<void(std::int64_t done, std::int64_t total)> on_progress;
  // A request ends the loading before its next matrix, with kCancelled.
  std::stop_token stop;
};

// A loaded model on one device, or on several GPUs. Owns weights, tokenizer and thread team.
// generate() may be called from any thread, one call at a time (a second call waits).
class Engine {
 public:
  // Opens a Hugging Face directory (config.json, *.safetensors, tokenizer). Every tensor is checked against the
  // configuration before first use. Errors: kNotFound, kCorrupt, kUnsupported, kOutOfMemory, kDevice, kCancelled.
  static Result<std::unique_ptr<Engine>> open(const std::filesystem::path& model_directory,
                                              const EngineOptions& options, const LoadObserver& observer = {});

  virtual ~Engine() = default;

  virtual const ModelInfo& info() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;

  // Tokens of the whole chat prompt as generate() would feed it.
  virtual Result<std::int64_t> count_prompt_tokens(const std::vector<ChatMessage>& messages, bool thinking) const = 0;

  // Streams to `sink`. A stop request ends it within one layer of the model with FinishReason::kCancelled and the text
  // so far. Errors: kInvalidArgument (empty prompt, prompt longer than the
  // context, with both numbers), kOutOfMemory.
  virtual Result<GenerationResult> generate(const GenerationRequest& request, GenerationSink& sink,
                                            std::stop_token stop) = 0;

  // Natural log probability of every token but the first, given those before it: what perplexity is made of.
  // Errors: kInvalidArgument (fewer than two tokens, more than the context holds, unknown ids), kCancelled,
  // kOutOfMemory.
  virtual Result<std::vector<float>> score(const std::vector<TokenId>& tokens, std::stop_token stop) = 0;
};

}  // namespace lectern::engine
