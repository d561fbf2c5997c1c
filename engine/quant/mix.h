// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/tensor.h"

namespace lectern::engine {

// A recipe that gives every tensor of a GGUF file its type.
struct Mix {
  std::string_view name;
  std::string_view what;
  std::int64_t file_type = 0;  // general.file_type
  DType main = DType::kF32;
};

std::span<const Mix> all_mixes();
// Nothing for an unknown name; capitals do not matter.
const Mix* find_mix(std::string_view name);

// What the recipes look at.
struct MixSubject {
  std::string_view name;                // of the tensor in the file
  std::span<const std::int64_t> shape;  // outermost first
  std::int64_t block = -1;              // N of blk.N.
  std::int64_t blocks = 0;              // of the model
  std::int64_t heads_per_kv_head = 1;
  bool tied_embeddings = false;  // the embedding is the output matrix too
};

// The type that llama.cpp's quantiser gives it without an importance matrix.
DType type_in_mix(const Mix& mix, const MixSubject& tensor);

// The same, or where rows of `cols` numbers are not whole blocks of it, the nearest type whose blocks they are.
DType type_for_rows(DType wanted, std::int64_t cols);

}  // namespace lectern::engine
