// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "support/backend_kind.h"

namespace lectern::engine::support {

// The CUDA backend, on a GPU or on the emulation. Up to kSmallBatchRows rows meet F32, F16, BF16 and F8 weights as
// floats; more go through the matrix units as BF16.
inline BackendKind cuda_kind(std::string name) {
  BackendKind kind;
  kind.name = std::move(name);
  kind.make = []() -> std::unique_ptr<Backend> {
    auto backend = make_cuda_backend(0, {});
    if (backend.ok()) return std::move(backend).value();
    std::fprintf(stderr, "%s\n", backend.error().message.c_str());
    std::abort();
  };
  kind.large_batches_are_exact = false;
  kind.rounds_activations = [](DType type, std::int64_t rows) {
    const bool plain = type == DType::kF32 || type == DType::kF16 || type == DType::kBF16 || type == DType::kF8E4M3;
    return !plain || rows > kSmallBatchRows;
  };
  kind.product = [](DType /*type*/, std::int64_t rows) {
    return rows > kSmallBatchRows ? oracle::kRoundedProduct : oracle::kProduct;
  };
  kind.attention = [](KvType type, std::int64_t /*rows*/) {
    return type == KvType::kF32 ? oracle::kAttention : oracle::kRoundedAttention;
  };
  kind.bidirectional_attention = oracle::kRoundedAttention;
  return kind;
}

}  // namespace lectern::engine::support
