// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "engine/result.h"
#include "text/tokenizer_definition.h"

namespace lectern::engine {

// Reads tokenizer.json from `directory` or, where there is none, vocab.json + merges.txt and the added tokens of
// tokenizer_config.json. Everything that would make the reference tokenizer behave unlike this engine (another model,
// pattern or normaliser, stripping added tokens, ...) is kUnsupported; wrong content is kCorrupt.
Result<TokenizerDefinition> read_tokenizer_files(const std::filesystem::path& directory);

// The same from the text of a tokenizer.json.
Result<TokenizerDefinition> read_tokenizer_json(std::string text);

}  // namespace lectern::engine
