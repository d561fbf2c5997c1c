// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "cuda/kv_cache.h"
#include "cuda/numbers.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {

// A warp writes up to 32 numbers of one head, one a lane. `all` says whether this lane has one.
template <KvType kType>
__device__ inline void store_numbers(float number, bool mine, std::int64_t first, const KvView& to, std::int64_t row,
                                     int head, Side side) {
  const std::int64_t at = first + threadIdx.x % kWarp;
  std::byte* numbers = to.row(row, head, side);
  if constexpr (kType == KvType::kF32) {
    if (mine) reinterpret_cast<float*>(numbers)[at] = number;
  } else if constexpr (kType == KvType::kBF16) {
    if (mine) reinterpret_cast<std::uint16_t*>(numbers)[at] = static_cast<std::uint16_t>(float_to_bf16(number));
  } else {
    // Rounded as the CPU does: the scale is no number where one of the 32 is infinite or none.
    const bool finite = warp_max(isfinite(number) ? 0.0F : 1.0F) == 0.0F;
    const float largest = warp_max(fabsf(number));
    const float scale = finite ? largest / 127.0F : __uint_as_float(0x7fc00000U);
    const float inverse = scale > 0 ? 1.0F / scale : 0.0F;
    const float code = finite && isfinite(inverse) ? rintf(number * inverse) : 0.0F;
    if (mine)
      reinterpret_cast<std::int8_t*>(numbers)[at] = static_cast<std::int8_t>(fminf(fmaxf(code, -127.0F), 127.0F));
    if (threadIdx.x % kWarp == 0) to.row_scales(row, head, side)[first / kScaleNumbers] = scale;
  }
}

}  // namespace lectern::engine::cuda
