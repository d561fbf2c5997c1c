// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include "subject.h"

namespace lectern::engine::bench {

struct OperationsCase {
  std::int64_t context = 0;
  std::int64_t rows = 1;  // of a pass: more than kSmallBatchRows is a chunk of a prefill
  KvType kv = KvType::kBF16;
  ObservedBackend::Mode mode = ObservedBackend::Mode::kTimedQueued;
};

// Time of each operation on the device in passes of one sequence, and the bytes it moved where they are known.
Result<Json> measure_operations(Subject& subject, const OperationsCase& wanted);

// Whether the model computes: finite logits with a fingerprint, the same again for the same text, and for rows read
// together the bits of rows read one by one.
Result<Json> check_model(Subject& subject);

}  // namespace lectern::engine::bench
