// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/platform.h"

// Sums and maxima over a warp or a block. All threads of it must call them; all get the result. The order of additions
// is fixed, so that equal inputs give equal bits.
namespace lectern::engine::cuda {

__device__ inline float warp_sum(float value) {
#if defined(LECTERN_EMULATED_CUDA)
  return emulation::butterfly_sum(value);
#else
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
#endif
}

__device__ inline float warp_max(float value) {
#if defined(LECTERN_EMULATED_CUDA)
  return emulation::butterfly_max(value);
#else
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
#endif
}

// `partial`: shared memory for one number per warp of the block. Threads: a multiple of 32, at most 1,024, in x only.
__device__ inline float block_sum(float value, float* partial) {
  value = warp_sum(value);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();  // an earlier use of `partial` has ended
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? partial[lane] : 0.0F);
}

__device__ inline float block_max(float value, float* partial) {
  value = warp_max(value);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return warp_max(lane < warps ? partial[lane] : partial[0]);
}

__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }
__device__ inline float silu(float x) { return x * sigmoid(x); }

}  // namespace lectern::engine::cuda
