// SPDX-License-Identifier: GPL-3.0-or-later
#include <algorithm>
#include <array>
#include <cstring>

#include "search/flat_vectors.h"

namespace lectern::retrieval {
namespace {

constexpr std::string_view kMagic = "flat inner product 1";

// Sums that do not wait for each other, so that the compiler can compute them side by side.
constexpr std::size_t kLanes = 16;

float inner_product(std::span<const float> a, const float* b) {
  std::array<float, kLanes> sums{};
  std::size_t i = 0;
  for (; i + kLanes <= a.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  float rest = 0;
  for (; i < a.size(); ++i) rest += a[i] * b[i];
  for (const float sum : sums) rest += sum;
  return rest;
}

}  // namespace

struct FlatVectors::Storage {
  std::size_t width = 0;
  std::vector<float> numbers = {};  // [rows, width]
};

FlatVectors::FlatVectors(int dimension) : storage_(new Storage{static_cast<std::size_t>(dimension)}) {}
FlatVectors::FlatVectors(FlatVectors&&) noexcept = default;
FlatVectors& FlatVectors::operator=(FlatVectors&&) noexcept = default;
FlatVectors::~FlatVectors() = default;

std::size_t FlatVectors::rows() const { return storage_->numbers.size() / storage_->width; }

std::span<const float> FlatVectors::row(std::size_t index) const {
  return std::span(storage_->numbers).subspan(index * storage_->width, storage_->width);
}

void FlatVectors::add(std::span<const float> row) {
  storage_->numbers.insert(storage_->numbers.end(), row.begin(), row.end());
}

std::vector<NearRow> FlatVectors::nearest(std::span<const float> query, std::size_t count,
                                          std::span<const std::uint8_t> among) const {
  std::vector<NearRow> found;
  for (std::size_t i = 0; i < rows(); ++i) {
    const bool chosen = among.empty() || (i / 8 < among.size() && (among[i / 8] >> (i % 8) & 1U) != 0);
    if (chosen) found.push_back({i, inner_product(query, row(i).data())});
  }
  const auto better = [](const NearRow& a, const NearRow& b) {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  };
  if (count < found.size()) {
    std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(count), found.end(), better);
    found.resize(count);
  }
  return found;
}

std::string FlatVectors::serialize() const {
  std::string bytes(kMagic);
  bytes.append(reinterpret_cast<const char*>(storage_->numbers.data()), storage_->numbers.size() * sizeof(float));
  return bytes;
}

std::unique_ptr<FlatVectors> FlatVectors::deserialize(std::string_view bytes, int dimension, std::size_t rows) {
  auto vectors = std::make_unique<FlatVectors>(dimension);
  if (!bytes.starts_with(kMagic)) return nullptr;
  bytes.remove_prefix(kMagic.size());
  const std::size_t row_bytes = vectors->storage_->width * sizeof(float);
  if (bytes.size() % row_bytes != 0 || bytes.size() / row_bytes != rows) return nullptr;
  vectors->storage_->numbers.resize(bytes.size() / sizeof(float));
  std::memcpy(vectors->storage_->numbers.data(), bytes.data(), bytes.size());
  return vectors;
}

}  // namespace lectern::retrieval
