// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/types.h"

namespace lectern::engine {

// Two adjacent tokens that become one; of all merges possible in a word the one with the lowest rank goes first, the
// leftmost of equals.
struct BpeMerge {
  TokenId left = 0;
  TokenId right = 0;
  TokenId merged = 0;
};

// Byte-pair encoding of single words over token ids. Immutable; every byte has a token.
class BytePairEncoder {
 public:
  // `merges` in rank order; of two merges of the same pair the later one counts, as in the reference.
  BytePairEncoder(const std::array<TokenId, 256>& byte_tokens, const std::vector<BpeMerge>& merges);

  // Buffers that encode() reuses from word to word.
  struct Scratch {
    struct Symbol {
      TokenId token;
      std::int32_t previous;  // -1: none
      std::int32_t next;      // -1: none
      bool alive;
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t position;  // of the left symbol
      TokenId left;
      TokenId right;
      TokenId merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // Appends the tokens of `word` (any bytes, under 2 GiB) to `out` in O(n log n).
  void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;

 private:
  struct Slot {
    std::uint64_t pair;
    std::uint32_t rank;
    TokenId merged;
  };

  const Slot* find(TokenId left, TokenId right) const;
  Slot& slot_for(std::uint64_t pair);
  void push_candidate(Scratch& scratch, std::int32_t position) const;

  std::array<TokenId, 256> byte_tokens_;
  std::vector<Slot> slots_;  // open addressing, size a power of two, at most half full
};

}  // namespace lectern::engine
