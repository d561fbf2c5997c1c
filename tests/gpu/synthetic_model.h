// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/tensor.h"
#include "engine/result.h"
#include "engine/types.h"
#include "model/config.h"
#include "model/weights.h"
#include "synthetic_weights.h"

namespace lectern::engine::bench {

// Types of a model's matrices.
struct Format {
  std::string_view name;
  DType matrices;
  DType experts;
  DType embedding;
  DType head;
  DType router;
  DType gates;        // in_proj_ba
  DType shared_gate;  // the shared expert's router
};
// "fp8": as the FP8 checkpoints are published; "q4_k": 4.5 bits, the rest as in GGUF files; "bf16". Nothing: unknown.
std::optional<Format> find_format(std::string_view name);

// Qwen3-Next-80B-A3B with its first `layers` layers, long enough for a million tokens.
ModelConfig large_shape(std::int64_t layers);
// The same graph with little in it, for the emulation.
ModelConfig tiny_shape();

// What all matrices take, with the MTP module.
std::int64_t weights_bytes(const ModelConfig& config, const Format& format);

// Random weights that keep activations near 1: rows of variance 1 / columns, gains near 1, decays of 0.9 to 0.9999 per
// token. Routers have rows of unequal length, so that experts are chosen about as often as rank^-0.3. Everything
// follows from the seed of `maker`. Errors: kOutOfMemory, kDevice, kUnsupported.
Result<ModelWeights> make_weights(const ModelConfig& config, const Format& format, Backend& backend,
                                  WeightMaker& maker);

// Bytes and operations of passes, from the weights themselves.
struct Traffic {
  double dense_bytes = 0;  // read by every pass, whatever is chosen: all but experts, embedding and head
  double head_bytes = 0;
  double expert_bytes = 0;  // of one expert
  double expert_layers = 0;
  double state_bytes = 0;  // of a sequence, read and written
  double kv_numbers = 0;   // of a token in all layers
  double dense_numbers = 0;
  double head_numbers = 0;
  double chosen_numbers = 0;        // of the experts chosen for a token, in all layers
  double attention_operations = 0;  // of a token for every earlier one
  double delta_operations = 0;      // of a token
  double all_experts = 0;
  double mtp_dense_bytes = 0;

  // One pass of `sequences` sequences that hold `context` tokens each and read `rows` each; `experts` of a layer are
  // touched.
  double decode_bytes(double context, KvType kv, double sequences, double experts) const;
  double prefill_operations(double tokens) const;
};
Traffic traffic_of(const ModelConfig& config, const ModelWeights& weights);

}  // namespace lectern::engine::bench
