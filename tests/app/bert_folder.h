// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <filesystem>
#include <string>

namespace lectern::app {

// A small embedding model in a new folder: every weight is `weight`, `vocabulary` becomes its vocab.txt.
void writeBert(const std::filesystem::path& folder, float weight, const std::string& vocabulary);

}  // namespace lectern::app
