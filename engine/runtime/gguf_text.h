// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "engine/result.h"
#include "engine/tokenizer.h"
#include "engine/types.h"
#include "model/gguf_metadata.h"
#include "text/chat_template.h"

namespace lectern::engine {

// What a Hugging Face directory says in tokenizer.json, tokenizer_config.json and generation_config.json, from the
// metadata of a GGUF file.

// Errors: kCorrupt, kUnsupported.
Result<std::unique_ptr<Tokenizer>> load_gguf_tokenizer(const GgufMetadata& metadata);

// A model without tokenizer.chat_template gets the plain template. Errors: kCorrupt, kUnsupported.
Result<ChatTemplate> load_gguf_chat_template(const GgufMetadata& metadata, const Tokenizer& tokenizer);

// The tokens for the end of the text, of a turn and of a message, and those every model of the family stops at.
// Errors: kCorrupt.
Result<std::vector<TokenId>> read_gguf_stop_tokens(const GgufMetadata& metadata, const Tokenizer& tokenizer);

}  // namespace lectern::engine
