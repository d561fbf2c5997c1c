// SPDX-License-Identifier: Apache-2.0
#include "cuda/cuda_devices.h"

#include <string>

#include "cuda/platform.h"
#include "cuda/usable_device.h"

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
      return "No NVIDIA GPU was found; choose the CPU.";
    case cudaErrorInsufficientDriver: {
      int driver = 0;
      const bool known = cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
      if (!known) return "No NVIDIA driver is installed; install the one for your GPU or choose the CPU.";
      return "The NVIDIA driver supports CUDA " + std::to_string(driver / 1000) +
             " only; install a newer driver for this build's CUDA " + std::to_string(CUDART_VERSION / 1000) + ".";
    }
    default:
      return std::string("The NVIDIA driver does not answer: ") + cudaGetErrorString(failure) + ".";
  }
}

// sm_80, the oldest with BF16 matrix units and asynchronous copies, is what the kernels are compiled for.
constexpr int kOldestMajor = 8;

std::string why_not_usable(const cudaDeviceProp& properties) {
  if (properties.major >= kOldestMajor) return {};
  return "The GPU " + std::string(properties.name) + " has compute capability " + std::to_string(properties.major) +
         "." + std::to_string(properties.minor) + ", but 8.0 or newer is needed (RTX 30 series, A100 and later).";
}

}  // namespace

std::vector<DeviceInfo> cuda_devices() {
  int count = 0;
  const cudaError_t failure = cudaGetDeviceCount(&count);
  if (failure != cudaSuccess) return {unusable(why_no_devices(failure))};
  if (count == 0) return {unusable(why_no_devices(cudaErrorNoDevice))};
  std::vector<DeviceInfo> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties = {};
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
      devices.push_back(unusable("GPU " + std::to_string(index) + " does not tell its properties."));
      continue;
    }
    DeviceInfo device = unusable(why_not_usable(properties));
    device.name = properties.name;
    device.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
    device.usable = device.reason.empty();
    devices.push_back(device);
  }
  return devices;
}

namespace cuda {

Result<cudaDeviceProp> usable_device(int index) {
  int count = 0;
  const cudaError_t failure = cudaGetDeviceCount(&count);
  if (failure != cudaSuccess || count == 0) {
    return Error{ErrorCode::kDevice, why_no_devices(failure == cudaSuccess ? cudaErrorNoDevice : failure)};
  }
  if (index < 0 || index >= count) {
    return Error{ErrorCode::kDevice, "There is no GPU " + std::to_string(index) + "; this machine has " +
                                         std::to_string(count) + ", counted from 0."};
  }
  cudaDeviceProp properties = {};
  cudaError_t code = cudaSetDevice(index);
  if (code == cudaSuccess) code = cudaGetDeviceProperties(&properties, index);
  if (code != cudaSuccess) {
    return Error{ErrorCode::kDevice, "GPU " + std::to_string(index) + " does not answer (" + cudaGetErrorString(code) +
                                         "); restart the computer or update the driver."};
  }
  if (std::string reason = why_not_usable(properties); !reason.empty()) return Error{ErrorCode::kDevice, reason};
  return properties;
}

}  // namespace cuda

}  // namespace lectern::engine
