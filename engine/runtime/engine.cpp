// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "model/transformer.h"
#include "ops/backend.h"
#include "runtime/engine_options.h"
#include "runtime/generation.h"
#include "runtime/gguf_text.h"
#include "runtime/memory_plan.h"
#include "runtime/model_text.h"
#include "runtime/no_exceptions.h"
#include "runtime/scoring.h"
#include "runtime/session_cache.h"
#include "runtime/stop_tokens.h"
#include "runtime/transformer_sequence.h"
#include "runtime/type_shares.h"
#include "text/chat_template.h"

namespace lectern::engine {

namespace {

struct Parts {
  Devices devices;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Transformer> transformer;
  ChatTemplate chat_template;
  GenerationLimits limits;
  EngineOptions options;
  ModelInfo info;
};

class LoadedEngine final : public Engine {
 public:
  explicit LoadedEngine(Parts parts)
      : parts_(std::move(parts)),
        scheduler_(*parts_.transformer),
        sessions_(scheduler_, parts_.transformer->weights().files.fingerprint(), parts_.options.sessions) {
    if (!copies_weights(parts_.options, parts_.info.memory)) return;
    copier_ = std::jthread([this](const std::stop_token& stop) { copy_weights(stop); });
  }

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
      ENGINE_TRY(const ChatTemplate::Prompt marked,
                 parts_.chat_template.encode_with_boundaries(request.messages, request.thinking, *parts_.tokenizer));
      const std::vector<TokenId>& prompt = marked.tokens;
      const SequenceOptions options = sequence_options(static_cast<std::int64_t>(prompt.size()), request);
      ENGINE_TRY(TransformerSequence sequence, begin(prompt, options));
      const std::int64_t reused = sequence.length();
      if (keeps_sessions()) sequence.on_boundary([this](SequenceSnapshot at) { sessions_.store(std::move(at)); });
      GenerationLimits limits = parts_.limits;
      limits.boundaries = boundaries_of(marked);
      ENGINE_TRY(GenerationResult result,
                 generate_reply(sequence, *parts_.tokenizer, limits, prompt, request, sink, std::move(stop)));
      result.statistics.reused_tokens = reused;
      result.statistics.rope_factor = options.yarn.factor;
      return result;
    });
  }

  Result<std::vector<float>> score(const std::vector<TokenId>& tokens, std::stop_token stop) override {
    return without_exceptions([&]() -> Result<std::vector<float>> {
      return scheduler_.exclusively([&](Transformer& model) {
        return score_tokens(model, tokens, parts_.limits.context_tokens, std::move(stop));
      });
    });
  }

 private:
  // The model answers from the mapped file until this is done, and goes on so if it fails.
  void copy_weights(const std::stop_token& stop) {
    constexpr int kNiceness = 10;
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNiceness);  // of this thread alone
    (void)parts_.transformer->move_weights_to_memory(1, stop).ok();
  }

  bool keeps_sessions() const { return parts_.options.sessions.memory_bytes > 0; }

  // YaRN changes every number, so that only sequences which need it are read with it.
  SequenceOptions sequence_options(std::int64_t prompt, const GenerationRequest& request) const {
    const ModelConfig& config = parts_.transformer->config();
    SequenceOptions options;
    options.kv = parts_.options.kv_type;
    options.with_mtp = parts_.options.draft_tokens > 0;
    options.yarn = config.yarn;
    const bool longer = request.max_new_tokens > config.context_tokens - prompt;
    if (parts_.options.rope_factor > 1 && longer) {
      options.yarn = {.factor = parts_.options.rope_factor, .original_context = config.context_tokens};
    }
    return options;
  }

  // On the stored session that begins like the prompt, or a new one.
  Result<TransformerSequence> begin(std::span<const TokenId> prompt, const SequenceOptions& options) {
    if (keeps_sessions()) {
      std::optional<SequenceSnapshot> known = sessions_.find(prompt, options);
      if (known) return TransformerSequence(scheduler_, std::move(*known), parts_.options.draft_tokens);
    }
    ENGINE_TRY(SequenceState state,
               scheduler_.exclusively([&](Transformer& model) { return model.new_sequence(options); }));
    return TransformerSequence(scheduler_, std::move(state), parts_.options.draft_tokens);
  }

  // Where later prompts are likely to differ: the ends of turns and passages; and every so many tokens, because they
  // may anywhere. Only what stands before a place decides on it, so that prompts which begin alike are cut alike and
  // give the same bits, read on or read anew. Ends of passages count from a quarter of the way to them on: each costs a
  // short pass and the memory of a state.
  std::vector<std::int64_t> boundaries_of(const ChatTemplate::Prompt& prompt) const {
    std::vector<std::int64_t> boundaries;
    const std::int64_t step = std::max<std::int64_t>(1, parts_.options.sessions.checkpoint_tokens);
    const std::int64_t apart = std::max(step / 16, parts_.limits.prefill_chunk_tokens / 2);
    auto passage = prompt.boundaries.begin();
    std::int64_t last = 0;
    for (std::int64_t i = 1; i < static_cast<std::int64_t>(prompt.tokens.size()); ++i) {
      while (passage != prompt.boundaries.end() && *passage < i) ++passage;
      const bool passage_ended = passage != prompt.boundaries.end() && *passage == i;
      const bool turn_ended = prompt.tokens[static_cast<std::size_t>(i - 1)] == parts_.chat_template.turn_end();
      const bool far = i - last >= std::max(apart, i / 4);
      if (!turn_ended && i % step != 0 && !(passage_ended && far)) continue;
      boundaries.push_back(i);
      last = i;
    }
    return boundaries;
  }

  Parts parts_;
  PassScheduler scheduler_;
  SessionCache sessions_;
  std::jthread copier_;  // last: ends before what it copies
};

