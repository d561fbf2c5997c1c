// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "text/bpe.h"

namespace lectern::engine {

struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool special = false;     // left out when decoding with skip_special
  bool normalized = false;  // matched on the normalised text instead of the raw one
};

// Everything a byte-level BPE tokenizer consists of, checked: ids run from 0 without holes, every byte has a token,
// every merge joins known tokens into a known one, and no merge makes an added token.
struct TokenizerDefinition {
  std::vector<std::string> tokens;  // bytes by id, added tokens included
  std::array<TokenId, 256> byte_tokens{};
  std::vector<BpeMerge> merges;  // by rank
  std::vector<AddedToken> added;
  bool nfc = true;
};

// Collects a definition from untrusted files: all added tokens first, then the vocabulary, then the merges. Names and
// merge sides are spelled in the byte alphabet. Errors are kCorrupt and start with the file's name.
class TokenizerDefinitionBuilder {
 public:
  explicit TokenizerDefinitionBuilder(std::string file) : file_(std::move(file)) {}

  Result<void> add_added_token(AddedToken token);
  Result<void> add_token(std::string_view name, std::int64_t id);
  // A token that no text is encoded to; its name is plain text.
  Result<void> add_unused_token(std::string_view name, std::int64_t id);
  Result<void> add_merge(std::string_view left, std::string_view right);
  Result<TokenizerDefinition> finish(bool nfc) &&;

 private:
  struct Entry {
    std::string bytes;
    std::int64_t id;
  };

  Error corrupt(const std::string& text) const;
  Result<void> check_id(std::string_view name, std::int64_t id) const;
  Result<void> place_tokens();
  Result<void> find_byte_tokens();

  std::string file_;
  std::vector<Entry> vocabulary_;                            // without the added tokens
  std::unordered_map<std::string, std::int64_t> ids_;        // vocabulary bytes to id
  std::unordered_map<std::string, std::int64_t> added_ids_;  // added content to id
  TokenizerDefinition definition_;
};

}  // namespace lectern::engine
