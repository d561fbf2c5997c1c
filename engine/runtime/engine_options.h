// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine {

// Errors: kInvalidArgument, naming the option that is out of range.
Result<void> check_options(const EngineOptions& options);

}  // namespace lectern::engine
