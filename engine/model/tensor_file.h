// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"
#include "core/tensor.h"
#include "engine/result.h"

namespace lectern::engine {

struct StoredTensor {
  std::string dtype;                // as the file spells it: "BF16", "F32", "F8_E4M3", ...
  std::vector<std::int64_t> shape;  // outermost first
  std::span<const std::byte> bytes;
};

// "[512, 2048]"
std::string shape_text(std::span<const std::int64_t> shape);

// Parses a safetensors container. Sizes, offsets and shapes are checked against each other and against the file: the
// tensors must fill the data section without hole or overlap. `name` appears in messages. Errors: kCorrupt.
Result<std::map<std::string, StoredTensor, std::less<>>> parse_safetensors(std::span<const std::byte> file,
                                                                           const std::string& name);

// All tensors of a Hugging Face directory: model.safetensors, or the shards named by model.safetensors.index.json.
// The tensors point into the mapped files and live as long as this object.
class TensorFiles {
 public:
  // Errors: kNotFound, kIo, kCorrupt.
  static Result<TensorFiles> open(const std::filesystem::path& directory);

  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  std::span<MappedFile> files() { return files_; }

 private:
  std::vector<MappedFile> files_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

}  // namespace lectern::engine
