// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include <string>

#include "cuda/cuda_devices.h"

namespace lectern::engine {
namespace {

DeviceInfo unusable(std::string reason) {
  DeviceInfo device;
  device.kind = DeviceKind::kCuda;
  device.name = "NVIDIA GPU";
  device.reason = std::move(reason);
  return device;
}

std::string why_no_devices(cudaError_t failure) {
  switch (failure) {
    case cudaErrorNoDevice:
      return "No NVIDIA GPU was found.";
    case cudaErrorInsufficientDriver: {
      int driver = 0;
      const bool known = cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
      if (!known) return "No NVIDIA driver is installed.";
      return "The NVIDIA driver supports CUDA " + std::to_string(driver / 1000) +
             " only; install a newer driver for this build's CUDA " + std::to_string(CUDART_VERSION / 1000) + ".";
    }
    default:
      return std::string("The NVIDIA driver does not answer: ") + cudaGetErrorString(failure) + ".";
  }
}

}  // namespace

std::vector<DeviceInfo> cuda_devices() {
  int count = 0;
  const cudaError_t failure = cudaGetDeviceCount(&count);
  if (failure != cudaSuccess) return {unusable(why_no_devices(failure))};
  std::vector<DeviceInfo> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties = {};
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
      devices.push_back(unusable("GPU " + std::to_string(index) + " does not tell its properties."));
      continue;
    }
    DeviceInfo device = unusable("This version computes on the CPU; the GPU is only listed.");
    device.name = properties.name;
    device.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
    devices.push_back(device);
  }
  return devices;
}

}  // namespace lectern::engine
