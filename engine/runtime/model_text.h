// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engine/result.h"
#include "engine/tokenizer.h"
#include "model/model_files.h"

namespace lectern::engine {

// The tokenizer of a model's directory or GGUF file.
Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& path, const ModelFiles& files);

// The name that people know a model by: of its directory, or of its file without the ending.
std::string model_name(const std::filesystem::path& path);

}  // namespace lectern::engine
