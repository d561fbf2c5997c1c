// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/platform.h"

namespace lectern::engine::cuda {

// Larger numbers have larger bits, and both zeros have the same; NaN lies beyond the infinities.
__device__ inline unsigned ordered_bits(float value) {
  const unsigned bits = __float_as_uint(value == 0 ? 0.0F : value);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

__device__ inline float from_ordered_bits(unsigned bits) {
  return __uint_as_float((bits & 0x80000000U) != 0 ? bits & 0x7fffffffU : ~bits);
}

// Counts the calling block in and is true in all threads of the block that comes last of `blocks`, which then sees what
// the others wrote before. That block clears the counter for the next launch.
__device__ inline bool arrives_last(unsigned* counter, unsigned blocks) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(counter, 1U) == blocks - 1;
    if (last) *counter = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace lectern::engine::cuda
