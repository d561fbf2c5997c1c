// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "model/config.h"

namespace lectern::engine {

// What a configuration may say, be it a config.json or the metadata of a GGUF file.
inline constexpr std::int64_t kLargestDimension = 1 << 20;
inline constexpr std::int64_t kLargestContext = 1 << 28;
inline constexpr std::int64_t kLargestVocabulary = 1 << 24;
inline constexpr std::int64_t kMostLayers = 4096;
inline constexpr std::int64_t kMostHeads = 4096;
inline constexpr std::int64_t kLargestHead = 4096;
inline constexpr std::int64_t kMostTaps = 64;
inline constexpr std::int64_t kMostExperts = 65536;

// "KEY is VALUE, expected LOW to HIGH"
std::string out_of_range(std::string_view key, std::int64_t value, std::int64_t low, std::int64_t high);

bool is_sane(const YarnScaling& yarn);

// YaRN makes the context longer than the model was trained for.
void extend_context(ModelConfig& config);

}  // namespace lectern::engine
