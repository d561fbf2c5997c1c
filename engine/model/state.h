// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "model/config.h"
#include "ops/backend.h"
#include "ops/placement.h"

namespace lectern::engine {

// Hidden rows of the last tokens that a sequence keeps on the device until the MTP module reads them.
inline constexpr std::int64_t kKeptRows = 3 * kSmallBatchRows;

struct DeltaNetState {
  std::unique_ptr<Buffer> conv;       // [taps - 1, channels], inputs before the activation, oldest first
  std::unique_ptr<Buffer> recurrent;  // [Hv, dk, dv]
};

// Rows that a DeltaNet layer has read tentatively: what accepting some of them takes.
struct TentativeRows {
  std::unique_ptr<Buffer> conv_inputs;  // [kSmallBatchRows, channels]
  std::unique_ptr<Buffer> changes;      // [kSmallBatchRows, Hv, dk + dv + 1]
};

struct SequenceOptions {
  KvType kv = KvType::kF32;
  YarnScaling yarn = {};
  bool with_mtp = false;
};

// Everything a sequence leaves behind: keys and values of attention layers, fixed-size states of DeltaNet layers.
class SequenceState {
 public:
  static Result<SequenceState> create(const ModelConfig& config, const SequenceOptions& options,
                                      const Placement& placement);

  // Tokens that the trunk has read.
  std::int64_t length() const { return length_; }
  const SequenceOptions& options() const { return options_; }
  const RotaryTable& rotary() const { return rotary_; }

  // The graph calls begin() before it changes anything and end() when all layers have read the tokens; in between, and
  // for good if end() never comes, the layers disagree about the length.
  void begin() { consistent_ = false; }
  void end(std::int64_t tokens) {
    length_ += tokens;
    consistent_ = true;
  }
  bool consistent() const { return consistent_; }

  // Rows read by a tentative pass and not yet decided on; 0: none.
  std::int64_t tentative() const { return tentative_; }
  void end_tentative(std::int64_t rows) {
    tentative_ = rows;
    consistent_ = true;
  }
  // The first `rows` tentative rows count as read, the others were never there. Layers are asked for in order.
  using DeviceOfLayer = std::function<Backend&(std::size_t layer)>;
  void accept(std::int64_t rows, const ModelConfig& config, const DeviceOfLayer& device_of);

  // Makes room for `tokens` more in every trunk cache. Errors: kOutOfMemory (nothing changed).
  Result<void> reserve(std::int64_t tokens, const Placement& placement);
  // Room for the first tentative pass.
  Result<void> reserve_tentative(const ModelConfig& config, const Placement& placement);

  // Room for kept rows.
  Result<void> reserve_kept(const ModelConfig& config, Backend& backend);

  Tensor kept() { return {kept_->data(), kKeptRows, kept_->size() / kKeptRows}; }
  DeltaNetState& delta(std::size_t layer) { return deltas_[layer]; }
  TentativeRows& tentative_rows(std::size_t layer) { return tentative_rows_[layer]; }
  KvCache& cache(std::size_t layer) { return *caches_[layer]; }
  KvCache& mtp_cache() { return *mtp_cache_; }
  bool has_mtp() const { return mtp_cache_ != nullptr; }
  const DeltaNetState& delta(std::size_t layer) const { return deltas_[layer]; }
  const KvCache& cache(std::size_t layer) const { return *caches_[layer]; }
  const KvCache& mtp_cache() const { return *mtp_cache_; }

  // Both go on from here independently. Fixed-size states are copied, keys and values shared until one changes them.
  // Errors: kOutOfMemory.
  Result<SequenceState> fork(const Placement& placement) const;

  // Differs between any two sequences that exist at the same time, and stays when one is moved.
  const void* identity() const;

  // Memory of this sequence, shared parts counted in full.
  std::int64_t bytes() const;
  std::int64_t kv_bytes() const;  // of these, keys and values

 private:
  std::int64_t length_ = 0;
  std::int64_t tentative_ = 0;
  bool consistent_ = true;
  SequenceOptions options_;
  RotaryTable rotary_;
  std::vector<DeltaNetState> deltas_;             // indexed by layer; empty for attention layers
  std::vector<TentativeRows> tentative_rows_;     // the same, and before the first tentative pass
  std::vector<std::unique_ptr<KvCache>> caches_;  // indexed by layer; empty for DeltaNet layers
  std::unique_ptr<KvCache> mtp_cache_;
  std::unique_ptr<Buffer> kept_;  // [kKeptRows, d], from reserve_kept() on; of no copy
};

}  // namespace lectern::engine
