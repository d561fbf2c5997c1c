// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>

#include "engine/result.h"

namespace lectern::engine::bench {

// What the device can do at most, measured with kernels that do nothing else. All rates per second.
struct DeviceRates {
  double copy_bytes = 0;             // read and written, both counted
  double read_bytes = 0;             // far beyond the caches
  double bf16_operations = 0;        // mma.sync on random numbers in registers
  double host_to_device_bytes = 0;   // from page-locked memory
  double graph_node_seconds = 0;     // an empty kernel among many in one graph
  double queued_launch_seconds = 0;  // an empty kernel among many queued one by one
};

// `bytes`: of the memory that is read. Errors: kDevice, kOutOfMemory.
Result<DeviceRates> measure_device_rates(std::int64_t bytes);

}  // namespace lectern::engine::bench
