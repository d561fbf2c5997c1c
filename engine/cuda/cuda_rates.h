// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine {

// What a GPU and the way to it reach, from short copies within it and to it and from what it says of itself; of the
// computer's own memory nothing. Takes some memory of the GPU for the time being. Errors: kDevice, kOutOfMemory.
Result<ExpectedRates> cuda_rates(int device);

}  // namespace lectern::engine
