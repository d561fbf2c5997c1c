// SPDX-License-Identifier: Apache-2.0
#include "cuda/cuda_devices.h"
#include "cuda/cuda_plan.h"
#include "cuda/cuda_rates.h"

#include "ops/backend.h"

namespace lectern::engine {
namespace {

constexpr const char* kNotBuilt = "This build has no CUDA part; install the CUDA toolkit and build again.";

}  // namespace

std::vector<DeviceInfo> cuda_devices() {
  DeviceInfo device;
  device.kind = DeviceKind::kCuda;
  device.name = "NVIDIA GPU";
  device.reason = kNotBuilt;
  return {device};
}

Result<std::int64_t> cuda_free_memory(int /*device*/) { return Error{ErrorCode::kDevice, kNotBuilt}; }

Result<ExpectedRates> cuda_rates(int /*device*/) { return Error{ErrorCode::kDevice, kNotBuilt}; }

// Nobody plans for a GPU that cannot be used.
std::int64_t cuda_weight_bytes(const HostMatrix& /*matrix*/) { return 0; }
std::int64_t cuda_cache_bytes(const AttentionShape& /*shape*/, KvType /*type*/, std::int64_t /*tokens*/) { return 0; }
std::int64_t cuda_expert_table_bytes(std::int64_t /*experts*/) { return 0; }
std::int64_t cuda_expert_staging_bytes(std::int64_t /*experts*/, std::int64_t /*largest*/) { return 0; }
std::int64_t cuda_working_bytes(const CudaWork& /*work*/) { return 0; }

Result<std::unique_ptr<Backend>> make_cuda_backend(int /*device*/, const DeviceMemory& /*memory*/,
                                                   const ExpertBudget& /*experts*/) {
  return Error{ErrorCode::kDevice, kNotBuilt};
}

}  // namespace lectern::engine
