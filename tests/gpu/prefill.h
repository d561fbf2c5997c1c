// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include "subject.h"

namespace lectern::engine::bench {

// Reads `tokens` tokens into an empty sequence, chunk by chunk, logits of the last one included. Stops at the deadline
// and then says how far it came.
Result<Json> measure_prefill(Subject& subject, std::int64_t tokens, KvType kv);

}  // namespace lectern::engine::bench
