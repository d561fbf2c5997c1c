// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/tokenizer.h"

namespace lectern::engine::support {

// The parts of a tokenizer.json, so that a test can spoil one of them.
struct ToyTokenizer {
  // In the default one, byte b is token b; 256 to 260 are "he", "ll", "hell", "hello", " w".
  std::string vocabulary;
  std::string merges;
  std::string added_tokens;  // kToyEndOfText to kToyThinkEnd
  std::string normalizer;
  std::string pre_tokenizer;
  std::string model_options;  // further members of "model", starting with a comma

  ToyTokenizer();
  std::string json() const;
};

inline constexpr TokenId kToyEndOfText = 261;
inline constexpr TokenId kToyTurnStart = 262;
inline constexpr TokenId kToyTurnEnd = 263;
inline constexpr TokenId kToyThink = 264;
inline constexpr TokenId kToyThinkEnd = 265;
inline constexpr TokenId kToySize = 266;

// The toy tokenizer, loaded. Throws std::runtime_error if that fails.
std::unique_ptr<Tokenizer> load_toy_tokenizer();

// A model directory: the tiny configuration of tests/golden with kTinyRows embedding rows, its deterministic weights,
// the toy tokenizer and a generation_config.json.
inline constexpr std::int64_t kTinyRows = 288;
inline constexpr std::int64_t kTinyContext = 2048;
void write_tiny_model(const std::filesystem::path& directory);

}  // namespace lectern::engine::support
