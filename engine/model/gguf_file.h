// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include "core/mapped_file.h"
#include "engine/result.h"
#include "model/gguf_parser.h"

namespace lectern::engine {

// A GGUF model, mapped: one file, or all parts of a set NAME-00001-of-0000N.gguf. Metadata and tensors point into the
// mapping and live as long as this object. Move-only.
class GgufFile {
 public:
  // `path` is the file, or the first part of a set. Errors: kInvalidArgument (a later part), kNotFound, kIo, kCorrupt,
  // kUnsupported.
  static Result<GgufFile> open(const std::filesystem::path& path);

  const GgufMetadata& metadata() const { return content_.metadata; }
  const GgufTensors& tensors() const { return content_.tensors; }
  const GgufContent& content() const { return content_; }

  std::span<MappedFile> files() { return files_; }

 private:
  GgufFile(MappedFile file, GgufContent content) : content_(std::move(content)) { files_.push_back(std::move(file)); }
  Result<void> add_parts(const std::filesystem::path& first);

  std::vector<MappedFile> files_;
  GgufContent content_;
};

}  // namespace lectern::engine
