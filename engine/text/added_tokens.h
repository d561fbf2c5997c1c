// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/types.h"
#include "text/tokenizer_definition.h"

namespace lectern::engine {

// Finds added tokens in text: the leftmost one, of several there the longest.
class AddedTokenMatcher {
 public:
  // Looks for the tokens whose `normalized` flag is `normalized`; keeps views into `tokens`.
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized);

  struct Match {
    std::size_t at = std::string_view::npos;
    std::size_t length = 0;
    TokenId id = 0;
    explicit operator bool() const { return length > 0; }
  };

  bool empty() const { return tokens_.empty(); }
  Match find(std::string_view text, std::size_t from) const;

 private:
  struct Entry {
    std::string_view content;
    TokenId id;
  };

  std::vector<Entry> tokens_;  // by first byte, then longest first
  std::array<std::uint32_t, 257> first_of_byte_{};
};

}  // namespace lectern::engine
