// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/result.h"
#include "model/config.h"
#include "model/gguf_file.h"

namespace lectern::engine {

// The configuration of a qwen3next, qwen3 or qwen3moe model from its metadata, every number checked as in a
// config.json. The blocks for multi-token prediction, which come last in the file, are not among `layers`. Errors:
// kCorrupt (missing or impossible values), kUnsupported (another architecture, or a variant of this one that is not
// computed here).
Result<ModelConfig> read_gguf_config(const GgufContent& content);
inline Result<ModelConfig> read_gguf_config(const GgufFile& file) { return read_gguf_config(file.content()); }

}  // namespace lectern::engine
