// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/result.h"
#include "text/tokenizer_definition.h"

namespace lectern::engine {

// What the tokenizer.ggml.* keys of a GGUF file say.
struct GgufVocabulary {
  std::string file;       // for messages
  std::string_view kind;  // "model": the kind of tokenizer
  std::string_view pre;   // names the split pattern
  std::vector<std::string_view> tokens;
  std::vector<std::int64_t> types;  // of the tokens
  std::vector<std::string_view> merges;
  bool adds_tokens = false;  // puts one before or after every text
};

// The definition that the tokenizer.json of the same model gives: padding at the end of the list belongs to the
// embedding and not to the tokenizer. Errors: kCorrupt, kUnsupported (anything but the byte-level BPE of Qwen2).
Result<TokenizerDefinition> define_tokenizer(const GgufVocabulary& vocabulary);

}  // namespace lectern::engine
