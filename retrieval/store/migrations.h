// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <span>

#include "store/database.h"

namespace lectern::retrieval {

inline constexpr std::int64_t kApplicationId = 0x4C454354;  // "LECT"

// Step i takes a library from version i to version i + 1. Steps are never changed once released, only appended.
std::span<const char* const> schema_ladder();

inline int newest_schema() { return static_cast<int>(schema_ladder().size()); }

// Climbs from the file's version to the end of `ladder`. Each step and its version number are one exclusive
// transaction: after a crash or an error the library stands on a whole step. Throws SqliteError.
void migrate(const Database& database, std::span<const char* const> ladder);

}  // namespace lectern::retrieval
