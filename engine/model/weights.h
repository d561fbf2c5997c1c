// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/engine.h"
#include "engine/result.h"
#include "model/config.h"
#include "model/model_files.h"
#include "ops/backend.h"
#include "ops/placement.h"

namespace lectern::engine {

// Shapes: d hidden size, Hk/Hv key and value heads of width dk/dv, Hq/Hkv query and KV heads of width dh.
// Norm gains are stored ready to multiply: zero-centred ones have their 1 added.
struct DeltaNetWeights {
  WeightHandle qkv;                 // [2 Hk dk + Hv dv, d], rows q | k | v
  WeightHandle z;                   // [Hv dv, d]
  WeightHandle ba;                  // [2 Hv, d], rows b | a
  WeightHandle out;                 // [d, Hv dv]
  std::unique_ptr<Buffer> conv;     // [2 Hk dk + Hv dv, taps]
  std::unique_ptr<Buffer> rate;     // [Hv], -exp(A_log)
  std::unique_ptr<Buffer> dt_bias;  // [Hv]
  std::unique_ptr<Buffer> norm;     // [dv]
};

struct AttentionWeights {
  WeightHandle query;              // [Hq dh, d]
  WeightHandle gate;               // [Hq dh, d]; empty without an output gate
  WeightHandle key;                // [Hkv dh, d]
  WeightHandle value;              // [Hkv dh, d]
  WeightHandle out;                // [d, Hq dh]
  std::unique_ptr<Buffer> q_norm;  // [dh]
  std::unique_ptr<Buffer> k_norm;  // [dh]
};

// y = down(silu(gate x) up x)
struct DenseWeights {
  WeightHandle gate;  // [m, d]
  WeightHandle up;    // [m, d]
  WeightHandle down;  // [d, m]
};

struct LayerWeights {
  std::unique_ptr<Buffer> input_norm;  // [d]
  std::unique_ptr<Buffer> post_norm;   // [d]
  std::optional<DeltaNetWeights> delta;
  std::optional<AttentionWeights> attention;
  std::optional<ExpertWeights> experts;
  std::optional<DenseWeights> dense;
};

// The multi-token-prediction module; embedding and head are the trunk's.
struct MtpWeights {
  WeightHandle fc;                         // [d, 2 d], embedding half first
  std::unique_ptr<Buffer> embedding_norm;  // [d]
  std::unique_ptr<Buffer> hidden_norm;     // [d]
  LayerWeights layer;                      // attention
  std::unique_ptr<Buffer> norm;            // [d]
};

struct ModelWeights {
  ModelFiles files;                            // keeps mapped weights alive
  std::vector<std::vector<std::byte>> copies;  // rows put into the order above
  std::vector<std::vector<float>> scales;      // of F8 matrices

  WeightHandle embedding;       // [vocabulary, d]
  WeightHandle last_embedding;  // the same for the last of several devices, where its layers or the head need it
  WeightHandle head;            // [vocabulary, d]; empty when tied to the embedding
  std::unique_ptr<Buffer> norm;
  std::vector<LayerWeights> layers;
  std::optional<MtpWeights> mtp;  // when the files hold mtp.* tensors

  std::int64_t parameters = 0;
  std::int64_t bytes = 0;

  // Where the last layers are.
  const Weight& head_matrix() const { return head ? *head : embedding_of_drafts(); }
  const Weight& embedding_of_drafts() const { return last_embedding ? *last_embedding : *embedding; }
};

// Binds every tensor by name; shapes and types are checked, and a tensor that no part of the model reads is an error,
// because a dropped tensor shows only as bad answers. Errors: kCorrupt, kUnsupported, kOutOfMemory, kCancelled.
Result<ModelWeights> load_weights(ModelFiles files, const Placement& placement, const LoadObserver& observer = {});

}  // namespace lectern::engine
