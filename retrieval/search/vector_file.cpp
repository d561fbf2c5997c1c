// SPDX-License-Identifier: GPL-3.0-or-later
#include "search/vector_file.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "store/content_hash.h"
#include "store/durable_file.h"

namespace lectern::retrieval {
namespace {

static_assert(std::endian::native == std::endian::little, "the envelope is written as it lies in memory");

constexpr std::uint32_t kFormat = 1;
constexpr std::uint32_t kFlatInnerProduct = 1;
constexpr std::uint64_t kFaissOverhead = 4096;  // more than FAISS writes besides the vectors

struct Envelope {
  char magic[8] = {'L', 'E', 'C', 'T', 'V', 'E', 'C', '\n'};
  std::uint32_t format = kFormat;
  std::uint32_t kind = kFlatInnerProduct;
  std::uint32_t dimension = 0;
  std::uint32_t reserved = 0;
  std::uint64_t count = 0;
  std::int64_t generation = 0;
  std::uint64_t payload_bytes = 0;
  ContentHash library{};
  ContentHash model{};
  ContentHash chunks{};
  ContentHash payload{};
  ContentHash self{};  // of everything above
};
static_assert(sizeof(Envelope) == 208);

std::string_view bytes_of(const Envelope& envelope) {
  return {reinterpret_cast<const char*>(&envelope), sizeof(envelope)};
}

Envelope expected_envelope(const VectorFileKey& key, std::string_view payload) {
  Envelope envelope;
  envelope.dimension = static_cast<std::uint32_t>(key.model.dimension);
  envelope.count = key.chunks.size();
  envelope.generation = key.version.generation;
  envelope.payload_bytes = payload.size();
  envelope.library = key.version.library;
  envelope.model = hash_of(key.model.name);
  envelope.chunks = hash_of({reinterpret_cast<const char*>(key.chunks.data()), key.chunks.size_bytes()});
  envelope.payload = hash_of(payload);
  envelope.self = hash_of(bytes_of(envelope).substr(0, offsetof(Envelope, self)));
  return envelope;
}

}  // namespace

Result<void> save_vectors(const std::filesystem::path& file, const VectorFileKey& key, const VectorIndex& index) {
  const auto payload = index.serialize(key.chunks);
  if (!payload)
    return Error{ErrorCode::kInvalidArgument, "The vector index does not hold all passages of " + file.string() + "."};
  const Envelope envelope = expected_envelope(key, *payload);
  return write_durably(file, {bytes_of(envelope), *payload});
}

std::unique_ptr<VectorIndex> load_vectors(const std::filesystem::path& file, const VectorFileKey& key) {
  const std::uint64_t vector_bytes = key.chunks.size() * static_cast<std::uint64_t>(key.model.dimension) * 4;
  const auto content = read_bounded(file, sizeof(Envelope) + vector_bytes + kFaissOverhead);
  if (!content || content->size() < sizeof(Envelope)) return nullptr;
  const std::string_view all = *content;
  const std::string_view payload = all.substr(sizeof(Envelope));
  // Every field is known beforehand but the payload, and that is covered by its hash.
  if (all.substr(0, sizeof(Envelope)) != bytes_of(expected_envelope(key, payload))) return nullptr;
  return VectorIndex::deserialize(payload, key.model.dimension, key.chunks);
}

}  // namespace lectern::retrieval