// "Q4_K 71 %, Q6_K 27 %": the types that make up most of the weights.
std::string types_by_share(const ModelFiles& files) {
  TypeShares shares;
  std::int64_t all = 0;
  for (const auto& [name, tensor] : files.tensors()) {
    shares.add(tensor.dtype, 0, static_cast<std::int64_t>(tensor.bytes.size()));
    all += static_cast<std::int64_t>(tensor.bytes.size());
  }
  std::string text;
  for (const TypeShare& share : shares.list()) {
    const std::int64_t percent = (200 * share.bytes + all) / (2 * std::max<std::int64_t>(1, all));
    if (percent > 0) text += (text.empty() ? "" : ", ") + share.type + " " + std::to_string(percent) + " %";
  }
  return text;
}

ModelInfo describe(const std::filesystem::path& path, const Transformer& transformer, const MemoryPlan& memory) {
  ModelInfo info;
  info.name = model_name(path);
  info.architecture = transformer.config().architecture;
  info.quantisation = types_by_share(transformer.weights().files);
  info.parameters = transformer.weights().parameters;
  info.weight_bytes = transformer.weights().bytes;
  info.layers = static_cast<std::int64_t>(transformer.config().layers.size());
  info.has_mtp = transformer.has_mtp();
  info.memory = memory;
  return info;
}

struct TextParts {
  std::unique_ptr<Tokenizer> tokenizer;
  ChatTemplate chat_template;
  std::vector<TokenId> stop_tokens;
};

Result<TextParts> load_text(const std::filesystem::path& path, const ModelFiles& files) {
  ENGINE_TRY(std::unique_ptr<Tokenizer> tokenizer, load_tokenizer(path, files));
  if (files.gguf() == nullptr) {
    ENGINE_TRY(ChatTemplate chat_template, ChatTemplate::load(path, *tokenizer));
    ENGINE_TRY(std::vector<TokenId> stop_tokens, read_stop_tokens(path, *tokenizer));
    return TextParts{std::move(tokenizer), chat_template, std::move(stop_tokens)};
  }
  const GgufMetadata& metadata = files.gguf()->metadata();
  ENGINE_TRY(ChatTemplate chat_template, load_gguf_chat_template(metadata, *tokenizer));
  ENGINE_TRY(std::vector<TokenId> stop_tokens, read_gguf_stop_tokens(metadata, *tokenizer));
  return TextParts{std::move(tokenizer), chat_template, std::move(stop_tokens)};
}

// Headers and small files first: most mistakes are found before the weights are touched.
Result<std::unique_ptr<Engine>> open_engine(const std::filesystem::path& path, EngineOptions options,
                                            const LoadObserver& observer) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return Error{ErrorCode::kNotFound, "There is no model directory or GGUF file " + path.string() + "."};
  }
  ENGINE_CHECK(check_options(options));
  ENGINE_TRY(ModelFiles files, ModelFiles::open(path));
  ENGINE_TRY(TextParts text, load_text(path, files));
  if (text.tokenizer->size() > files.config().vocabulary) {
    return Error{ErrorCode::kCorrupt, "The tokenizer has " + std::to_string(text.tokenizer->size()) +
                                          " tokens but the model's vocabulary_size is " +
                                          std::to_string(files.config().vocabulary) +
                                          "; the files are of different models."};
  }
  if (options.prefill_chunk_tokens == 0) {
    ENGINE_TRY(options.prefill_chunk_tokens, suitable_chunk(files, options));
  }
  ENGINE_TRY(const PlannedContext planned, plan_memory(files, options));
  if (options.device == DeviceKind::kCuda && options.sessions.memory_bytes > 0) {
    options.sessions.memory_bytes = std::max<std::int64_t>(1, planned.memory.kept_sessions);
  }
  GenerationLimits limits;
  limits.stop_tokens = std::move(text.stop_tokens);
  limits.context_tokens = planned.context_tokens;
  limits.prefill_chunk_tokens = std::min(options.prefill_chunk_tokens, limits.context_tokens);
  ENGINE_TRY(Devices devices, make_devices(options, planned.memory));
  ENGINE_TRY(std::unique_ptr<Transformer> transformer,
             Transformer::load(std::move(files), devices.placement(), limits.prefill_chunk_tokens, observer));
  ModelInfo info = describe(path, *transformer, planned.memory);
  info.memory.locked_experts = devices.locked_bytes();
  info.context_tokens = limits.context_tokens;
  info.thinking = text.chat_template.thinking_model();
  return std::unique_ptr<Engine>(
      std::make_unique<LoadedEngine>(Parts{std::move(devices), std::move(text.tokenizer), std::move(transformer),
                                           text.chat_template, std::move(limits), options, std::move(info)}));
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(const std::filesystem::path& model_directory, const EngineOptions& options,
                                             const LoadObserver& observer) {
  return without_exceptions([&] { return open_engine(model_directory, options, observer); });
}

}  // namespace lectern::engine
