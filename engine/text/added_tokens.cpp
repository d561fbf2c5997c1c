// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <algorithm>

namespace lectern::engine {

namespace {

std::size_t first_byte(std::string_view text) { return static_cast<unsigned char>(text.front()); }

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized) {
  for (const AddedToken& token : tokens) {
    if (token.normalized == normalized) tokens_.push_back({token.content, token.id});
  }
  std::sort(tokens_.begin(), tokens_.end(), [](const Entry& a, const Entry& b) {
    const std::size_t first_a = first_byte(a.content);
    const std::size_t first_b = first_byte(b.content);
    return first_a != first_b ? first_a < first_b : a.content.size() > b.content.size();
  });
  for (const Entry& token : tokens_) ++first_of_byte_[first_byte(token.content) + 1];
  for (std::size_t byte = 1; byte < first_of_byte_.size(); ++byte) first_of_byte_[byte] += first_of_byte_[byte - 1];
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, std::size_t from) const {
  for (std::size_t at = from; at < text.size(); ++at) {
    const std::size_t byte = static_cast<unsigned char>(text[at]);
    for (std::uint32_t i = first_of_byte_[byte]; i < first_of_byte_[byte + 1]; ++i) {
      const Entry& token = tokens_[i];
      if (text.compare(at, token.content.size(), token.content) == 0) return {at, token.content.size(), token.id};
    }
  }
  return {};
}

}  // namespace lectern::engine
