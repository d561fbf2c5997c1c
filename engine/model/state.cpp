// SPDX-License-Identifier: Apache-2.0
#include "model/state.h"

#include <algorithm>
#include <utility>

namespace lectern::engine {
namespace {

constexpr std::int64_t kFirstCapacity = 256;

Result<void> grow(KvCache& cache, std::int64_t tokens, std::int64_t width, Backend& backend) {
  const std::int64_t needed = cache.length + tokens;
  if (needed <= cache.capacity) return {};
  const std::int64_t capacity = std::max({needed, cache.capacity + cache.capacity / 2, kFirstCapacity});
  ENGINE_TRY(std::unique_ptr<Buffer> keys, backend.make_buffer(capacity * width));
  ENGINE_TRY(std::unique_ptr<Buffer> values, backend.make_buffer(capacity * width));
  if (cache.length > 0) {
    backend.copy(cache.keys->data(), keys->data(), cache.length * width);
    backend.copy(cache.values->data(), values->data(), cache.length * width);
  }
  cache.keys = std::move(keys);
  cache.values = std::move(values);
  cache.capacity = capacity;
  return {};
}

Result<std::unique_ptr<Buffer>> copy_of(const std::unique_ptr<Buffer>& buffer, Backend& backend) {
  if (!buffer) return std::unique_ptr<Buffer>();
  ENGINE_TRY(std::unique_ptr<Buffer> copy, backend.make_buffer(buffer->size()));
  backend.copy(buffer->data(), copy->data(), buffer->size());
  return copy;
}

Result<KvCache> copy_of(const KvCache& cache, Backend& backend) {
  KvCache copy;
  ENGINE_TRY(copy.keys, copy_of(cache.keys, backend));
  ENGINE_TRY(copy.values, copy_of(cache.values, backend));
  copy.length = cache.length;
  copy.capacity = cache.capacity;
  return copy;
}

std::int64_t bytes_of(const std::unique_ptr<Buffer>& buffer) {
  return buffer ? buffer->size() * static_cast<std::int64_t>(sizeof(float)) : 0;
}

}  // namespace

Result<SequenceState> SequenceState::create(const ModelConfig& config, bool with_mtp, Backend& backend) {
  SequenceState state;
  state.kv_width_ = config.kv_width();
  state.deltas_.resize(config.layers.size());
  state.caches_.resize(config.layers.size());
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    if (config.layers[i] == LayerKind::kAttention) continue;
    const std::int64_t recurrent = config.delta.value_heads * config.delta.key_dim * config.delta.value_dim;
    ENGINE_TRY(state.deltas_[i].conv, backend.make_buffer((config.conv_taps - 1) * config.conv_channels()));
    ENGINE_TRY(state.deltas_[i].recurrent, backend.make_buffer(recurrent));
  }
  if (with_mtp) state.mtp_cache_.emplace();
  return state;
}

Result<void> SequenceState::reserve(std::int64_t tokens, Backend& backend) {
  for (std::size_t i = 0; i < caches_.size(); ++i) {
    if (!deltas_[i].conv) ENGINE_CHECK(grow(caches_[i], tokens, kv_width_, backend));
  }
  return {};
}

Result<void> SequenceState::reserve_mtp(std::int64_t tokens, Backend& backend) {
  return grow(*mtp_cache_, tokens, kv_width_, backend);
}

Result<SequenceState> SequenceState::clone(Backend& backend) const {
  SequenceState copy;
  copy.length_ = length_;
  copy.consistent_ = consistent_;
  copy.kv_width_ = kv_width_;
  for (const DeltaNetState& delta : deltas_) {
    DeltaNetState one;
    ENGINE_TRY(one.conv, copy_of(delta.conv, backend));
    ENGINE_TRY(one.recurrent, copy_of(delta.recurrent, backend));
    copy.deltas_.push_back(std::move(one));
  }
  for (const KvCache& cache : caches_) {
    ENGINE_TRY(KvCache one, copy_of(cache, backend));
    copy.caches_.push_back(std::move(one));
  }
  if (mtp_cache_) {
    ENGINE_TRY(copy.mtp_cache_, copy_of(*mtp_cache_, backend));
  }
  return copy;
}

std::int64_t SequenceState::bytes() const {
  std::int64_t total = mtp_cache_ ? bytes_of(mtp_cache_->keys) + bytes_of(mtp_cache_->values) : 0;
  for (const DeltaNetState& delta : deltas_) total += bytes_of(delta.conv) + bytes_of(delta.recurrent);
  for (const KvCache& cache : caches_) total += bytes_of(cache.keys) + bytes_of(cache.values);
  return total;
}

}  // namespace lectern::engine
