// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <memory>

#include "engine/result.h"
#include "ops/backend.h"

struct CUstream_st;  // what a cudaStream_t points to: without CUDA's headers, hosts can use this

namespace lectern::engine::cuda {
class HeapMemory;
}

namespace lectern::engine::bench {

// Weight matrices that are made on the device from a seed, in the layout of cuda/weights.h: 80 GB in about a second and
// nothing on the host. Numbers are close to normal where the type has room for that, else even, of mean 0.
class WeightMaker {
 public:
  // Takes `bytes` of the device for all of them. Errors: kOutOfMemory.
  static Result<std::unique_ptr<WeightMaker>> create(std::int64_t bytes, std::uint64_t seed, CUstream_st* stream);

  // Columns are whole blocks of the type, one of: F32, BF16, F8_E4M3, Q4_K, Q6_K. `row_factors` on the device, one for
  // each row of a matrix of F32 or BF16; null: 1. Errors: kOutOfMemory, kUnsupported, kDevice.
  Result<WeightHandle> make(DType type, std::int64_t rows, std::int64_t cols, float deviation,
                            const float* row_factors = nullptr);

  ~WeightMaker();
  std::int64_t used() const;

 private:
  WeightMaker(std::uint64_t seed, CUstream_st* stream);

  std::unique_ptr<cuda::HeapMemory> memory_;
  std::uint64_t next_seed_;
  CUstream_st* stream_;
};

// Queues filling device memory with random bits, whole 8 bytes. False: the device refuses.
bool fill_with_random_bits(void* memory, std::int64_t bytes, std::uint64_t seed, CUstream_st* stream);

// Device memory of such a matrix, and of any other that the CUDA backend holds.
std::int64_t matrix_bytes(DType type, std::int64_t rows, std::int64_t cols);
std::int64_t matrix_bytes(const Weight& weight);
DType type_of(const Weight& weight);

}  // namespace lectern::engine::bench
