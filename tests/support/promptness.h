// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <chrono>

namespace lectern::test {

// Within 200 ms of being asked every long operation ends. A test allows ten times that, because a busy machine may let
// a thread wait for a second; what it then shows is that the operation did not run to its end, which takes far longer
// or has another result.
constexpr std::chrono::seconds kPromptly{2};

}  // namespace lectern::test
