// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "engine/result.h"
#include "engine/tokenizer.h"
#include "engine/types.h"

namespace lectern::engine {

// Tokens that end a reply: eos_token_id of generation_config.json (a number or a list; the file may be missing), and
// <|im_end|> and <|endoftext|> where the tokenizer has them. Errors: kCorrupt.
Result<std::vector<TokenId>> read_stop_tokens(const std::filesystem::path& directory, const Tokenizer& tokenizer);

// <|im_end|> and <|endoftext|> where the tokenizer has them, and those of `configured`.
std::vector<TokenId> join_stop_tokens(std::span<const TokenId> configured, const Tokenizer& tokenizer);

}  // namespace lectern::engine
