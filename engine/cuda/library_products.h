// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ops/backend.h"

// Large dense products by NVIDIA's cuBLASLt, as an alternative to this engine's own kernels. No CUDA types.
namespace lectern::engine {

// What the library gets. It reaches the full rate of Hopper's matrix units, which mma.sync, in the own kernels, does
// not; but weights must first be decoded to BF16 in memory, and each step of that is a launch. The limits are estimates
// of where that pays: they have not been measured yet.
struct LibraryLimits {
  std::int64_t rows = 256;                            // of activations, at least
  std::int64_t numbers = std::int64_t{1} << 20;       // of a weight, at least
  std::int64_t panel_bytes = std::int64_t{64} << 20;  // of a weight's rows that are decoded at a time
};

// Working memory that a product by the library takes beside the activations in BF16.
std::int64_t library_working_bytes(const LibraryLimits& limits);

// For tests and benchmarks: makes a CUDA backend use the library from now on. False: it cannot be used.
bool use_library_products(Backend& backend, const LibraryLimits& limits = {});
// The same for the own kernels.
void use_own_products(Backend& backend);

}  // namespace lectern::engine
