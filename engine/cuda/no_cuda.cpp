// SPDX-License-Identifier: Apache-2.0
#include "cuda/cuda_devices.h"

namespace lectern::engine {

std::vector<DeviceInfo> cuda_devices() {
  DeviceInfo device;
  device.kind = DeviceKind::kCuda;
  device.name = "NVIDIA GPU";
  device.reason = "This build has no CUDA part; install the CUDA toolkit and build again.";
  return {device};
}

}  // namespace lectern::engine
