// SPDX-License-Identifier: Apache-2.0
#include "cuda/cuda_plan.h"

#include <algorithm>

#include "cuda/device_memory.h"
#include "cuda/kv_cache.h"
#include "cuda/platform.h"
#include "cuda/usable_device.h"
#include "cuda/weights.h"

namespace lectern::engine {
namespace {

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

std::int64_t cuda_working_bytes(const CudaWork& work) { return std::int64_t{64} << 20 | work.rows; }

}  // namespace lectern::engine
