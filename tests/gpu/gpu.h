// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/result.h"
#include "ops/backend.h"

struct CUstream_st;

namespace lectern::engine::cuda {
class CudaBackend;
}

namespace lectern::engine::bench {

struct GpuFacts {
  std::string name;
  std::string compute_capability;
  int multiprocessors = 0;
  std::int64_t cache_bytes = 0;
  std::int64_t memory_bytes = 0;
  int driver_cuda = 0;  // 13000: CUDA 13.0
  int runtime_cuda = 0;
};
// Errors: kDevice.
Result<GpuFacts> gpu_facts(int device);

// The CUDA backend, for code that is compiled without CUDA's headers.
class Gpu {
 public:
  static Result<std::unique_ptr<Gpu>> open(int device, const DeviceMemory& memory);
  ~Gpu();
  cuda::CudaBackend& backend() { return *backend_; }
  Backend& plain_backend();  // the same
  CUstream_st* stream() const;

 private:
  explicit Gpu(std::unique_ptr<cuda::CudaBackend> backend);
  std::unique_ptr<cuda::CudaBackend> backend_;
};

}  // namespace lectern::engine::bench
