// SPDX-License-Identifier: GPL-3.0-or-later
// The engine behind retrieval's ports.
#pragma once

#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/embedder.h"
#include "engine/engine.h"
#include "retrieval/ports.h"

namespace lectern::app {

// Every engine failure becomes kGenerator with the engine's own sentence; cancelling stays kCancelled.
retrieval::Error generatorError(const engine::Error& error);

// The same in the engine's types and back.
std::vector<engine::ChatMessage> toEngine(const std::vector<retrieval::ChatMessage>& messages);
engine::GenerationRequest toEngine(const std::vector<retrieval::ChatMessage>& messages,
                                   const retrieval::GenerateOptions& options);
retrieval::GeneratedText fromEngine(engine::GenerationResult result);

class EngineGenerator final : public retrieval::Generator {
 public:
  explicit EngineGenerator(std::unique_ptr<engine::Engine> engine);

  const engine::ModelInfo& info() const { return m_engine->info(); }

  std::string model_name() const override;
  std::int64_t context_tokens() const override;
  retrieval::Result<std::int64_t> count_tokens(const std::vector<retrieval::ChatMessage>& messages) override;
  retrieval::Result<retrieval::GeneratedText> generate(const std::vector<retrieval::ChatMessage>& messages,
                                                       const retrieval::GenerateOptions& options,
                                                       retrieval::GeneratorSink& sink, std::stop_token stop) override;

 private:
  std::unique_ptr<engine::Engine> m_engine;
};

class EngineEmbedder final : public retrieval::Embedder {
 public:
  explicit EngineEmbedder(std::unique_ptr<engine::Embedder> embedder);

  int dimension() const override;
  std::string model_id() const override;
  retrieval::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts,
                                                           std::stop_token stop) override;

 private:
  std::unique_ptr<engine::Embedder> m_embedder;
};

}  // namespace lectern::app
