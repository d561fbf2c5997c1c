// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/platform.h"
#include "ops/backend.h"

// The gated delta rule for many rows in chunks of 64: what rows of a chunk do to each other becomes products of
// matrices, so that only the states between chunks follow one another (Yang et al. 2024, "Parallelizing Linear
// Transformers with the Delta Rule over Sequence Length").
namespace lectern::engine::cuda {

inline constexpr std::int64_t kChunkRows = 64;
inline constexpr std::int64_t kSlabRows = 1024;  // prepared together, so that what is prepared stays in the L2 cache

// Whether chunks are possible and worth it.
bool goes_in_chunks(const DeltaShape& shape, std::int64_t rows);

// The work on one slab. Matrices for the matrix units are fragments of 16 rows and 8 columns, a row of them after
// another, 16 bytes to a lane.
struct ChunkWork {
  const float* qkv;
  const float* ba;
  DeltaGates gates;
  std::int64_t key_heads;
  std::int64_t value_heads;
  std::int64_t rows;  // at most kSlabRows
  float* state;
  float* o;
  // Per chunk and key head, of length 1: [64, 128], [128, 64] and, of length 1 / sqrt(128), [64, 128].
  float4* keys;
  float4* keys_turned;
  float4* queries;
  // Per chunk and value head, [64, 64].
  float4* solver;  // (1 + A)^-1 diag(beta), A[i, j] = beta_i exp(G_i - G_j) (k_i . k_j) for j < i
  float4* pairs;   // exp(G_i - G_j) (q_i . k_j) for j <= i
  float* decay;    // [2, 64]: exp(G_i) and exp(G_63 - G_i)
};

// Bytes of the last six.
std::int64_t chunk_work_bytes(const DeltaShape& shape, std::int64_t rows);
// Points the last six into `memory`.
void place_chunk_work(std::byte* memory, std::int64_t rows, ChunkWork& work);

struct ChunkStep {
  Grid grid;
  void (*kernel)(ChunkWork);
};
// To be queued one after the other for a slab.
ChunkStep preparation_of_chunks(const ChunkWork& work);
ChunkStep scan_of_chunks(const ChunkWork& work);

}  // namespace lectern::engine::cuda
