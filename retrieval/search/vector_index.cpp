// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/vector_index.h"

#include <faiss/IndexFlat.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/index_io.h>

#include <algorithm>
#include <mutex>

namespace lectern::retrieval {
namespace {

void set_bit(std::vector<std::uint8_t>& bits, std::size_t i) {
  bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (1U << (i % 8)));
}

void clear_bit(std::vector<std::uint8_t>& bits, std::size_t i) {
  bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] & ~(1U << (i % 8)));
}

}  // namespace

VectorIndex::VectorIndex(int dimension)
    : dimension_(dimension), index_(std::make_unique<faiss::IndexFlatIP>(dimension)) {}

VectorIndex::~VectorIndex() = default;

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
    index_->add(1, vectors.data() + i * width);
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
  auto index = std::make_unique<faiss::IndexFlatIP>(dimension_);
  std::vector<ChunkId> chunks;
  for (std::size_t row = 0; row < chunks_.size(); ++row) {
    const auto found = rows_.find(chunks_[row]);
    if (found == rows_.end() || found->second != static_cast<std::int64_t>(row)) continue;
    found->second = static_cast<std::int64_t>(chunks.size());
    index->add(1, index_->get_xb() + row * static_cast<std::size_t>(dimension_));
    chunks.push_back(chunks_[row]);
  }
  index_ = std::move(index);
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

  const std::vector<std::uint8_t>& bits = among != nullptr ? chosen : alive_;
  faiss::IDSelectorBitmap selector(bits.size(), bits.data());
  faiss::SearchParameters parameters;
  if (candidates < chunks_.size()) parameters.sel = &selector;
  std::vector<float> scores(count);
  std::vector<faiss::Index::idx_t> rows(count);
  index_->search(1, query.data(), static_cast<faiss::Index::idx_t>(count), scores.data(), rows.data(), &parameters);

  std::vector<VectorHit> hits;
  for (std::size_t i = 0; i < count; ++i) {
    if (rows[i] >= 0) hits.push_back({chunks_[static_cast<std::size_t>(rows[i])], scores[i]});
  }
  std::sort(hits.begin(), hits.end(), [](const VectorHit& a, const VectorHit& b) {
    return a.score != b.score ? a.score > b.score : a.chunk < b.chunk;
  });
  return hits;
}

std::optional<std::string> VectorIndex::serialize(std::span<const ChunkId> chunks) const {
  const std::shared_lock lock(mutex_);
  faiss::IndexFlatIP ordered(dimension_);
  for (const ChunkId chunk : chunks) {
    const auto found = rows_.find(chunk);
    if (found == rows_.end()) return std::nullopt;
    ordered.add(1, index_->get_xb() + found->second * dimension_);
  }
  faiss::VectorIOWriter writer;
  faiss::write_index(&ordered, &writer);
  return std::string(writer.data.begin(), writer.data.end());
}

std::unique_ptr<VectorIndex> VectorIndex::deserialize(std::string_view bytes, int dimension,
                                                      std::span<const ChunkId> chunks) {
  try {
    faiss::VectorIOReader reader;
    reader.data.assign(bytes.begin(), bytes.end());
    const std::unique_ptr<faiss::Index> read(faiss::read_index(&reader));
    const auto* flat = dynamic_cast<const faiss::IndexFlatIP*>(read.get());
    if (flat == nullptr || flat->d != dimension || flat->ntotal != static_cast<std::int64_t>(chunks.size()) ||
        flat->codes.size() != chunks.size() * static_cast<std::size_t>(dimension) * sizeof(float)) {
      return nullptr;
    }
    auto index = std::make_unique<VectorIndex>(dimension);
    index->add(chunks, {flat->get_xb(), chunks.size() * static_cast<std::size_t>(dimension)});
    return index;
  } catch (const std::exception&) {
    return nullptr;
  }
}

}  // namespace lectern::retrieval
