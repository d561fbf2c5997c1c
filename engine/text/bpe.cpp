// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace lectern::engine {

namespace {

constexpr std::uint64_t kFree = std::numeric_limits<std::uint64_t>::max();

std::uint64_t pair_key(TokenId left, TokenId right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32U | static_cast<std::uint32_t>(right);
}

std::size_t hash(std::uint64_t key) {
  key *= 0x9E3779B97F4A7C15ULL;
  return static_cast<std::size_t>(key ^ (key >> 32U));
}

// Heap order: the top is the lowest rank, then the leftmost position.
bool later(const BytePairEncoder::Scratch::Candidate& a, const BytePairEncoder::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

BytePairEncoder::BytePairEncoder(const std::array<TokenId, 256>& byte_tokens, const std::vector<BpeMerge>& merges)
    : byte_tokens_(byte_tokens), slots_(std::bit_ceil(merges.size() * 2 + 2), Slot{kFree, 0, 0}) {
  std::uint32_t rank = 0;
  for (const BpeMerge& merge : merges) {
    slot_for(pair_key(merge.left, merge.right)) = {pair_key(merge.left, merge.right), rank++, merge.merged};
  }
}

BytePairEncoder::Slot& BytePairEncoder::slot_for(std::uint64_t pair) {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash(pair) & mask;
  while (slots_[at].pair != kFree && slots_[at].pair != pair) at = (at + 1) & mask;
  return slots_[at];
}

const BytePairEncoder::Slot* BytePairEncoder::find(TokenId left, TokenId right) const {
  const std::uint64_t pair = pair_key(left, right);
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash(pair) & mask;
  while (slots_[at].pair != kFree && slots_[at].pair != pair) at = (at + 1) & mask;
  return slots_[at].pair == pair ? &slots_[at] : nullptr;
}

void BytePairEncoder::push_candidate(Scratch& scratch, std::int32_t position) const {
  const Scratch::Symbol& symbol = scratch.symbols[position];
  if (symbol.next < 0) return;
  const TokenId right = scratch.symbols[symbol.next].token;
  const Slot* slot = find(symbol.token, right);
  if (slot == nullptr) return;
  scratch.heap.push_back({slot->rank, position, symbol.token, right, slot->merged});
}

void BytePairEncoder::encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto count = static_cast<std::int32_t>(word.size());
  symbols.clear();
  heap.clear();
  for (std::int32_t i = 0; i < count; ++i) {
    const TokenId token = byte_tokens_[static_cast<unsigned char>(word[i])];
    symbols.push_back({token, i - 1, i + 1 < count ? i + 1 : -1, true});
  }
  for (std::int32_t i = 0; i < count; ++i) push_candidate(scratch, i);
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[best.position];
    if (!left.alive || left.token != best.left || left.next < 0 || symbols[left.next].token != best.right) continue;
    Scratch::Symbol& right = symbols[left.next];
    right.alive = false;
    left.token = best.merged;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    for (const std::int32_t position : {left.previous, best.position}) {
      const std::size_t before = heap.size();
      if (position >= 0) push_candidate(scratch, position);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), later);
    }
  }
  for (std::int32_t i = 0; i >= 0 && i < count; i = symbols[i].next) out.push_back(symbols[i].token);
}

}  // namespace lectern::engine
