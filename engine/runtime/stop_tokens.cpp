// SPDX-License-Identifier: Apache-2.0
#include "runtime/stop_tokens.h"

#include <optional>
#include <system_error>

#include "core/json.h"

namespace lectern::engine {

namespace {

Result<TokenId> read_token(JsonValue value, const Tokenizer& tokenizer) {
  const std::optional<std::int64_t> id = value.integer();
  if (!id || *id < 0 || *id >= tokenizer.size()) return value.error("eos_token_id is not the id of a token");
  return static_cast<TokenId>(*id);
}

}  // namespace

Result<std::vector<TokenId>> read_stop_tokens(const std::filesystem::path& directory, const Tokenizer& tokenizer) {
  const std::filesystem::path file = directory / "generation_config.json";
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return join_stop_tokens({}, tokenizer);
  constexpr std::size_t kMaxBytes = std::size_t{1} << 20;
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(file, {.max_bytes = kMaxBytes}));
  const JsonValue value = document.root()["eos_token_id"];
  std::vector<TokenId> tokens;
  if (value.exists() && !value.is_null() && !value.is_array()) {
    ENGINE_TRY(const TokenId token, read_token(value, tokenizer));
    tokens.push_back(token);
  }
  for (const JsonValue element : value.elements()) {
    ENGINE_TRY(const TokenId token, read_token(element, tokenizer));
    tokens.push_back(token);
  }
  return join_stop_tokens(tokens, tokenizer);
}

std::vector<TokenId> join_stop_tokens(std::span<const TokenId> configured, const Tokenizer& tokenizer) {
  std::vector<TokenId> tokens;
  for (const char* content : {"<|im_end|>", "<|endoftext|>"}) {
    if (const std::optional<TokenId> id = tokenizer.find(content)) tokens.push_back(*id);
  }
  tokens.insert(tokens.end(), configured.begin(), configured.end());
  return tokens;
}

}  // namespace lectern::engine
