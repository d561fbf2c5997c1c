// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "engine/result.h"
#include "engine/types.h"
#include "model/model_files.h"

namespace lectern::engine {

struct PlannedContext {
  std::int64_t context_tokens = 0;
  MemoryPlan memory;
};

// Tokens of a prefill chunk with which experts get enough rows each, as far as the activations stay small.
std::int64_t suitable_chunk(const ModelConfig& config);

// Memory of weights, one sequence and activations, before anything is taken. A context of 0 becomes the longest that
// fits. Errors: kOutOfMemory, with what is needed, what there is, and the change that would fit.
Result<PlannedContext> plan_memory(const ModelFiles& files, const EngineOptions& options);

// Whether the weights are to be copied into memory, as the options say or, left to us, where there is ample room.
bool copies_weights(const EngineOptions& options, const MemoryPlan& plan);

// Memory that programs can still take without swapping (MemAvailable, and the limit of a control group).
std::int64_t available_memory();

}  // namespace lectern::engine
