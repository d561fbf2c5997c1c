// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "ops/backend.h"
#include "support/oracle.h"

namespace lectern::engine::support {

// A kind of backend that the tests of the contract run on, and how exact it is: differences from the oracle are
// relative to the largest number of the expected result.
struct BackendKind {
  std::string name;
  std::function<std::unique_ptr<Backend>()> make;
  std::function<std::unique_ptr<Backend>(int threads)> with_threads;  // empty: it has none to choose
  // What the device noticed since the last call, such as writing beside an array; empty: nothing.
  std::function<std::string()> complaint = [] { return std::string(); };

  bool slow = false;                    // a hundred times: sizes that only ask for patience may be left out
  bool large_batches_are_exact = true;  // no row of a product depends on another, however many there are
  // Whether a product rounds its activations to 16 or 8 bits.
  std::function<bool(DType weights, std::int64_t rows)> rounds_activations;
  std::function<double(DType weights, std::int64_t rows)> product = [](DType, std::int64_t) {
    return oracle::kProduct;
  };
  std::function<double(KvType keys, std::int64_t rows)> attention = [](KvType, std::int64_t) {
    return oracle::kAttention;
  };
  double bidirectional_attention = oracle::kAttention;
  double recurrence = oracle::kRecurrence;
};

inline std::ostream& operator<<(std::ostream& out, const BackendKind& kind) { return out << kind.name; }

// Every executable brings its own.
std::vector<BackendKind> backend_kinds();

// The last of them, for tests of what is built on backends.
inline std::unique_ptr<Backend> test_backend() { return backend_kinds().back().make(); }

}  // namespace lectern::engine::support
