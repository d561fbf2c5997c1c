// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stop_token>

#include "engine/measure.h"
#include "engine/result.h"
#include "runtime/opened_model.h"

namespace lectern::engine {

// The greedy continuation of a text, written with guessing ahead and without, in turn. Errors: as advance().
Result<DraftReport> measure_drafts(OpenedModel& model, const BenchOptions& options, const std::stop_token& stop);

}  // namespace lectern::engine
