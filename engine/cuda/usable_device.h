// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/platform.h"
#include "engine/result.h"

namespace lectern::engine::cuda {

// Chooses a device for this thread's calls. Errors: kDevice with cause and remedy: none, an old driver, an old GPU.
Result<cudaDeviceProp> usable_device(int index);

}  // namespace lectern::engine::cuda
