// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include "subject.h"

namespace lectern::engine::bench {

// Bytes of state that measure_dense() takes.
double dense_state_bytes(const ModelWeights& weights, std::int64_t rows);

// Rates of large dense products of `rows` rows by the own kernels and, where there is one, by NVIDIA's library, and how
// far their results are apart. `device` is the CUDA backend below the subject's; it then uses what it used before.
Result<Json> measure_dense(const Subject& subject, Backend& device, std::int64_t rows);

}  // namespace lectern::engine::bench
