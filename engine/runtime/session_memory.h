// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/types.h"
#include "model/state.h"
#include "runtime/transformer_sequence.h"

namespace lectern::engine {

// Whether sequences read under both are interchangeable. The options of a sequence that exists, not wishes.
bool same_reading(const SequenceOptions& a, const SequenceOptions& b);

// Sequences in memory, the least recently used ones dropped when there is no more room. Not thread-safe; what it gives
// stays valid after it was dropped.
//
// Checkpoints of one sequence share keys and values as far as they agree, so each is charged for its fixed-size states
// and for what its keys and values have beyond those of the longest stored beginning of it. (Where two sequences read
// the same beginning at the same time, each on its own, that charge is too small.)
class SessionMemory {
 public:
  explicit SessionMemory(std::int64_t most_bytes) : most_bytes_(most_bytes) {}

  // The longest stored sequence that is a proper beginning of `tokens`; null: none. It counts as used.
  std::shared_ptr<const SequenceSnapshot> longest(std::span<const TokenId> tokens, const SequenceOptions& options);

  // Takes the place of one of the same tokens. What does not fit alone is not kept.
  void keep(std::shared_ptr<const SequenceSnapshot> snapshot);

  std::int64_t bytes() const;

 private:
  struct Session {
    std::shared_ptr<const SequenceSnapshot> snapshot;
    std::int64_t bytes = 0;              // shared ones included
    std::int64_t kv_bytes = 0;           // of these, keys and values
    const Session* beginning = nullptr;  // the longest stored proper beginning
    std::uint64_t last_use = 0;
  };

  static bool begins(const Session& session, std::span<const TokenId> tokens, const SequenceOptions& options);
  static std::int64_t charge(const Session& session);
  void drop(const Session* session);

  std::int64_t most_bytes_;
  std::uint64_t uses_ = 0;
  std::vector<std::unique_ptr<Session>> sessions_;
};

}  // namespace lectern::engine
