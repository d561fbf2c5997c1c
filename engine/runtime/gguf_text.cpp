// SPDX-License-Identifier: Apache-2.0
#include "runtime/gguf_text.h"

#include <string_view>
#include <utility>

#include "runtime/stop_tokens.h"
#include "text/bpe_tokenizer.h"
#include "text/gguf_vocabulary.h"

namespace lectern::engine {

namespace {

Result<GgufVocabulary> read_vocabulary(const GgufMetadata& metadata) {
  GgufVocabulary vocabulary;
  vocabulary.file = metadata.file();
  ENGINE_TRY(vocabulary.kind, metadata.string("tokenizer.ggml.model"));
  ENGINE_TRY(vocabulary.pre, metadata.string("tokenizer.ggml.pre"));
  ENGINE_TRY(const bool adds_start, metadata.boolean_or("tokenizer.ggml.add_bos_token", false));
  ENGINE_TRY(const bool adds_end, metadata.boolean_or("tokenizer.ggml.add_eos_token", false));
  vocabulary.adds_tokens = adds_start || adds_end;
  ENGINE_TRY(vocabulary.tokens, metadata.strings("tokenizer.ggml.tokens"));
  ENGINE_TRY(vocabulary.types, metadata.integers("tokenizer.ggml.token_type"));
  ENGINE_TRY(vocabulary.merges, metadata.strings("tokenizer.ggml.merges"));
  return vocabulary;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_gguf_tokenizer(const GgufMetadata& metadata) {
  ENGINE_TRY(const GgufVocabulary vocabulary, read_vocabulary(metadata));
  ENGINE_TRY(TokenizerDefinition definition, define_tokenizer(vocabulary));
  return make_tokenizer(std::move(definition));
}

Result<ChatTemplate> load_gguf_chat_template(const GgufMetadata& metadata, const Tokenizer& tokenizer) {
  ENGINE_TRY(const std::string_view source, metadata.string_or("tokenizer.chat_template", ""));
  return ChatTemplate::create(source, tokenizer);
}

Result<std::vector<TokenId>> read_gguf_stop_tokens(const GgufMetadata& metadata, const Tokenizer& tokenizer) {
  std::vector<TokenId> tokens;
  for (const std::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (!metadata.has(key)) continue;
    ENGINE_TRY(const std::int64_t id, metadata.integer(key, 0, tokenizer.size() - 1));
    tokens.push_back(static_cast<TokenId>(id));
  }
  return join_stop_tokens(tokens, tokenizer);
}

}  // namespace lectern::engine
