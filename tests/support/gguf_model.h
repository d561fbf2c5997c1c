// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>

namespace lectern::engine::support {

// How q, k, v and z of the DeltaNet layers are stored: as in the checkpoints, grouped by key head (older files), or
// apart, each with its heads in order.
enum class DeltaLayout : std::uint8_t { kJoint, kApart };

// `file` becomes an F32 GGUF with the weights that golden::write_model() gives this model of the golden folder. Names
// and keys are spelled out again here, as GGUF files of these models have them. Throws std::runtime_error.
void write_gguf_model(const std::filesystem::path& golden_model, const std::filesystem::path& file,
                      DeltaLayout layout = DeltaLayout::kApart);

}  // namespace lectern::engine::support
