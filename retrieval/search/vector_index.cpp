// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/vector_index.h"

#include <algorithm>
#include <mutex>
#include <utility>

namespace lectern::retrieval {
namespace {

void set_bit(std::vector<std::uint8_t>& bits, std::size_t i) {
  bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (1U << (i % 8)));
}

void clear_bit(std::vector<std::uint8_t>& bits, std::size_t i) {
  bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] & ~(1U << (i % 8)));
}

}  // namespace

std::size_t VectorIndex::size() const {
  const std::shared_lock lock(mutex_);
  return rows_.size();
}

void VectorIndex::add(std::span<const ChunkId> chunks, std::span<const float> vectors) {
  const std::unique_lock lock(mutex_);
  const auto width = static_cast<std::size_t>(dimension_);
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const std::size_t row = chunks_.size();
    if (!rows_.try_emplace(chunks[i], static_cast<std::int64_t>(row)).second) continue;
    vectors_.add(vectors.subspan(i * width, width));
    chunks_.push_back(chunks[i]);
    alive_.resize(row / 8 + 1);
    set_bit(alive_, row);
  }
}

void VectorIndex::remove(std::span<const ChunkId> chunks) {
  const std::unique_lock lock(mutex_);
  for (const ChunkId chunk : chunks) {
    const auto found = rows_.find(chunk);
    if (found == rows_.end()) continue;
    clear_bit(alive_, static_cast<std::size_t>(found->second));
    rows_.erase(found);
  }
  if (rows_.size() < chunks_.size() / 5 * 4) compact();
}

void VectorIndex::compact() {
  FlatVectors kept(dimension_);
  std::vector<ChunkId> chunks;
  for (std::size_t row = 0; row < chunks_.size(); ++row) {
    const auto found = rows_.find(chunks_[row]);
    if (found == rows_.end() || found->second != static_cast<std::int64_t>(row)) continue;
    found->second = static_cast<std::int64_t>(chunks.size());
    kept.add(vectors_.row(row));
    chunks.push_back(chunks_[row]);
  }
  vectors_ = std::move(kept);
  chunks_ = std::move(chunks);
  alive_.assign(chunks_.size() / 8 + 1, 0);
  for (std::size_t row = 0; row < chunks_.size(); ++row) set_bit(alive_, row);
}

std::vector<VectorHit> VectorIndex::search(std::span<const float> query, std::size_t limit,
                                           const std::vector<ChunkId>* among) const {
  const std::shared_lock lock(mutex_);
  std::vector<std::uint8_t> chosen;
  std::size_t candidates = rows_.size();
  if (among != nullptr) {
    chosen.resize(alive_.size());
    candidates = 0;
    for (const ChunkId chunk : *among) {
      const auto found = rows_.find(chunk);
      if (found == rows_.end()) continue;
      set_bit(chosen, static_cast<std::size_t>(found->second));
      ++candidates;
    }
  }
  const std::size_t count = std::min(limit, candidates);
  if (count == 0 || query.size() != static_cast<std::size_t>(dimension_)) return {};

  std::span<const std::uint8_t> bits;
  if (candidates < chunks_.size()) bits = among != nullptr ? chosen : alive_;
  std::vector<VectorHit> hits;
  for (const NearRow& near : vectors_.nearest(query, count, bits)) hits.push_back({chunks_[near.row], near.score});
  std::sort(hits.begin(), hits.end(), [](const VectorHit& a, const VectorHit& b) {
    return a.score != b.score ? a.score > b.score : a.chunk < b.chunk;
  });
  return hits;
}

std::optional<std::string> VectorIndex::serialize(std::span<const ChunkId> chunks) const {
  const std::shared_lock lock(mutex_);
  FlatVectors ordered(dimension_);
  for (const ChunkId chunk : chunks) {
    const auto found = rows_.find(chunk);
    if (found == rows_.end()) return std::nullopt;
    ordered.add(vectors_.row(static_cast<std::size_t>(found->second)));
  }
  return ordered.serialize();
}

std::unique_ptr<VectorIndex> VectorIndex::deserialize(std::string_view bytes, int dimension,
                                                      std::span<const ChunkId> chunks) {
  const std::unique_ptr<FlatVectors> read = FlatVectors::deserialize(bytes, dimension, chunks.size());
  if (read == nullptr) return nullptr;
  auto index = std::make_unique<VectorIndex>(dimension);
  for (std::size_t row = 0; row < chunks.size(); ++row) index->add(chunks.subspan(row, 1), read->row(row));
  return index;
}

}  // namespace lectern::retrieval
