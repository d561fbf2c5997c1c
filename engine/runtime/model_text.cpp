// SPDX-License-Identifier: Apache-2.0
#include "runtime/model_text.h"

#include <string>

#include "runtime/gguf_text.h"

namespace lectern::engine {

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& path, const ModelFiles& files) {
  return files.gguf() == nullptr ? Tokenizer::load(path) : load_gguf_tokenizer(files.gguf()->metadata());
}

std::string model_name(const std::filesystem::path& path) {
  if (path.extension() == ".gguf") return path.stem().string();
  const std::filesystem::path plain = path.lexically_normal();
  return plain.has_filename() ? plain.filename().string() : plain.parent_path().filename().string();
}

}  // namespace lectern::engine
