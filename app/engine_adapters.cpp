// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine_adapters.h"

#include <string_view>
#include <utility>

namespace lectern::app {
namespace {

retrieval::GenerateFinish fromEngine(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kLength:
      return retrieval::GenerateFinish::kLength;
    case engine::FinishReason::kCancelled:
      return retrieval::GenerateFinish::kCancelled;
    case engine::FinishReason::kStop:
      break;
  }
  return retrieval::GenerateFinish::kStop;
}

class ForwardingSink final : public engine::GenerationSink {
 public:
  explicit ForwardingSink(retrieval::GeneratorSink& sink) : m_sink(sink) {}

  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    m_sink.on_prefill(done, total, seconds);
  }
  void on_text(std::string_view piece) override { m_sink.on_text(piece); }

 private:
  retrieval::GeneratorSink& m_sink;
};

}  // namespace

retrieval::Error generatorError(const engine::Error& error) {
  const bool cancelled = error.code == engine::ErrorCode::kCancelled;
  return {cancelled ? retrieval::ErrorCode::kCancelled : retrieval::ErrorCode::kGenerator, error.message};
}

std::vector<engine::ChatMessage> toEngine(const std::vector<retrieval::ChatMessage>& messages) {
  std::vector<engine::ChatMessage> converted;
  converted.reserve(messages.size());
  for (const retrieval::ChatMessage& message : messages) {
    converted.push_back({message.role, message.content, message.boundaries});
  }
  return converted;
}

engine::GenerationRequest toEngine(const std::vector<retrieval::ChatMessage>& messages,
                                   const retrieval::GenerateOptions& options) {
  engine::GenerationRequest request;
  request.messages = toEngine(messages);
  request.sampling.temperature = options.temperature;
  request.sampling.top_k = options.top_k;
  request.sampling.top_p = options.top_p;
  request.sampling.seed = options.seed;
  request.max_new_tokens = options.max_new_tokens;
  return request;
}

retrieval::GeneratedText fromEngine(engine::GenerationResult result) {
  retrieval::GeneratedText text;
  text.text = std::move(result.text);
  text.finish = fromEngine(result.finish);
  text.prompt_tokens = result.statistics.prompt_tokens;
  text.generated_tokens = result.statistics.generated_tokens;
  text.reused_tokens = result.statistics.reused_tokens;
  text.drafted_tokens = result.statistics.drafted_tokens;
  text.accepted_tokens = result.statistics.accepted_tokens;
  text.rope_factor = result.statistics.rope_factor;
  text.prefill_seconds = result.statistics.prefill_seconds;
  text.decode_seconds = result.statistics.decode_seconds;
  return text;
}

EngineGenerator::EngineGenerator(std::unique_ptr<engine::Engine> engine) : m_engine(std::move(engine)) {}

std::string EngineGenerator::model_name() const { return m_engine->info().name; }

std::int64_t EngineGenerator::context_tokens() const { return m_engine->info().context_tokens; }

retrieval::Result<std::int64_t> EngineGenerator::count_tokens(const std::vector<retrieval::ChatMessage>& messages) {
  engine::Result<std::int64_t> count = m_engine->count_prompt_tokens(toEngine(messages), false);
  if (!count.ok()) return generatorError(count.error());
  return *count;
}

retrieval::Result<retrieval::GeneratedText> EngineGenerator::generate(
    const std::vector<retrieval::ChatMessage>& messages, const retrieval::GenerateOptions& options,
    retrieval::GeneratorSink& sink, std::stop_token stop) {
  ForwardingSink forwarding(sink);
  engine::Result<engine::GenerationResult> result =
      m_engine->generate(toEngine(messages, options), forwarding, std::move(stop));
  if (!result.ok()) return generatorError(result.error());
  return fromEngine(std::move(result).value());
}

EngineEmbedder::EngineEmbedder(std::unique_ptr<engine::Embedder> embedder) : m_embedder(std::move(embedder)) {}

int EngineEmbedder::dimension() const { return m_embedder->dimension(); }

std::string EngineEmbedder::model_id() const { return m_embedder->model_id(); }

retrieval::Result<std::vector<std::vector<float>>> EngineEmbedder::embed(std::span<const std::string> texts,
                                                                         std::stop_token stop) {
  engine::Result<std::vector<std::vector<float>>> vectors = m_embedder->embed(texts, std::move(stop));
  if (!vectors.ok()) return generatorError(vectors.error());
  return std::move(vectors).value();
}

}  // namespace lectern::app
