// SPDX-License-Identifier: GPL-3.0-or-later
// What the host program must supply. Implementations may be called from any one thread at a time per object.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "retrieval/result.h"
#include "retrieval/types.h"

namespace lectern::retrieval {

class Embedder {
 public:
  virtual ~Embedder() = default;
  virtual int dimension() const = 0;
  virtual std::string model_id() const = 0;  // vectors of different ids are never mixed
  // One L2-normalised vector per text.
  virtual Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts, std::stop_token stop) = 0;
};

struct ChatMessage {
  std::string role;
  std::string content;
  std::vector<std::int64_t> boundaries = {};  // bytes of `content`, rising, after which another prompt may differ
};

struct GenerateOptions {
  std::int64_t max_new_tokens = 512;
  float temperature = 0.0F;
  float top_p = 1.0F;
  int top_k = 0;
  std::uint64_t seed = 0;
};

enum class GenerateFinish { kStop, kLength, kCancelled };

struct GeneratedText {
  std::string text;
  GenerateFinish finish = GenerateFinish::kStop;
  std::int64_t prompt_tokens = 0;
  std::int64_t generated_tokens = 0;
  std::int64_t reused_tokens = 0;    // of the prompt, that were read for an earlier question
  std::int64_t drafted_tokens = 0;   // guessed ahead
  std::int64_t accepted_tokens = 0;  // of those, found right
  double rope_factor = 1;            // above 1: a text longer than the model was trained for
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

class GeneratorSink {
 public:
  virtual ~GeneratorSink() = default;
  // Tokens done of total, seconds since reading began. What was known from an earlier question comes first, at 0
  // seconds.
  virtual void on_prefill(std::int64_t done, std::int64_t total, double seconds) = 0;
  virtual void on_text(std::string_view piece) = 0;
};

class Generator {
 public:
  virtual ~Generator() = default;
  virtual std::string model_name() const = 0;
  virtual std::int64_t context_tokens() const = 0;
  virtual Result<std::int64_t> count_tokens(const std::vector<ChatMessage>& messages) = 0;
  virtual Result<GeneratedText> generate(const std::vector<ChatMessage>& messages, const GenerateOptions& options,
                                         GeneratorSink& sink, std::stop_token stop) = 0;
};

// Turns a file into positioned text; the product's runs each document in a sandboxed process.
class Extractor {
 public:
  virtual ~Extractor() = default;
  virtual Result<ExtractedDocument> extract(const std::filesystem::path& file, std::stop_token stop) = 0;
};

}  // namespace lectern::retrieval
