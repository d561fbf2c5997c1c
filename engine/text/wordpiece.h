// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine {

// The tokenizer of BERT: clean, split at white space, CJK ideographs and punctuation, then the longest known pieces
// from the left. Text that spells a special token is ordinary text. Immutable after loading.
class WordPiece {
 public:
  // Reads vocab.txt (one token per line, id = line) with the switches of tokenizer_config.json if that exists, or else
  // tokenizer.json. Errors: kNotFound; kCorrupt (empty or duplicate entry, missing [CLS], [SEP] or [UNK]);
  // kUnsupported.
  static Result<WordPiece> load(const std::filesystem::path& directory);

  // [CLS] pieces [SEP], at most `max_tokens` (>= 2) with both; what does not fit is cut off at the end. Any bytes are
  // accepted; invalid UTF-8 is ignored, as the replacement character is.
  std::vector<TokenId> encode(std::string_view text, std::size_t max_tokens) const;

  TokenId size() const { return static_cast<TokenId>(ids_.size()); }

 private:
  struct Switches {
    bool lower_case = true;
    bool strip_accents = true;
    bool split_ideographs = true;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  class Writer;

  WordPiece() = default;
  Result<void> read_vocabulary_file(const std::filesystem::path& file);
  Result<void> read_switches(const std::filesystem::path& file);
  Result<void> read_tokenizer_json(const std::filesystem::path& file);
  Result<void> finish(const std::string& source);

  std::unordered_map<std::string, TokenId, Hash, std::equal_to<>> ids_;
  std::size_t longest_ = 0;  // bytes of the longest entry
  Switches switches_;
  TokenId cls_ = 0;
  TokenId sep_ = 0;
  TokenId unknown_ = 0;
};

}  // namespace lectern::engine
