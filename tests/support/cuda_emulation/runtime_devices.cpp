// SPDX-License-Identifier: GPL-3.0-or-later
// What the device is, and what failed.
#include <algorithm>
#include <array>
#include <cstdio>

#include "support/cuda_emulation/device_state.h"

// NOLINTBEGIN(readability-identifier-naming): CUDA's own names
using namespace lectern::engine::cuda::emulation;

cudaError_t cudaGetDeviceCount(int* number) {
  *number = 0;
  return call([&](Context& c) {
    *number = c.device.count;
    return cudaSuccess;
  });
}

// Chooses a device that has failed, too, and says so.
cudaError_t cudaSetDevice(int device) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  if (const cudaError_t state = state_of_driver(c); state != cudaSuccess) return finished(state);
  if (device < 0 || device >= c.device.count) return finished(cudaErrorInvalidDevice);
  chosen_device() = device;
  return finished(c.chosen().sticky);
}

cudaError_t cudaGetDevice(int* device) {
  return call([&](Context&) {
    *device = chosen_device();
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call([&](Context& c) {
    if (device < 0 || device >= c.device.count) return cudaErrorInvalidDevice;
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "Emulated GPU");
    properties->totalGlobalMem = c.devices[static_cast<std::size_t>(device)].memory.total();
    properties->sharedMemPerBlock = kSharedByDefault;
    properties->sharedMemPerBlockOptin = kSharedAtMost;
    properties->sharedMemPerMultiprocessor = kSharedAtMost + 1024;
    properties->totalConstMem = 64 << 10;
    properties->major = c.device.major;
    properties->minor = c.device.minor;
    properties->multiProcessorCount = c.device.multiprocessors;
    properties->l2CacheSize = 50 << 20;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = 2048;
    std::copy_n(std::to_array({0x7fffffff, 65535, 65535}).begin(), 3, properties->maxGridSize);
    std::copy_n(std::to_array({1024, 1024, 64}).begin(), 3, properties->maxThreadsDim);
    properties->regsPerBlock = 65536;
    properties->regsPerMultiprocessor = 65536;
    properties->memoryBusWidth = 6144;
    properties->concurrentKernels = 1;
    properties->asyncEngineCount = 3;
    properties->canMapHostMemory = 1;
    properties->unifiedAddressing = 1;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrClockRate:
      *value = 1'000'000;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrHostRegisterReadOnlySupported:
      *value = context().device.locks_mappings ? 1 : 0;
      break;
    default:
      return finished(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  *version = c.device.driver_version;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  return call([](Context& c) {
    for (const auto& capture : c.captures) {
      capture->invalid = true;
      return cudaErrorStreamCaptureUnsupported;
    }
    return synchronise(c, c.chosen());
  });
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  return call([&](Context& c) {
    if (std::min(device, peer) < 0 || std::max(device, peer) >= c.device.count) return cudaErrorInvalidDevice;
    *can = c.device.peers && device != peer ? 1 : 0;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned /*flags*/) {
  return call([&](Context& c) {
    if (peer < 0 || peer >= c.device.count || peer == chosen_device() || !c.device.peers) return cudaErrorInvalidDevice;
    return c.chosen().peers.insert(peer).second ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled;
  });
}

// --- errors ---------------------------------------------------------------------------------------------------------

cudaError_t cudaPeekAtLastError() {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  return c.chosen().sticky != cudaSuccess ? c.chosen().sticky : last_error();
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error() = cudaSuccess;
  return error;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define LECTERN_NAME(name) \
  case name:               \
    return #name;
    LECTERN_NAME(cudaSuccess)
    LECTERN_NAME(cudaErrorInvalidValue)
    LECTERN_NAME(cudaErrorMemoryAllocation)
    LECTERN_NAME(cudaErrorInitializationError)
    LECTERN_NAME(cudaErrorCudartUnloading)
    LECTERN_NAME(cudaErrorInvalidConfiguration)
    LECTERN_NAME(cudaErrorInvalidDevicePointer)
    LECTERN_NAME(cudaErrorInvalidMemcpyDirection)
    LECTERN_NAME(cudaErrorInsufficientDriver)
    LECTERN_NAME(cudaErrorInvalidDeviceFunction)
    LECTERN_NAME(cudaErrorNoDevice)
    LECTERN_NAME(cudaErrorInvalidDevice)
    LECTERN_NAME(cudaErrorNoKernelImageForDevice)
    LECTERN_NAME(cudaErrorECCUncorrectable)
    LECTERN_NAME(cudaErrorInvalidResourceHandle)
    LECTERN_NAME(cudaErrorNotReady)
    LECTERN_NAME(cudaErrorIllegalAddress)
    LECTERN_NAME(cudaErrorLaunchOutOfResources)
    LECTERN_NAME(cudaErrorLaunchTimeout)
    LECTERN_NAME(cudaErrorPeerAccessAlreadyEnabled)
    LECTERN_NAME(cudaErrorHostMemoryAlreadyRegistered)
    LECTERN_NAME(cudaErrorHostMemoryNotRegistered)
    LECTERN_NAME(cudaErrorLaunchFailure)
    LECTERN_NAME(cudaErrorNotPermitted)
    LECTERN_NAME(cudaErrorNotSupported)
    LECTERN_NAME(cudaErrorSystemDriverMismatch)
    LECTERN_NAME(cudaErrorStreamCaptureUnsupported)
    LECTERN_NAME(cudaErrorStreamCaptureInvalidated)
    LECTERN_NAME(cudaErrorStreamCaptureUnmatched)
    LECTERN_NAME(cudaErrorStreamCaptureImplicit)
    LECTERN_NAME(cudaErrorUnknown)
#undef LECTERN_NAME
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return call([&](Context& c) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || static_cast<std::size_t>(value) > kSharedAtMost) return cudaErrorInvalidValue;
    c.chosen().shared_allowed[kernel] = value;
    return cudaSuccess;
  });
}
// NOLINTEND(readability-identifier-naming)
