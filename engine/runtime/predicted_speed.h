// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/measure.h"
#include "engine/result.h"
#include "engine/types.h"
#include "model/model_files.h"

// How fast a model is likely to be, before it is loaded. The model of the machine is small enough to be worked out by
// hand:
//
//   decoding, n sequences together:  (others + experts + overhead) / n  seconds for a token
//     others   weights but routed experts, n states both ways, n times the keys and values: the greater of bytes /
//     memory
//              and operations / rate in products of few rows
//     experts  those that n tokens choose, 1 - (1 - k/E)^n of all: the greater of what the device needs for those it
//              has, and what the CPU needs for the others meanwhile
//   reading, T tokens at a time:     (others + max(expert products, transfers - hidden)) / T
//     others, expert products  the greater of operations / rate and bytes / memory
//     transfers   bytes of the experts touched, 1 - (1 - k/E)^T of those that are not on the device
//     hidden      what the staging area takes while the others are computed, of locked memory
//
// Experts are taken to be chosen evenly, so that a share s of them on the device serves s of the choices; those that
// are there were chosen most, so that there will be more hits.
namespace lectern::engine {

// What tokens need, by place.
struct SpeedWork {
  double sequences = 1;          // decoded together
  double other_bytes = 0;        // of one decode pass, routed experts aside
  double expert_bytes = 0;       // of all routed experts
  double chosen_share = 0;       // of them, for one token
  double on_device_share = 1;    // of them, at a time
  double chunk_tokens = 1;       // read at a time
  double small_operations = 0;   // for one token that is written, routed experts aside
  double other_operations = 0;   // for one token that is read
  double expert_operations = 0;  // the same
  double staging_bytes = 0;      // for experts on their way to the device
  double blocks = 0;             // with experts, each of which fills the staging area again
  bool locked = false;           // experts come out of page-locked memory
  double overhead_seconds = 0;   // of a decode pass, whatever it moves
};

// `depth_tokens`: already in the context. `plan`: of `options`.
SpeedWork speed_work(const ModelFiles& files, const EngineOptions& options, const MemoryPlan& plan,
                     std::int64_t depth_tokens, int sequences = 1);

// Seconds of a decode pass, and of reading a chunk. 0: a rate that is needed is not known.
double decode_seconds(const SpeedWork& work, const ExpectedRates& rates);
double chunk_seconds(const SpeedWork& work, const ExpectedRates& rates);

// A CPU's share of what it reaches when it does nothing else.
ExpectedRates cpu_rates(const MachineRates& machine);

// Takes a tenth of a second or two, and some memory. Errors: as cuda_rates().
Result<ExpectedRates> measure_rates(const EngineOptions& options);

// `options`: with the chunk and context in use. Errors: none of its own; what cannot be predicted is 0.
SpeedPrediction predict_speed(const ModelFiles& files, const EngineOptions& options, const MemoryPlan& plan,
                              const ExpectedRates& rates, std::int64_t depth_tokens, int sequences = 1);

}  // namespace lectern::engine
