// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "engine/types.h"
#include "model/model_files.h"

namespace lectern::engine {

// What one pass has to move and compute, from the shapes and types of the tensors that take part.
class TokenWork {
 public:
  explicit TokenWork(const ModelFiles& files);

  // Numbers that one token is multiplied with; of experts only those chosen for it. Without the embedding.
  double active_parameters() const { return dense_numbers_ + head_numbers_ + chosen_expert_numbers_; }
  double mtp_bytes() const { return mtp_bytes_; }
  double expert_bytes() const { return expert_bytes_; }                    // of all experts that are chosen among
  double expert_operations() const { return 2 * chosen_expert_numbers_; }  // of one token, with those chosen for it

  // Bytes read and written by one decode pass over `sequences` sequences, each `depth` tokens long: weights once
  // (experts as often as differing choices must be expected, drawn evenly), states both ways, keys and values.
  double decode_bytes(double depth, KvType kv, std::int64_t sequences) const;

  // Floating-point operations of reading `tokens` tokens after `depth` others, logits of the last one included.
  double prefill_operations(double depth, double tokens) const;

 private:
  double dense_bytes_ = 0;
  double head_bytes_ = 0;
  double expert_bytes_ = 0;  // of all experts
  double mtp_bytes_ = 0;
  double dense_numbers_ = 0;
  double head_numbers_ = 0;
  double chosen_expert_numbers_ = 0;
  double expert_share_ = 0;  // of a token, chosen of all
  double state_bytes_ = 0;
  double kv_numbers_ = 0;            // of one token in all layers
  double attention_operations_ = 0;  // for every earlier token
  double delta_operations_ = 0;
};

// Bytes of one number of the KV cache; 8-bit numbers carry a float scale for every 32.
constexpr double kv_number_bytes(KvType type) {
  return type == KvType::kF32 ? 4 : type == KvType::kBF16 ? 2 : 1 + 4.0 / 32;
}

}  // namespace lectern::engine
