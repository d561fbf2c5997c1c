// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "engine/types.h"
#include "model/state.h"
#include "runtime/pass_scheduler.h"
#include "runtime/transformer_sequence.h"

namespace lectern::engine {

// Sequences that were read before, so that a prompt which begins like one of them goes on from there: in memory, and on
// disk when a directory is given. Least recently used ones go first when the room is full. What cannot be read, or is
// of another model, quantisation or rope scaling, is not used, and the prompt is read anew. Any thread.
class SessionCache {
 public:
  // `fingerprint`: of the model's weights and of everything else that changes what a sequence holds.
  SessionCache(PassScheduler& scheduler, const std::string& fingerprint, const SessionOptions& options);
  ~SessionCache();

  // The longest stored beginning of `prompt` that leaves at least one token to read, read under the same options; it is
  // the caller's own.
  std::optional<SequenceSnapshot> find(std::span<const TokenId> prompt, const SequenceOptions& options);

  // Keeps a sequence. Never fails: what does not fit is not kept. On disk it is written before this returns.
  void store(SequenceSnapshot snapshot);

  std::int64_t bytes_in_memory() const;
  std::int64_t bytes_on_disk() const;

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

}  // namespace lectern::engine
