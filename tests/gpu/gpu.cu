// SPDX-License-Identifier: GPL-3.0-or-later
#include "gpu.h"

#include <utility>

#include "cuda/cuda_backend.h"
#include "cuda/usable_device.h"

namespace lectern::engine::bench {

Result<GpuFacts> gpu_facts(int device) {
  ENGINE_TRY(const cudaDeviceProp properties, cuda::usable_device(device));
  GpuFacts facts;
  facts.name = properties.name;
  facts.compute_capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
  facts.multiprocessors = properties.multiProcessorCount;
  facts.cache_bytes = properties.l2CacheSize;
  facts.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  cudaDriverGetVersion(&facts.driver_cuda);
  cudaRuntimeGetVersion(&facts.runtime_cuda);
  return Result<GpuFacts>(std::move(facts));
}

Result<std::unique_ptr<Gpu>> Gpu::open(int device, const DeviceMemory& memory) {
  ENGINE_TRY(std::unique_ptr<cuda::CudaBackend> backend, cuda::CudaBackend::create(device, memory));
  return std::unique_ptr<Gpu>(new Gpu(std::move(backend)));
}

Gpu::Gpu(std::unique_ptr<cuda::CudaBackend> backend) : backend_(std::move(backend)) {}
Gpu::~Gpu() = default;

Backend& Gpu::plain_backend() { return *backend_; }

CUstream_st* Gpu::stream() const { return backend_->stream(); }

}  // namespace lectern::engine::bench
