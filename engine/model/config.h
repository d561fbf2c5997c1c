// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/result.h"
#include "ops/backend.h"

namespace lectern::engine {

enum class LayerKind : std::uint8_t { kDeltaNet, kAttention };

struct YarnScaling {
  double factor = 1.0;  // 1: off
  std::int64_t original_context = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double attention_factor = 0;  // 0: 0.1 ln(factor) + 1
};

// A decoder of the Qwen3 family as its files describe it, every number checked. Qwen3-Next mixes DeltaNet and gated
// attention layers; its relatives Qwen3 and Qwen3-MoE are the same graph with attention layers alone, no output gate,
// and a dense or sparse feed-forward block.
struct ModelConfig {
  std::string architecture;  // "qwen3_next", "qwen3" or "qwen3_moe"
  std::int64_t hidden_size = 0;
  std::int64_t vocabulary = 0;
  std::int64_t context_tokens = 0;
  std::vector<LayerKind> layers;
  float norm_epsilon = 1e-6F;

  AttentionShape attention;
  bool output_gate = true;  // attention's output passes a sigmoid gate
  std::int64_t rotary_dims = 0;
  double rope_theta = 1e7;
  YarnScaling yarn;

  DeltaShape delta;
  std::int64_t conv_taps = 4;

  std::int64_t dense_width = 0;  // of the feed-forward block; 0: experts
  std::int64_t experts = 0;
  std::int64_t experts_per_token = 0;
  std::int64_t expert_width = 0;
  std::int64_t shared_expert_width = 0;  // 0: no shared expert
  bool normalise_top_k = true;
  bool tied_embeddings = false;

  bool has_delta_layers() const {
    return std::find(layers.begin(), layers.end(), LayerKind::kDeltaNet) != layers.end();
  }
  std::int64_t query_width() const { return attention.query_heads * attention.head_dim; }
  std::int64_t kv_width() const { return attention.kv_heads * attention.head_dim; }
  std::int64_t key_width() const { return delta.key_heads * delta.key_dim; }
  std::int64_t value_width() const { return delta.value_heads * delta.value_dim; }
  std::int64_t conv_channels() const { return 2 * key_width() + value_width(); }
};

// Errors: kNotFound, kCorrupt (missing or impossible values), kUnsupported (another architecture, or a variant of
// this one that is not computed here).
Result<ModelConfig> read_config(const std::filesystem::path& directory);

// Frequencies after YaRN (Peng et al. 2023, "YaRN"): pairs turning fast keep theirs, slow ones are divided by the
// factor, with a linear ramp between.
RotaryTable make_rotary_table(const ModelConfig& config, const YarnScaling& yarn);

}  // namespace lectern::engine
