// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <string>

#include "retrieval/types.h"

namespace lectern::app {

// Where a passage stands, for people: "Annual report, page 3", "src/main.cpp:10-20", "Notes, lines 4-9".
std::string placeOf(const retrieval::SearchHit& hit);
std::string placeOf(const retrieval::Citation& citation);

}  // namespace lectern::app
