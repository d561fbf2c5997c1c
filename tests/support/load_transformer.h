// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <utility>

#include "model/model_files.h"
#include "model/transformer.h"

namespace lectern::engine::support {

inline Result<std::unique_ptr<Transformer>> load_transformer(const std::filesystem::path& path, Backend& backend,
                                                             std::int64_t chunk) {
  ENGINE_TRY(ModelFiles files, ModelFiles::open(path));
  return Transformer::load(std::move(files), backend, chunk);
}

}  // namespace lectern::engine::support
