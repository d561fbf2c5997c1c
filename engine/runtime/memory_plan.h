// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "model/model_files.h"
#include "ops/backend.h"
#include "ops/placement.h"

namespace lectern::engine {

struct PlannedContext {
  std::int64_t context_tokens = 0;
  MemoryPlan memory;
};

// Tokens of a prefill chunk with which experts get enough rows each, as far as the activations stay small. Errors:
// kDevice.
Result<std::int64_t> suitable_chunk(const ModelFiles& files, const EngineOptions& options);

// Memory of weights, one sequence and activations, before anything is taken: of the computer, or of the GPUs that the
// options choose. Where they choose none, of the first that is usable, or of as many as the model needs. A context of 0
// becomes the longest that fits. Where a GPU has no room for all experts and the options leave it to us, some stay in
// the computer's memory; a context of 0 is then a common one at most. Errors: kOutOfMemory, with what is needed, what
// there is, and the change that would fit; kDevice.
Result<PlannedContext> plan_memory(const ModelFiles& files, const EngineOptions& options);

// What computes a model, and how many of its layers each device has.
struct Devices {
  std::vector<std::unique_ptr<Backend>> backends;
  std::vector<std::int64_t> layers;

  Placement placement() const;
  std::int64_t locked_bytes() const;  // of all backends, see Backend::locked_bytes()
};

// The devices that the plan names, with the memory planned for each. Errors: kDevice, kOutOfMemory.
Result<Devices> make_devices(const EngineOptions& options, const MemoryPlan& plan);

// Whether the weights are to be copied into memory, as the options say or, left to us, where there is ample room.
bool copies_weights(const EngineOptions& options, const MemoryPlan& plan);

// Memory that programs can still take without swapping (MemAvailable, and the limit of a control group).
std::int64_t available_memory();

}  // namespace lectern::engine
