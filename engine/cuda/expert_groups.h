// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/experts.h"
#include "cuda/products.h"

// Products of experts with up to eight rows each, on the arithmetic units: every weight is read once for all rows that
// chose its expert. A row's numbers have the same bits whatever the other rows are.
namespace lectern::engine::cuda {

// One row for every pair (routing.h); the rows of the shared expert have a width of their own.
struct PairRows {
  CodedRows coded;  // where the next matrix wants 8 bits
  CodedRows coded_shared;
  FloatRows floats;  // where it wants floats
  FloatRows floats_shared;
};

enum class ExpertStep : std::int32_t {
  kGateAndUp,  // inner = silu(gate x) up x
  kGate,       // products = gate x
  kUp,         // inner = silu(products) up x
  kDown,       // products = down inner
};

struct GroupProduct {
  const PlacedExpert* experts = nullptr;
  const ExpertGroup* groups = nullptr;  // or, where null, tiles of kGroupRows rows at most
  const ExpertTile* tiles = nullptr;
  const std::int32_t* sorted = nullptr;
  const std::int32_t* count = nullptr;  // of either
  CodedRows coded_x;
  FloatRows x;
  PairRows inner;
  float* products = nullptr;  // [pairs, product_width], by pair
  std::int64_t product_width = 0;
  ExpertStep step = ExpertStep::kGateAndUp;
  std::int32_t pairs = 0;      // without the shared expert's
  std::int32_t chosen = 0;     // of a row
  std::int32_t first_row = 0;  // of `down`, a multiple of kSliceRows, to column 0 of `products`
};

inline constexpr int kExpertThreads = 256;
inline constexpr int kSliceRows = 32;  // rows of a matrix to a block: a group of the next product

// Grid: slices of kSliceRows, from first_row on; most groups. Experts whose matrix is of another type are left out.
using GroupKernel = void (*)(GroupProduct);
GroupKernel group_kernel(DType type, ExpertStep step);

// y += the weighted sum of what the experts with `down` of a type give for at most kGroupRows rows, by expert.
struct GroupSum {
  const PlacedExpert* experts = nullptr;
  const ExpertGroup* groups = nullptr;
  const std::int32_t* count = nullptr;
  const float* weights = nullptr;  // by pair
  PairRows inner;
  float* y = nullptr;  // [rows, columns]
  std::int32_t columns = 0;
  std::int32_t pairs = 0;
  std::int32_t lanes = 0;  // that share a row of `down`: sum_lanes()
  std::int32_t rows = 0;
  std::int32_t with_shared = 0;
  std::int32_t none = 0;  // no padding
};

using GroupSumKernel = void (*)(GroupSum);
GroupSumKernel group_sum_kernel(DType type, std::int64_t rows);
int sum_lanes(DType type, std::int64_t cols);
unsigned group_sum_blocks(const GroupSum& sum);

}  // namespace lectern::engine::cuda
