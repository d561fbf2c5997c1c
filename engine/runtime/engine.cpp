// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "model/transformer.h"
#include "ops/backend.h"
#include "runtime/generation.h"
#include "runtime/scoring.h"
#include "runtime/stop_tokens.h"
#include "runtime/transformer_sequence.h"
#include "text/chat_template.h"

namespace lectern::engine {

namespace {

constexpr int kMaxThreads = 1024;
constexpr std::int64_t kMaxChunkTokens = 16384;

// The boundary of the module: runs `action`, whose exceptions become errors.
template <class Action>
auto without_exceptions(Action action) -> decltype(action()) {
  try {
    return action();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kOutOfMemory, "There is not enough memory; use a smaller context or a smaller model."};
  } catch (const std::exception& failure) {
    return Error{ErrorCode::kIo, std::string("The engine met an unexpected failure: ") + failure.what() + "."};
  }
}

Result<void> check_options(const EngineOptions& options) {
  const auto wrong = [](const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
    return Error{ErrorCode::kInvalidArgument, std::string(name) + " is " + std::to_string(value) + " but must be " +
                                                  std::to_string(low) + " to " + std::to_string(high) + "."};
  };
  if (options.threads < 0 || options.threads > kMaxThreads) return wrong("threads", options.threads, 0, kMaxThreads);
  if (options.prefill_chunk_tokens < 1 || options.prefill_chunk_tokens > kMaxChunkTokens) {
    return wrong("prefill_chunk_tokens", options.prefill_chunk_tokens, 1, kMaxChunkTokens);
  }
  if (options.context_tokens < 0) {
    return Error{ErrorCode::kInvalidArgument, "context_tokens is negative; use 0 for the model's own maximum."};
  }
  return {};
}

Result<std::unique_ptr<Backend>> make_backend(const EngineOptions& options) {
  if (options.device == DeviceKind::kCpu) return make_cpu_backend(options.threads);
  return Error{ErrorCode::kDevice, "This build cannot run models on a CUDA device; choose the CPU."};
}

std::string directory_name(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory.lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

struct Parts {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Transformer> transformer;
  ChatTemplate chat_template;
  GenerationLimits limits;
  ModelInfo info;
};

GenerationResult cancelled() {
  GenerationResult result;
  result.finish = FinishReason::kCancelled;
  return result;
}

class LoadedEngine final : public Engine {
 public:
  explicit LoadedEngine(Parts parts) : parts_(std::move(parts)) {}

  const ModelInfo& info() const override { return parts_.info; }
  const Tokenizer& tokenizer() const override { return *parts_.tokenizer; }

  Result<std::int64_t> count_prompt_tokens(const std::vector<ChatMessage>& messages, bool thinking) const override {
    return without_exceptions([&]() -> Result<std::int64_t> {
      ENGINE_TRY(const std::vector<TokenId> prompt, parts_.chat_template.encode(messages, thinking, *parts_.tokenizer));
      return static_cast<std::int64_t>(prompt.size());
    });
  }

  Result<GenerationResult> generate(const GenerationRequest& request, GenerationSink& sink,
                                    std::stop_token stop) override {
    return without_exceptions([&]() -> Result<GenerationResult> {
      ENGINE_TRY(const std::vector<TokenId> prompt,
                 parts_.chat_template.encode(request.messages, request.thinking, *parts_.tokenizer));
      const std::unique_lock lock = wait_for_turn(stop);
      if (!lock.owns_lock()) return cancelled();
      ENGINE_TRY(SequenceState state, parts_.transformer->new_sequence());
      TransformerSequence sequence(*parts_.transformer, std::move(state));
      return generate_reply(sequence, *parts_.tokenizer, parts_.limits, prompt, request, sink, std::move(stop));
    });
  }

  Result<std::vector<float>> score(const std::vector<TokenId>& tokens, std::stop_token stop) override {
    return without_exceptions([&]() -> Result<std::vector<float>> {
      const std::unique_lock lock = wait_for_turn(stop);
      if (!lock.owns_lock()) return Error{ErrorCode::kCancelled, "Scoring was stopped."};
      return score_tokens(*parts_.transformer, tokens, parts_.limits.context_tokens, std::move(stop));
    });
  }

 private:
  // Not owned when a stop was requested while another call ran.
  std::unique_lock<std::timed_mutex> wait_for_turn(const std::stop_token& stop) {
    constexpr std::chrono::milliseconds kPatience(50);
    std::unique_lock lock(one_at_a_time_, std::defer_lock);
    while (!lock.try_lock_for(kPatience) && !stop.stop_requested()) {
    }
    return lock;
  }

  Parts parts_;
  std::timed_mutex one_at_a_time_;
};

ModelInfo describe(const std::filesystem::path& directory, const Transformer& transformer, std::int64_t context) {
  ModelInfo info;
  info.name = directory_name(directory);
  info.architecture = "qwen3_next";
  info.parameters = transformer.weights().parameters;
  info.weight_bytes = transformer.weights().bytes;
  info.context_tokens = context;
  info.layers = static_cast<std::int64_t>(transformer.config().layers.size());
  info.has_mtp = transformer.has_mtp();
  return info;
}

// The small files first: most mistakes are found before the weights are touched.
Result<std::unique_ptr<Engine>> open_engine(const std::filesystem::path& directory, const EngineOptions& options) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return Error{ErrorCode::kNotFound, "There is no model directory " + directory.string() + "."};
  }
  ENGINE_CHECK(check_options(options));
  ENGINE_TRY(const ModelConfig config, read_config(directory));
  ENGINE_TRY(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::load(directory));
  if (tokenizer->size() > config.vocabulary) {
    return Error{ErrorCode::kCorrupt, "The tokenizer has " + std::to_string(tokenizer->size()) +
                                          " tokens but the model's vocabulary_size is " +
                                          std::to_string(config.vocabulary) + "; the files are of different models."};
  }
  ENGINE_TRY(ChatTemplate chat_template, ChatTemplate::load(directory, *tokenizer));
  GenerationLimits limits;
  ENGINE_TRY(limits.stop_tokens, read_stop_tokens(directory, *tokenizer));
  limits.context_tokens =
      options.context_tokens == 0 ? config.context_tokens : std::min(options.context_tokens, config.context_tokens);
  limits.prefill_chunk_tokens = std::min(options.prefill_chunk_tokens, limits.context_tokens);
  ENGINE_TRY(std::unique_ptr<Backend> backend, make_backend(options));
  ENGINE_TRY(std::unique_ptr<Transformer> transformer,
             Transformer::load(directory, *backend, limits.prefill_chunk_tokens));
  ModelInfo info = describe(directory, *transformer, limits.context_tokens);
  info.thinking = chat_template.thinking_model();
  return std::unique_ptr<Engine>(
      std::make_unique<LoadedEngine>(Parts{std::move(backend), std::move(tokenizer), std::move(transformer),
                                           chat_template, std::move(limits), std::move(info)}));
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(const std::filesystem::path& model_directory,
                                             const EngineOptions& options) {
  return without_exceptions([&] { return open_engine(model_directory, options); });
}

}  // namespace lectern::engine
