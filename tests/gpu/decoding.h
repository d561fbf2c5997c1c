// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include "subject.h"

namespace lectern::engine::bench {

struct DecodeCase {
  std::int64_t context = 0;
  std::int64_t sequences = 1;
  KvType kv = KvType::kBF16;
};

// One token per pass and sequence; logits come back to the host, choosing from them is not timed.
Result<Json> measure_decode(Subject& subject, const DecodeCase& wanted);

// Guessing ahead at full cost, but with an acceptance that is written down here instead of measured: of `rows` - 1
// guesses 85, 67 and 51 % are right together with those before them.
Result<Json> measure_scripted(Subject& subject, const DecodeCase& wanted, std::int64_t rows);

// Which experts are chosen, in every layer: popularity over a long text, and how many differ in a small batch.
Result<Json> measure_routing(Subject& subject);

}  // namespace lectern::engine::bench
