// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "engine/types.h"

namespace lectern::engine {

// NVIDIA devices of this machine, or one entry that says why there is none to be seen.
std::vector<DeviceInfo> cuda_devices();

}  // namespace lectern::engine
