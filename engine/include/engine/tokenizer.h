// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine {

// Byte-level BPE of the Qwen2/Qwen3 family. Immutable after loading; may be shared between threads.
class Tokenizer {
 public:
  enum class SpecialTokens {
    kIgnore,     // text such as "<|im_end|>" is encoded as ordinary characters (untrusted text)
    kRecognise,  // added tokens are matched on the raw text first
  };

  // Reads tokenizer.json from `directory`, or vocab.json + merges.txt (+ tokenizer_config.json for added tokens).
  // Errors: kNotFound, kCorrupt (duplicate or missing ids, merges that name unknown tokens), kUnsupported.
  static Result<std::unique_ptr<Tokenizer>> load(const std::filesystem::path& directory);

  virtual ~Tokenizer() = default;

  // Any bytes are accepted; invalid UTF-8 is replaced by U+FFFD as the reference does. Adds no BOS.
  virtual std::vector<TokenId> encode(std::string_view text, SpecialTokens special) const = 0;

  // Raw bytes; a token may end inside a multi-byte character. Unknown ids give nothing.
  virtual std::string decode(const std::vector<TokenId>& tokens, bool skip_special) const = 0;
  virtual std::string_view token_bytes(TokenId token) const = 0;

  virtual std::optional<TokenId> find(std::string_view added_token) const = 0;
  virtual bool is_special(TokenId token) const = 0;
  virtual TokenId size() const = 0;  // one more than the largest defined id
};

}  // namespace lectern::engine
