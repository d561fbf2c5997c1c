// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_definition.h"

#include <optional>
#include <utility>

#include "core/utf8.h"
#include "text/byte_alphabet.h"

namespace lectern::engine {

namespace {

constexpr std::int64_t kMaxTokenId = (std::int64_t{1} << 24) - 1;
constexpr std::size_t kMaxAddedTokens = 4096;

}  // namespace

Error TokenizerDefinitionBuilder::corrupt(const std::string& text) const {
  return {ErrorCode::kCorrupt, file_ + ": " + text + "."};
}

Result<void> TokenizerDefinitionBuilder::add_added_token(AddedToken token) {
  if (token.content.empty()) return corrupt("an added token is empty");
  if (definition_.added.size() >= kMaxAddedTokens) return corrupt("more than 4096 added tokens");
  if (!added_ids_.emplace(token.content, token.id).second) {
    return corrupt("added token " + unicode::in_quotes(token.content) + " is defined twice");
  }
  definition_.added.push_back(std::move(token));
  return {};
}

Result<void> TokenizerDefinitionBuilder::check_id(std::string_view name, std::int64_t id) const {
  if (id >= 0 && id <= kMaxTokenId) return {};
  return corrupt("token " + unicode::in_quotes(name) + " has the id " + std::to_string(id) + ", outside 0 to " +
                 std::to_string(kMaxTokenId));
}

Result<void> TokenizerDefinitionBuilder::add_unused_token(std::string_view name, std::int64_t id) {
  ENGINE_CHECK(check_id(name, id));
  if (name.empty()) return corrupt("the unused token " + std::to_string(id) + " has no name");
  vocabulary_.push_back({std::string(name), id});
  return {};
}

Result<void> TokenizerDefinitionBuilder::add_token(std::string_view name, std::int64_t id) {
  ENGINE_CHECK(check_id(name, id));
  if (const auto added = added_ids_.find(std::string(name)); added != added_ids_.end()) {
    if (added->second == id) return {};
    return corrupt("token " + unicode::in_quotes(name) + " has the ids " + std::to_string(added->second) + " and " +
                   std::to_string(id));
  }
  std::optional<std::string> bytes = bytes_from_alphabet(name);
  if (!bytes || bytes->empty()) {
    return corrupt("token " + unicode::in_quotes(name) + " (id " + std::to_string(id) +
                   ") is not spelled in the byte alphabet");
  }
  ids_.emplace(*bytes, id);
  vocabulary_.push_back({*std::move(bytes), id});
  return {};
}

Result<void> TokenizerDefinitionBuilder::add_merge(std::string_view left, std::string_view right) {
  const auto name = [&] { return "merge " + std::to_string(definition_.merges.size()) + " "; };
  const std::optional<std::string> left_bytes = bytes_from_alphabet(left);
  const std::optional<std::string> right_bytes = bytes_from_alphabet(right);
  const auto left_id = left_bytes ? ids_.find(*left_bytes) : ids_.end();
  const auto right_id = right_bytes ? ids_.find(*right_bytes) : ids_.end();
  if (left_id == ids_.end()) return corrupt(name() + "names the unknown token " + unicode::in_quotes(left));
  if (right_id == ids_.end()) return corrupt(name() + "names the unknown token " + unicode::in_quotes(right));
  const auto merged = ids_.find(*left_bytes + *right_bytes);
  if (merged == ids_.end()) {
    return corrupt(name() + "makes " + unicode::in_quotes(std::string(left) + std::string(right)) +
                   ", which is not in the vocabulary");
  }
  definition_.merges.push_back({static_cast<TokenId>(left_id->second), static_cast<TokenId>(right_id->second),
                                static_cast<TokenId>(merged->second)});
  return {};
}

Result<TokenizerDefinition> TokenizerDefinitionBuilder::finish(bool nfc) && {
  definition_.nfc = nfc;
  ENGINE_CHECK(place_tokens());
  ENGINE_CHECK(find_byte_tokens());
  return std::move(definition_);
}

// As many ids as tokens, each below that count and used once: then there is no hole.
Result<void> TokenizerDefinitionBuilder::place_tokens() {
  const std::size_t count = vocabulary_.size() + definition_.added.size();
  definition_.tokens.resize(count);
  const auto place = [&](std::string bytes, std::int64_t id) -> Result<void> {
    if (id < 0 || static_cast<std::size_t>(id) >= count) {
      return corrupt("token " + unicode::in_quotes(alphabet_from_bytes(bytes)) + " has the id " + std::to_string(id) +
                     " but only " + std::to_string(count) + " tokens are defined, so some smaller id has none");
    }
    std::string& slot = definition_.tokens[static_cast<std::size_t>(id)];
    if (!slot.empty()) {
      return corrupt("id " + std::to_string(id) + " belongs to both " + unicode::in_quotes(alphabet_from_bytes(slot)) +
                     " and " + unicode::in_quotes(alphabet_from_bytes(bytes)));
    }
    slot = std::move(bytes);
    return {};
  };
  for (const AddedToken& token : definition_.added) ENGINE_CHECK(place(token.content, token.id));
  for (Entry& entry : vocabulary_) ENGINE_CHECK(place(std::move(entry.bytes), entry.id));
  return {};
}

Result<void> TokenizerDefinitionBuilder::find_byte_tokens() {
  for (std::size_t byte = 0; byte < definition_.byte_tokens.size(); ++byte) {
    const auto id = ids_.find(std::string(1, static_cast<char>(byte)));
    if (id == ids_.end()) {
      return corrupt("the vocabulary has no token for the byte " + std::to_string(byte) +
                     ", so some text could not be encoded");
    }
    definition_.byte_tokens[byte] = static_cast<TokenId>(id->second);
  }
  return {};
}

}  // namespace lectern::engine
