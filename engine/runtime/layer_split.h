// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "engine/result.h"
#include "engine/types.h"
#include "model/config.h"
#include "model/model_files.h"
#include "runtime/memory_plan.h"

// Which layers of a model each of several GPUs has.
namespace lectern::engine {

inline constexpr std::int64_t kSmallestContext = 512;  // less is of no use
// Where it is left to us, rather more GPUs, or experts in the computer's memory, than less.
inline constexpr std::int64_t kUsefulContext = 32768;

// Some layers of a model, one behind the other, as if they were one.
struct ModelPart {
  ModelConfig config;        // with these layers alone; without vocabulary where the head is elsewhere
  std::int64_t weights = 0;  // bytes on a GPU
  bool has_mtp = false;
};

struct PartPlan {
  MemoryPlan memory;  // all but keys and values, kept sessions and limit
  std::int64_t kv_cache = 0;
  std::int64_t total() const { return memory.total() + kv_cache; }
};

// --- for both kinds of plan, in memory_plan.cpp ---------------------------------------------------------------------
PartPlan plan_part(const ModelPart& part, const EngineOptions& options, std::int64_t tokens);
std::int64_t gpu_weight_bytes(const StoredTensor& tensor);
// What may be used of a GPU's memory. Errors: kDevice.
Result<std::int64_t> gpu_limit(const EngineOptions& options, int gpu);
std::string gibibytes(std::int64_t bytes);

// --- in layer_split.cpp ---------------------------------------------------------------------------------------------
// Options that name no GPU name the first that is usable then.
EngineOptions with_a_gpu(EngineOptions options);

// For GPUs that the options name: whole layers in order, so that all GPUs are equally full, as far as that goes. Errors
// as plan_memory(), and kInvalidArgument: more GPUs than layers, one without room for a layer, experts that are to stay
// in the computer's memory.
Result<PlannedContext> plan_split(const ModelFiles& files, const EngineOptions& options);

// For the first usable GPU, or, where the model does not fit there with all its experts and a useful context, for as
// few of the largest as it does; where even all of them are too small, for those that give most. Errors as
// plan_memory().
Result<PlannedContext> plan_on_few_gpus(const ModelFiles& files, const EngineOptions& options);

}  // namespace lectern::engine
