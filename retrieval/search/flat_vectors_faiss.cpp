// SPDX-License-Identifier: GPL-3.0-or-later
#include <faiss/IndexFlat.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/index_io.h>

#include "search/flat_vectors.h"

namespace lectern::retrieval {

struct FlatVectors::Storage {
  faiss::IndexFlatIP index;
};

FlatVectors::FlatVectors(int dimension) : storage_(new Storage{faiss::IndexFlatIP(dimension)}) {}
FlatVectors::FlatVectors(FlatVectors&&) noexcept = default;
FlatVectors& FlatVectors::operator=(FlatVectors&&) noexcept = default;
FlatVectors::~FlatVectors() = default;

std::size_t FlatVectors::rows() const { return static_cast<std::size_t>(storage_->index.ntotal); }

std::span<const float> FlatVectors::row(std::size_t index) const {
  const auto width = static_cast<std::size_t>(storage_->index.d);
  return {storage_->index.get_xb() + index * width, width};
}

void FlatVectors::add(std::span<const float> row) { storage_->index.add(1, row.data()); }

// One query at a time, for which FAISS starts no threads of its own.
std::vector<NearRow> FlatVectors::nearest(std::span<const float> query, std::size_t count,
                                          std::span<const std::uint8_t> among) const {
  faiss::IDSelectorBitmap selector(among.size(), among.data());
  faiss::SearchParameters parameters;
  if (!among.empty()) parameters.sel = &selector;
  std::vector<float> scores(count);
  std::vector<faiss::Index::idx_t> rows(count);
  storage_->index.search(1, query.data(), static_cast<faiss::Index::idx_t>(count), scores.data(), rows.data(),
                         &parameters);
  std::vector<NearRow> found;
  for (std::size_t i = 0; i < count; ++i) {
    if (rows[i] >= 0) found.push_back({static_cast<std::size_t>(rows[i]), scores[i]});
  }
  return found;
}

std::string FlatVectors::serialize() const {
  faiss::VectorIOWriter writer;
  faiss::write_index(&storage_->index, &writer);
  return {writer.data.begin(), writer.data.end()};
}

std::unique_ptr<FlatVectors> FlatVectors::deserialize(std::string_view bytes, int dimension, std::size_t rows) {
  try {
    faiss::VectorIOReader reader;
    reader.data.assign(bytes.begin(), bytes.end());
    const std::unique_ptr<faiss::Index> read(faiss::read_index(&reader));
    const auto* flat = dynamic_cast<const faiss::IndexFlatIP*>(read.get());
    if (flat == nullptr || flat->d != dimension || flat->ntotal != static_cast<std::int64_t>(rows) ||
        flat->codes.size() != rows * static_cast<std::size_t>(dimension) * sizeof(float)) {
      return nullptr;
    }
    auto vectors = std::make_unique<FlatVectors>(dimension);
    vectors->storage_->index.add(flat->ntotal, flat->get_xb());
    return vectors;
  } catch (const std::exception&) {
    return nullptr;
  }
}

}  // namespace lectern::retrieval
