// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "engine/result.h"
#include "model/config.h"
#include "model/tensor_file.h"
#include "ops/backend.h"

namespace lectern::engine {

// Shapes: d hidden size, Hk/Hv key and value heads of width dk/dv, Hq/Hkv query and KV heads of width dh.
// Norm gains are stored ready to multiply: zero-centred ones have their 1 added.
struct DeltaNetWeights {
  WeightHandle qkv;                 // [2 Hk dk + Hv dv, d], rows q | k | v
  WeightHandle z;                   // [Hv dv, d]
  WeightHandle ba;                  // [2 Hv, d], rows b | a
  WeightHandle out;                 // [d, Hv dv]
  std::unique_ptr<Buffer> conv;     // [2 Hk dk + Hv dv, taps]
  std::unique_ptr<Buffer> a_log;    // [Hv]
  std::unique_ptr<Buffer> dt_bias;  // [Hv]
  std::unique_ptr<Buffer> norm;     // [dv]
};

struct AttentionWeights {
  WeightHandle query;              // [Hq dh, d]
  WeightHandle gate;               // [Hq dh, d]
  WeightHandle key;                // [Hkv dh, d]
  WeightHandle value;              // [Hkv dh, d]
  WeightHandle out;                // [d, Hq dh]
  std::unique_ptr<Buffer> q_norm;  // [dh]
  std::unique_ptr<Buffer> k_norm;  // [dh]
};

struct LayerWeights {
  std::unique_ptr<Buffer> input_norm;  // [d]
  std::unique_ptr<Buffer> post_norm;   // [d]
  std::optional<DeltaNetWeights> delta;
  std::optional<AttentionWeights> attention;
  ExpertWeights experts;
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
  TensorFiles files;                           // keeps mapped weights alive
  std::vector<std::vector<std::byte>> copies;  // rows put into the order above

  WeightHandle embedding;  // [vocabulary, d]
  WeightHandle head;       // [vocabulary, d]; empty when tied to the embedding
  std::unique_ptr<Buffer> norm;
  std::vector<LayerWeights> layers;
  std::optional<MtpWeights> mtp;  // when the files hold mtp.* tensors

  std::int64_t parameters = 0;
  std::int64_t bytes = 0;

  const Weight& head_matrix() const { return head ? *head : *embedding; }
};

// Binds every tensor by name; shapes and types are checked, and a tensor that no part of the model reads is an error,
// because a dropped tensor shows only as bad answers. Errors: kNotFound, kCorrupt, kUnsupported, kOutOfMemory.
Result<ModelWeights> load_weights(const std::filesystem::path& directory, const ModelConfig& config, Backend& backend);

}  // namespace lectern::engine
