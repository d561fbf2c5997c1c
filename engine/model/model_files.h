// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "engine/result.h"
#include "model/config.h"
#include "model/gguf_file.h"
#include "model/tensor_file.h"

namespace lectern::engine {

// A decoder's files, whatever their format: configuration, and tensors under the names of the Hugging Face checkpoints.
// Tensors point into mapped files and live as long as this object.
class ModelFiles {
 public:
  // A Hugging Face directory, or a GGUF file (of a split one, the first part).
  // Errors: kNotFound, kIo, kCorrupt, kUnsupported.
  static Result<ModelFiles> open(const std::filesystem::path& path);

  const ModelConfig& config() const { return config_; }
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }

  // Nothing for a directory.
  const GgufFile* gguf() const { return gguf_ ? &*gguf_ : nullptr; }

  // MappedFile::move_to_memory() for all files.
  Result<void> move_to_memory(int threads, const std::stop_token& stop);

  // Differs between models, fine-tunings and quantisations: a hash of the tensors' names, types, shapes and some of
  // their bytes, in hexadecimal.
  std::string fingerprint() const;

  // What has to be added to the stored gain of a zero-centred norm: GGUF files hold the sum already.
  float norm_offset() const { return gguf_ || config_.architecture != "qwen3_next" ? 0.0F : 1.0F; }

 private:
  static Result<ModelFiles> open_gguf(const std::filesystem::path& path);

  ModelConfig config_;
  std::optional<TensorFiles> safetensors_;
  std::optional<GgufFile> gguf_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

// The Hugging Face name of a GGUF tensor; the MTP block follows the `layers` of the trunk. What has no such name (a
// projection that GGUF stores in another division) gets one in the same style: linear_attn.in_proj_qkv, in_proj_z,
// decay_rate (= -exp(A_log)), mlp.experts.gate_proj and up_proj (all experts together).
std::optional<std::string> hugging_face_name(std::string_view gguf_name, std::int64_t layers);

}  // namespace lectern::engine
