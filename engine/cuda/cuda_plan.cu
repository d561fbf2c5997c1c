// SPDX-License-Identifier: Apache-2.0
#include "cuda/cuda_plan.h"

#include <algorithm>

#include "cuda/attention.h"
#include "cuda/delta_chunks.h"
#include "cuda/device_memory.h"
#include "cuda/experts.h"
#include "cuda/kv_cache.h"
#include "cuda/library_products.h"
#include "cuda/platform.h"
#include "cuda/sampling.h"
#include "cuda/usable_device.h"
#include "cuda/weights.h"
#include "ops/backend.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kFewProductRows = 32;        // above, products round to BF16; see dense.cu
constexpr std::int64_t kMostMultiprocessors = 192;  // of a GPU

std::int64_t whole_pieces(std::int64_t bytes) {
  return (bytes + cuda::kAlignment - 1) / cuda::kAlignment * cuda::kAlignment;
}

}  // namespace

Result<std::int64_t> cuda_free_memory(int device) {
  ENGINE_TRY(const cudaDeviceProp properties, cuda::usable_device(device));
  std::size_t free = 0;
  std::size_t total = 0;
  if (const cudaError_t code = cudaMemGetInfo(&free, &total); code != cudaSuccess) {
    return Error{ErrorCode::kDevice, std::string("The GPU ") + properties.name + " does not tell its free memory (" +
                                         cudaGetErrorString(code) + "); restart the computer or update the driver."};
  }
  return static_cast<std::int64_t>(free);
}

std::int64_t cuda_weight_bytes(const HostMatrix& matrix) { return whole_pieces(cuda::device_bytes(matrix)); }

std::int64_t cuda_cache_bytes(const AttentionShape& shape, KvType type, std::int64_t tokens) {
  cuda::HeapMemory none;
  const cuda::CudaKvCache cache(shape, type, none);
  const std::int64_t blocks = (tokens + cuda::kKvBlockRows - 1) / cuda::kKvBlockRows;
  return blocks * whole_pieces(cache.block_bytes()) +
         whole_pieces(cuda::kMostKvBlocks * static_cast<std::int64_t>(sizeof(std::byte*)));
}

std::int64_t cuda_expert_table_bytes(std::int64_t experts) {
  return whole_pieces(cuda::CudaExperts::bytes(experts + 1));
}

// Two halves, so that one is filled while the other is used. Both together are what can be on its way while the parts
// of a layer between two expert blocks are computed.
std::int64_t cuda_expert_staging_bytes(std::int64_t experts, std::int64_t largest) {
  constexpr std::int64_t kHalf = std::int64_t{128} << 20;
  return 2 * std::max(largest, std::min(kHalf, experts / 8 * largest));
}

std::int64_t cuda_working_bytes(const CudaWork& work) {
  constexpr std::int64_t kSavedRows = std::int64_t{4} << 20;  // keys and values on their way to or from a file
  const std::int64_t depth = (work.widest + 63) / 64 * 64;
  const std::int64_t library = work.rows >= LibraryLimits().rows ? library_working_bytes({}) : 0;
  const std::int64_t product = 2 * cuda::kAlignment + 4 * depth * std::max(2 * kFewProductRows, work.rows) + library;
  const std::int64_t attention = cuda::attention_working_bytes(work.attention, work.rows, kMostMultiprocessors);
  const std::int64_t chunks =
      cuda::goes_in_chunks(work.delta, work.rows) ? cuda::chunk_work_bytes(work.delta, work.rows) : 0;
  const std::int64_t experts = work.experts == 0
                                   ? 0
                                   : cuda::expert_working_bytes({work.rows, work.hidden, work.inner, work.shared,
                                                                 work.experts, work.chosen, work.hosted});
  const std::int64_t choice =
      cuda::kAlignment +
      (work.logits <= cuda::kMostSampledTokens ? cuda::sampling_bytes(kSmallBatchRows, work.logits) : 0);
  return std::max({kSavedRows, product, attention, chunks, experts, choice});
}

}  // namespace lectern::engine
