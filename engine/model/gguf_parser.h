// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "engine/result.h"
#include "model/gguf_metadata.h"

namespace lectern::engine {

struct GgufTensor {
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;  // outermost first, the reverse of the file's order
  std::span<const std::byte> bytes;
};

using GgufTensors = std::map<std::string, GgufTensor, std::less<>>;

struct GgufContent {
  GgufMetadata metadata;
  GgufTensors tensors;
};

// Parses one GGUF file of version 2 or 3. Every count, length, type and offset is checked before it is used, the memory
// taken stays proportional to the file, and what is returned points into it. `name` appears in messages. Errors:
// kCorrupt, kUnsupported (another version or byte order, tensor types this engine cannot compute with).
Result<GgufContent> parse_gguf(std::span<const std::byte> file, const std::string& name);

// What the file calls a type; not defined for kF8E4M3.
std::uint32_t gguf_type_number(DType type);

}  // namespace lectern::engine
