// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace lectern::retrieval {

// The language a file's name stands for ("cpp", "python", "json", ...); empty when it is none we know.
std::string language_of(const std::filesystem::path& file);

// The symbol that a line of source code defines ("class TideModel", "predict"), judged by that line alone.
std::optional<std::string> defined_symbol(std::string_view line, std::string_view language);

}  // namespace lectern::retrieval
