// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/result.h"
#include "engine/tokenizer.h"
#include "engine/types.h"
#include "model/state.h"
#include "model/transformer.h"
#include "runtime/memory_plan.h"

namespace lectern::engine {

// A model, for measuring: open to all that Engine hides.
struct OpenedModel {
  std::string name;
  EngineOptions options;  // with the chunk and context in use
  Devices devices;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Transformer> transformer;
  MemoryPlan memory;
  double load_seconds = 0;
  double copy_seconds = 0;  // of the weights into memory, after that

  // `needed_tokens`: the longest sequence that will be read. Errors: as Engine::open(); kCancelled.
  static Result<OpenedModel> open(const std::filesystem::path& path, EngineOptions options, std::int64_t needed_tokens,
                                  const std::stop_token& stop);

  // For a sequence of up to `tokens` tokens: YaRN applies when the model was not trained for as many.
  SequenceOptions sequence_options(std::int64_t tokens, bool with_mtp) const;
  std::int64_t chunk_tokens() const { return transformer->pass_rows(); }
  std::int64_t vocabulary() const { return transformer->config().vocabulary; }
};

TokenId most_likely_token(std::span<const float> logits);

// A hash of the numbers' bits, in hexadecimal.
std::string bits_fingerprint(std::span<const float> numbers);

}  // namespace lectern::engine
