// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"

// Model files whose weights follow from the tensors' names, the same as deterministic_weights.py makes for the
// reference.
namespace lectern::engine::golden {

struct TensorSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  double norm_centre = 0;  // what the gains of a norm lie around; the norms of Qwen3-Next add 1 to theirs
};

// Every tensor of a checkpoint with this config.json (qwen3_next, qwen3 or qwen3_moe), under the names used on disk.
std::vector<TensorSpec> decoder_tensors(JsonValue config, bool mtp);
std::vector<TensorSpec> bert_tensors(JsonValue config);

std::vector<float> tensor_values(const TensorSpec& tensor);

enum class Storage { kFloat32, kBFloat16 };

// One safetensors file holding `tensors` in the given order. Throws std::runtime_error if it cannot be written.
void write_safetensors(const std::filesystem::path& file, const std::vector<TensorSpec>& tensors, Storage storage);

// `directory` becomes a model directory for the config.json in `golden_model`: one file, or `shards` with an index.
void write_model(const std::filesystem::path& golden_model, const std::filesystem::path& directory, int shards = 1);

}  // namespace lectern::engine::golden
