// SPDX-License-Identifier: Apache-2.0
#include "model/state.h"

#include <utility>

namespace lectern::engine {
namespace {

Result<std::unique_ptr<Buffer>> copy_of(const std::unique_ptr<Buffer>& buffer, Backend& backend) {
  if (!buffer) return std::unique_ptr<Buffer>();
  ENGINE_TRY(std::unique_ptr<Buffer> copy, backend.make_buffer(buffer->size(), MemoryUse::kState));
  backend.copy(buffer->data(), copy->data(), buffer->size());
  return copy;
}

std::int64_t bytes_of(const std::unique_ptr<Buffer>& buffer) {
  return buffer ? buffer->size() * static_cast<std::int64_t>(sizeof(float)) : 0;
}

}  // namespace

Result<SequenceState> SequenceState::create(const ModelConfig& config, const SequenceOptions& options,
                                            const Placement& placement) {
  SequenceState state;
  state.options_ = options;
  state.rotary_ = make_rotary_table(config, options.yarn);
  state.deltas_.resize(config.layers.size());
  state.tentative_rows_.resize(config.layers.size());
  state.caches_.resize(config.layers.size());
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    Backend& backend = placement.of_layer(i);
    const auto make_state = [&](std::int64_t floats) { return backend.make_buffer(floats, MemoryUse::kState); };
    if (config.layers[i] == LayerKind::kAttention) {
      ENGINE_TRY(state.caches_[i], backend.make_kv_cache(config.attention, options.kv));
      continue;
    }
    const std::int64_t recurrent = config.delta.value_heads * config.delta.key_dim * config.delta.value_dim;
    ENGINE_TRY(state.deltas_[i].conv, make_state((config.conv_taps - 1) * config.conv_channels()));
    ENGINE_TRY(state.deltas_[i].recurrent, make_state(recurrent));
  }
  if (options.with_mtp) {
    ENGINE_TRY(state.mtp_cache_, placement.last().make_kv_cache(config.attention, options.kv));
  }
  return state;
}

Result<void> SequenceState::reserve(std::int64_t tokens, const Placement& placement) {
  for (std::size_t i = 0; i < caches_.size(); ++i) {
    if (caches_[i]) ENGINE_CHECK(placement.of_layer(i).reserve_kv(*caches_[i], tokens));
  }
  return {};
}

Result<void> SequenceState::reserve_tentative(const ModelConfig& config, const Placement& placement) {
  const std::int64_t change = config.delta.value_heads * (config.delta.key_dim + config.delta.value_dim + 1);
  for (std::size_t i = 0; i < deltas_.size(); ++i) {
    if (!deltas_[i].conv || tentative_rows_[i].changes) continue;
    const auto make_state = [&](std::int64_t floats) {
      return placement.of_layer(i).make_buffer(floats, MemoryUse::kState);
    };
    ENGINE_TRY(tentative_rows_[i].conv_inputs, make_state(kSmallBatchRows * config.conv_channels()));
    ENGINE_TRY(tentative_rows_[i].changes, make_state(kSmallBatchRows * change));
  }
  return {};
}

Result<void> SequenceState::reserve_kept(const ModelConfig& config, Backend& backend) {
  if (kept_) return {};
  ENGINE_TRY(kept_, backend.make_buffer(kKeptRows * config.hidden_size, MemoryUse::kState));
  return {};
}

void SequenceState::accept(std::int64_t rows, const ModelConfig& config, const DeviceOfLayer& device_of) {
  for (std::size_t i = 0; i < deltas_.size(); ++i) {
    if (caches_[i]) {
      caches_[i]->truncate(length_ + rows);
    } else if (rows > 0) {
      Backend& backend = device_of(i);
      const Tensor inputs = {tentative_rows_[i].conv_inputs->data(), rows, config.conv_channels()};
      backend.advance_conv(inputs, config.conv_taps, deltas_[i].conv->data());
      backend.apply_changes(tentative_rows_[i].changes->data(), rows, config.delta, deltas_[i].recurrent->data());
    }
  }
  length_ += rows;
  tentative_ = 0;
}

Result<SequenceState> SequenceState::fork(const Placement& placement) const {
  SequenceState copy;
  copy.length_ = length_;
  copy.consistent_ = consistent_;
  copy.options_ = options_;
  copy.rotary_ = rotary_;
  for (std::size_t i = 0; i < deltas_.size(); ++i) {
    DeltaNetState one;
    ENGINE_TRY(one.conv, copy_of(deltas_[i].conv, placement.of_layer(i)));
    ENGINE_TRY(one.recurrent, copy_of(deltas_[i].recurrent, placement.of_layer(i)));
    copy.deltas_.push_back(std::move(one));
  }
  copy.tentative_rows_.resize(deltas_.size());
  for (const auto& cache : caches_) copy.caches_.push_back(cache ? cache->fork() : nullptr);
  if (mtp_cache_) copy.mtp_cache_ = mtp_cache_->fork();
  return copy;
}

const void* SequenceState::identity() const {
  for (std::size_t i = 0; i < caches_.size(); ++i) {
    if (caches_[i]) return caches_[i].get();
    if (deltas_[i].recurrent) return deltas_[i].recurrent.get();
  }
  return this;
}

std::int64_t SequenceState::kv_bytes() const {
  std::int64_t total = mtp_cache_ ? mtp_cache_->bytes() : 0;
  for (const auto& cache : caches_) total += cache ? cache->bytes() : 0;
  return total;
}

std::int64_t SequenceState::bytes() const {
  std::int64_t total = kv_bytes() + bytes_of(kept_);
  for (const DeltaNetState& delta : deltas_) total += bytes_of(delta.conv) + bytes_of(delta.recurrent);
  for (const TentativeRows& rows : tentative_rows_) total += bytes_of(rows.conv_inputs) + bytes_of(rows.changes);
  return total;
}

}  // namespace lectern::engine
