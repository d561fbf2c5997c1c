// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "cuda/cuda_devices.h"
#include "engine/engine.h"

namespace lectern::engine {

namespace {

// "model name : ..." of the first processor; other architectures than x86 do not give one.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

std::int64_t physical_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page_bytes > 0 ? std::int64_t{pages} * page_bytes : 0;
}

DeviceInfo processor() {
  DeviceInfo info;
  info.kind = DeviceKind::kCpu;
  info.name = processor_name() + " (" + std::string(cpu::usable_kernels().back()->name) + ")";
  info.memory_bytes = physical_memory();
  info.usable = true;
  return info;
}

}  // namespace

std::vector<DeviceInfo> list_devices() {
  std::vector<DeviceInfo> devices = {processor()};
  for (DeviceInfo& device : cuda_devices()) devices.push_back(std::move(device));
  return devices;
}

}  // namespace lectern::engine
