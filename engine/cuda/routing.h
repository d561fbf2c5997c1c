// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "cuda/products.h"

// Which experts a row goes to, and which rows an expert has. Rows are float-accurate up to here whatever the type of
// the router: a choice that rounding decides changes everything after it.
namespace lectern::engine::cuda {

inline constexpr int kMostExperts = 768;
inline constexpr int kMostChosen = 64;  // experts per row
inline constexpr int kGroupRows = 8;    // that are multiplied together on the arithmetic units
static_assert(kGroupRows == kSmallBatchRows);

// The product with the router and the shared expert's router. Types: F32, F16 or BF16.
struct RouterProduct {
  const float* x = nullptr;  // [rows, router.cols]
  float* logits = nullptr;   // [rows, router.rows]
  float* shared = nullptr;   // [rows], for shared_router, which without a shared expert has no rows
  DeviceMatrix router;
  DeviceMatrix shared_router;
  std::int32_t router_type = 0;  // DType
  std::int32_t shared_type = 0;
  std::int32_t rows = 0;
  std::int32_t aligned = 0;  // rows of x lie on boundaries of 16 bytes
};

// Of rows that are to be normed first, as rms_norm() does it; only of a small batch. Without `gain` they are not.
struct RouterNorm {
  const float* gain = nullptr;  // [router.cols]
  float* to = nullptr;          // the normed rows; null: none of the experts reads floats
  float eps = 0.0F;
  std::int32_t wide = 0;  // gain, rows and results can be read 16 bytes at a time
};

// The outcome, by pair: pair t * chosen + i is row t with its expert of rank i; behind the pairs come those of all rows
// with the shared expert, which counts as expert number `experts`.
struct Choices {
  const float* logits = nullptr;       // as above
  const float* shared = nullptr;       // null without a shared expert
  std::int32_t* experts_of = nullptr;  // [rows * chosen]
  float* weights = nullptr;            // [rows * chosen + rows]
  std::int32_t rows = 0;
  std::int32_t experts = 0;
  std::int32_t chosen = 0;
  std::int32_t normalise = 0;
};

// An expert with the rows of a small batch that chose it.
struct ExpertGroup {
  std::int32_t expert;
  std::uint32_t rows;              // bit t: row t
  std::int32_t pairs[kGroupRows];  // of those rows
};

// For kGroupRows rows at most: the shared expert first, then the chosen ones by number.
struct GroupedRows {
  ExpertGroup* groups = nullptr;
  std::int32_t* count = nullptr;
  unsigned* arrived = nullptr;  // 0 before and after
};

// Activations of 8 bits for the experts, made beside the choice.
struct Coding {
  CodedRows to;
  std::int64_t groups = 0;  // of all rows; 0: none wanted
};

inline constexpr int kRouterThreads = 256;
inline constexpr int kRouterRows = 4;  // of the router, to a block

// Norm, product, coding, choice and groups in one launch of router_blocks() + coding_blocks() + norm_blocks() blocks,
// with choice_bytes() of shared memory. For kGroupRows rows at most.
__global__ void route_few(RouterProduct product, RouterNorm norm, Coding coding, Choices choices, GroupedRows grouped);
__global__ void code_activations(RouterProduct product, Coding coding);  // coding_blocks()
// The product alone, for any number of rows; grid: router_tiles().
__global__ void route_many(RouterProduct product);
// Choice and, where `grouped` has a place for them, groups, which needs a single block.
__global__ void choose_experts(Choices choices, GroupedRows grouped);

unsigned router_blocks(const RouterProduct& product);
unsigned coding_blocks(const Coding& coding);
unsigned norm_blocks(const RouterProduct& product, const RouterNorm& norm);
dim3 router_tiles(const RouterProduct& product);
unsigned choice_blocks(const Choices& choices);
std::size_t choice_bytes(const Choices& choices);

// Rows of one expert that are multiplied together.
struct ExpertTile {
  std::int32_t expert;
  std::int32_t first;  // place in `sorted`
  std::int32_t rows;
};

// Pairs sorted by expert, and by pair for each; those of the shared expert follow.
struct SortedPairs {
  const std::int32_t* experts_of = nullptr;
  std::int32_t* sorted = nullptr;  // pairs
  std::int32_t* starts = nullptr;  // [experts + 2], in `sorted`
  ExpertTile* tiles = nullptr;     // [most_tiles()]
  std::int32_t* tile_count = nullptr;
  unsigned* arrived = nullptr;  // 0 before and after
  std::int32_t pairs = 0;       // without the shared expert's
  std::int32_t experts = 0;
  std::int32_t shared_rows = 0;
  std::int32_t tile_rows = 0;
};

inline constexpr int kSortThreads = 256;

std::int64_t most_tiles(const SortedPairs& pairs);
// One block per expert.
__global__ void sort_pairs(SortedPairs pairs);

}  // namespace lectern::engine::cuda
