// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "engine/result.h"
#include "engine/types.h"
#include "ops/backend.h"

// What things take on a GPU, before anything is taken. No CUDA types, so that planning needs none.
namespace lectern::engine {

// Memory of the GPU that is free now. Errors as make_cuda_backend().
Result<std::int64_t> cuda_free_memory(int device);

// Bytes of a weight in the layout that the kernels read.
std::int64_t cuda_weight_bytes(const HostMatrix& matrix);

// Bytes of the keys and values of `tokens` rows of one layer, and of what keeps track of them.
std::int64_t cuda_cache_bytes(const AttentionShape& shape, KvType type, std::int64_t tokens);

// Bytes of what the kernels know about the experts of a block, their weights aside.
std::int64_t cuda_expert_table_bytes(std::int64_t experts);

// Bytes for experts on their way from the computer's memory: `experts` of a block, the largest of all of `largest`
// bytes.
std::int64_t cuda_expert_staging_bytes(std::int64_t experts, std::int64_t largest);

// Rows for which experts that are not all on the GPU are brought there once; more are cut.
inline constexpr std::int64_t kExpertRowsAtOnce = 4096;

// The largest shapes that operations meet.
struct CudaWork {
  std::int64_t rows = 0;     // of a pass
  std::int64_t widest = 0;   // columns of a product's input
  std::int64_t experts = 0;  // of a block; 0: none
  std::int64_t chosen = 0;   // experts of a token
  std::int64_t hidden = 0;   // d of expert blocks
  std::int64_t inner = 0;    // m of an expert
  std::int64_t shared = 0;   // width of the shared expert
  std::int64_t logits = 0;   // of a row from which a token is chosen
  bool hosted = false;       // some experts stay in the computer's memory
  AttentionShape attention;
  DeltaShape delta;
};

// Working memory of the operation that needs most.
std::int64_t cuda_working_bytes(const CudaWork& work);

}  // namespace lectern::engine
