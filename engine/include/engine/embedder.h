// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/result.h"

namespace lectern::engine {

// A BERT-family sentence encoder (WordPiece, mean pooling, L2-normalised). embed() may be called from any thread,
// one call at a time (a second call waits).
class Embedder {
 public:
  // Opens a Hugging Face BertModel directory: config.json, model.safetensors, vocab.txt or tokenizer.json.
  static Result<std::unique_ptr<Embedder>> open(const std::filesystem::path& model_directory, int threads);

  virtual ~Embedder() = default;

  virtual int dimension() const = 0;
  virtual std::string model_id() const = 0;  // stable: directory name and a hash of the weights' header and config
  virtual int max_tokens() const = 0;        // longer texts are cut here

  // One unit vector of dimension() floats per text. Errors: kCancelled, kOutOfMemory.
  virtual Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts, std::stop_token stop) = 0;
};

}  // namespace lectern::engine
