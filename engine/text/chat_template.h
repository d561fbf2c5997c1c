// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "engine/result.h"
#include "engine/tokenizer.h"
#include "engine/types.h"

namespace lectern::engine {

// The Jinja text of a model directory's chat template: of tokenizer_config.json, or chat_template.jinja; empty for
// none. Errors: kIo, kCorrupt.
Result<std::string> read_chat_template(const std::filesystem::path& directory);

// ChatML as the Qwen3 models were trained on it: every turn is <|im_start|>ROLE\nCONTENT<|im_end|>\n, without BOS and
// without a default system turn. Contents are encoded with added tokens ignored, so that no text can open or close a
// turn; everything else gives the tokens of the rendered template.
class ChatTemplate {
 public:
  // Reads the chat_template of tokenizer_config.json (or chat_template.jinja) only to tell which of the known
  // templates it is; a model without one gets the plain one. Errors: kCorrupt, kUnsupported if it is not ChatML.
  static Result<ChatTemplate> load(const std::filesystem::path& directory, const Tokenizer& tokenizer);

  // `source` is the template's Jinja text, empty for none.
  static Result<ChatTemplate> create(std::string_view source, const Tokenizer& tokenizer);

  // Whether the model's own generation prompt opens a reasoning block.
  bool thinking_model() const { return thinking_model_; }

  TokenId turn_end() const { return turn_end_; }

  // The whole prompt, ending with an opened assistant turn; `thinking` also opens its reasoning block. Earlier
  // assistant turns lose their reasoning if the model or the request thinks. Errors: kInvalidArgument for an unknown
  // role or no messages.
  Result<std::vector<TokenId>> encode(const std::vector<ChatMessage>& messages, bool thinking,
                                      const Tokenizer& tokenizer) const;

  // Also how many tokens lie before each boundary of the messages, rising. Errors: kInvalidArgument also for
  // boundaries that are no rising positions.
  struct Prompt {
    std::vector<TokenId> tokens;
    std::vector<std::int64_t> boundaries;
  };
  Result<Prompt> encode_with_boundaries(const std::vector<ChatMessage>& messages, bool thinking,
                                        const Tokenizer& tokenizer) const;

 private:
  ChatTemplate() = default;

  TokenId turn_start_ = 0;  // <|im_start|>
  TokenId turn_end_ = 0;    // <|im_end|>
  bool thinking_model_ = false;
};

}  // namespace lectern::engine
