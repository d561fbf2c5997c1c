// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one place where the CUDA toolkit and its emulation in tests meet: kernels and their hosts include this and
// nothing else of either. In tests, LECTERN_EMULATED_CUDA compiles the same files as ordinary C++ against
// tests/support/cuda_emulation, which runs every thread of a grid as a fiber on the host.
#if defined(LECTERN_EMULATED_CUDA)
#include "support/cuda_emulation/cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

#include <cstddef>
#include <cstdint>

namespace lectern::engine::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

// The block's memory whose size the launch gives, aligned to 128 bytes.
template <class T>
__device__ inline T* dynamic_shared() {
#if defined(LECTERN_EMULATED_CUDA)
  return reinterpret_cast<T*>(emulation::dynamic_shared_memory());
#else
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
#endif
}

struct Grid {
  dim3 blocks = 1;
  dim3 threads = 1;
  std::size_t shared_bytes = 0;  // what dynamic_shared() points to
};

// Queues a kernel. More than 48 KiB of dynamic shared memory must have been allowed before, once per kernel, with
// cudaFuncSetAttribute().
template <class... Parameters, class... Arguments>
cudaError_t launch(cudaStream_t stream, const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
#if defined(LECTERN_EMULATED_CUDA)
  return emulation::launch(stream, grid.blocks, grid.threads, grid.shared_bytes, kernel, Parameters(arguments)...);
#else
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
#endif
}

}  // namespace lectern::engine::cuda
