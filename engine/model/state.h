// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/result.h"
#include "model/config.h"
#include "ops/backend.h"

namespace lectern::engine {

struct DeltaNetState {
  std::unique_ptr<Buffer> conv;       // [taps - 1, channels], inputs before the activation, oldest first
  std::unique_ptr<Buffer> recurrent;  // [Hv, dk, dv]
};

// Everything a sequence leaves behind: keys and values of attention layers, fixed-size states of DeltaNet layers.
// Cannot be rewound; clone() before what may have to be undone.
class SequenceState {
 public:
  static Result<SequenceState> create(const ModelConfig& config, bool with_mtp, Backend& backend);

  // Tokens that the trunk has read.
  std::int64_t length() const { return length_; }

  // The graph calls begin() before it changes anything and end() when all layers have read the tokens; in between, and
  // for good if end() never comes, the layers disagree about the length.
  void begin() { consistent_ = false; }
  void end(std::int64_t tokens) {
    length_ += tokens;
    consistent_ = true;
  }
  bool consistent() const { return consistent_; }

  // Makes room for `tokens` more in every trunk cache; growing copies. Errors: kOutOfMemory (nothing changed).
  Result<void> reserve(std::int64_t tokens, Backend& backend);
  Result<void> reserve_mtp(std::int64_t tokens, Backend& backend);

  DeltaNetState& delta(std::size_t layer) { return deltas_[layer]; }
  KvCache& cache(std::size_t layer) { return caches_[layer]; }
  KvCache& mtp_cache() { return *mtp_cache_; }
  bool has_mtp() const { return mtp_cache_.has_value(); }

  // A deep copy; costs the memory and time of all caches. Errors: kOutOfMemory.
  Result<SequenceState> clone(Backend& backend) const;

  std::int64_t bytes() const;

 private:
  std::int64_t length_ = 0;
  bool consistent_ = true;
  std::int64_t kv_width_ = 0;
  std::vector<DeltaNetState> deltas_;  // indexed by layer; empty for attention layers
  std::vector<KvCache> caches_;        // indexed by layer; empty for DeltaNet layers
  std::optional<KvCache> mtp_cache_;
};

}  // namespace lectern::engine
