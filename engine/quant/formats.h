// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace lectern::engine {

float half_to_float(std::uint16_t half);
std::uint16_t float_to_half(float value);  // to nearest even; too large becomes infinity
float f8_e4m3_to_float(std::uint8_t code);

// The numbers of consecutive blocks; `count` is a multiple of the type's block. Neither array needs alignment. The
// arithmetic is that of the GGUF formats' reference (float, one rounding per operation), so results agree with it bit
// for bit. kF8E4M3 gives the codes' values without the matrix's scales.
void dequantize(DType type, const void* blocks, std::int64_t count, float* values);

// The nearest blocks this library finds for `values`; not defined for kF8E4M3. Numbers that are not finite must not
// occur.
void quantize(DType type, const float* values, std::int64_t count, void* blocks);

// Row `row` of a matrix with everything applied, scales included. values: [matrix.cols]
void read_row(const HostMatrix& matrix, std::int64_t row, float* values);

}  // namespace lectern::engine
