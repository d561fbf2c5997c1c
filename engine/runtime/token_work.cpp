// SPDX-License-Identifier: Apache-2.0
#include "runtime/token_work.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace lectern::engine {

TokenWork::TokenWork(const ModelFiles& files) {
  const ModelConfig& c = files.config();
  if (c.experts > 0) expert_share_ = static_cast<double>(c.experts_per_token) / static_cast<double>(c.experts);
  for (const auto& [name, tensor] : files.tensors()) {
    double numbers = 1;
    for (const std::int64_t length : tensor.shape) numbers *= static_cast<double>(length);
    const auto bytes = static_cast<double>(tensor.bytes.size());
    const bool is_scale = name.ends_with("_scale_inv");
    const bool is_head = name == "lm_head.weight" || (c.tied_embeddings && name == "model.embed_tokens.weight");
    if (name.starts_with("mtp.") || name.starts_with("model.mtp.")) {
      mtp_bytes_ += bytes;
    } else if (is_head) {
      head_bytes_ += bytes;
      head_numbers_ += numbers;
    } else if (name.find(".mlp.experts.") != std::string_view::npos) {
      expert_bytes_ += bytes;
      chosen_expert_numbers_ += is_scale ? 0 : numbers * expert_share_;
    } else if (name != "model.embed_tokens.weight") {  // one row of which is read
      dense_bytes_ += bytes;
      dense_numbers_ += is_scale ? 0 : numbers;
    }
  }
  const auto state = static_cast<double>(c.delta.value_heads * c.delta.key_dim * c.delta.value_dim);
  for (const LayerKind kind : c.layers) {
    if (kind == LayerKind::kAttention) {
      kv_numbers_ += 2 * static_cast<double>(c.kv_width());
      attention_operations_ += 4 * static_cast<double>(c.query_width());  // q . k and p v
    } else {
      state_bytes_ += 2 * sizeof(float) * state;  // read and written
      delta_operations_ += 7 * state;             // decay, S^T k, rank-one update, S^T q
    }
  }
}

double TokenWork::decode_bytes(double depth, KvType kv, std::int64_t sequences) const {
  const auto count = static_cast<double>(sequences);
  const double touched = 1 - std::pow(1 - expert_share_, count);
  return dense_bytes_ + head_bytes_ + expert_bytes_ * touched +
         count * (state_bytes_ + kv_numbers_ * kv_number_bytes(kv) * depth);
}

double TokenWork::prefill_operations(double depth, double tokens) const {
  const double per_token =
      2 * (dense_numbers_ + chosen_expert_numbers_) + delta_operations_ + attention_operations_ * (depth + tokens / 2);
  return per_token * tokens + 2 * head_numbers_;
}

}  // namespace lectern::engine
