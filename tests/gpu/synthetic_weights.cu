// SPDX-License-Identifier: GPL-3.0-or-later
#include "synthetic_weights.h"

#include <algorithm>
#include <string>
#include <utility>

#include "cuda/device_memory.h"
#include "cuda/numbers.h"
#include "cuda/platform.h"
#include "cuda/weights.h"
#include "random_bits.h"

namespace lectern::engine::bench {
namespace {

using cuda::DeviceMatrix;
using cuda::Grid;

constexpr unsigned kThreads = 256;
constexpr float kF8Deviation = 64.0F;  // of the codes: 3.5 deviations stay below the largest, 448

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + cuda::kAlignment - 1) / cuda::kAlignment * cuda::kAlignment;
}

std::int64_t row_bytes_of(DType type, std::int64_t cols) {
  return (cols / block_size(type).elements * cuda::plane_bytes(type).codes + 15) / 16 * 16;
}

// Of one plane but the codes'.
std::int64_t plane_size(DType type, std::int64_t rows, std::int64_t cols, int bytes_of_block) {
  return rows * (cols / block_size(type).elements) * bytes_of_block;
}

Grid grid_for(std::int64_t threads) {
  return {static_cast<unsigned>(std::max<std::int64_t>(1, (threads + kThreads - 1) / kThreads)), kThreads};
}

__device__ std::int64_t thread_index() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// The nearest code; |value| <= 448.
__device__ std::uint32_t f8_code(float value) {
  const std::uint32_t sign = value < 0 ? 0x80U : 0U;
  const float magnitude = fabsf(value);
  if (magnitude < 0.015625F) return sign | static_cast<std::uint32_t>(magnitude * 512.0F + 0.5F);  // below 2^-6
  const std::uint32_t bits = __float_as_uint(magnitude) + 0x80000U;  // half of the last bit that stays
  const std::uint32_t exponent = (bits >> 23) - 120U;
  return sign | min((exponent << 3) | ((bits >> 20) & 7U), 0x7eU);
}

__device__ float weight_at(std::uint64_t seed, std::int64_t index) {
  return random_normal(seed + static_cast<std::uint64_t>(index));
}

// Sixteen codes to a thread.
__global__ void make_f8(std::uint8_t* codes, std::int64_t count, std::uint64_t seed) {
  const std::int64_t first = 16 * thread_index();
  if (first >= count) return;
  std::uint32_t words[4] = {};
  for (int i = 0; i < 16; ++i) {
    words[i / 4] |= f8_code(kF8Deviation * weight_at(seed, first + i)) << (8 * (i % 4));
  }
  *reinterpret_cast<uint4*>(codes + first) = make_uint4(words[0], words[1], words[2], words[3]);
}

// Four numbers of a row to a thread; rows are multiples of four.
__global__ void make_bf16(DeviceMatrix w, float deviation, const float* row_factors, std::uint64_t seed) {
  const std::int64_t first = 4 * thread_index();
  if (first >= static_cast<std::int64_t>(w.rows) * w.cols) return;
  const std::int64_t row = first / w.cols;
  const float scale = deviation * (row_factors != nullptr ? row_factors[row] : 1.0F);
  const auto pair = [&](int i) {
    return cuda::pack_bf16(scale * weight_at(seed, first + i), scale * weight_at(seed, first + i + 1));
  };
  auto* to = const_cast<std::uint8_t*>(w.codes) + row * w.row_bytes + 2 * (first % w.cols);
  *reinterpret_cast<uint2*>(to) = make_uint2(pair(0), pair(2));
}

__global__ void make_f32(DeviceMatrix w, float deviation, const float* row_factors, std::uint64_t seed) {
  const std::int64_t at = thread_index();
  if (at >= static_cast<std::int64_t>(w.rows) * w.cols) return;
  const std::int64_t row = at / w.cols;
  const float scale = deviation * (row_factors != nullptr ? row_factors[row] : 1.0F);
  auto* to = reinterpret_cast<float*>(const_cast<std::uint8_t*>(w.codes) + row * w.row_bytes);
  to[at % w.cols] = scale * weight_at(seed, at);
}

__global__ void make_random(std::uint64_t* words, std::int64_t count, std::uint64_t seed) {
  const std::int64_t at = thread_index();
  if (at < count) words[at] = random_bits(seed + static_cast<std::uint64_t>(at));
}

__global__ void make_floats(float* to, std::int64_t count, float value) {
  const std::int64_t at = thread_index();
  if (at < count) to[at] = value;
}

// A block's 16 bytes of Q4_K: two factors, then for each group a scale of 32 to 63 and the same minimum, so that codes
// 0 to 15 with factors d and 7.5 d give even numbers around 0.
__global__ void make_q4k_scales(std::uint8_t* scales, std::int64_t blocks, std::uint32_t factors, std::uint64_t seed) {
  const std::int64_t at = thread_index();
  if (at >= blocks) return;
  const std::uint64_t bits = random_bits(seed + static_cast<std::uint64_t>(at));
  const std::uint32_t first = static_cast<std::uint32_t>(bits) | 0xa0a0a0a0U;
  const std::uint32_t nibbles = static_cast<std::uint32_t>(bits >> 32) & 0x0f0f0f0fU;
  reinterpret_cast<uint4*>(scales)[at] = make_uint4(factors, first, first, nibbles | (nibbles << 4));
}

__global__ void make_q6k_super(std::uint8_t* super, std::int64_t blocks, std::uint32_t factor) {
  const std::int64_t at = thread_index();
  if (at < blocks) reinterpret_cast<std::uint16_t*>(super)[at] = static_cast<std::uint16_t>(factor);
}

// Bits of the F16 number nearest to a positive value below 1.
std::uint32_t half_bits(float value) {
  constexpr float kSmallestNormal = 6.103515625e-5F;
  if (value < kSmallestNormal) return static_cast<std::uint32_t>(value * 16777216.0F + 0.5F);  // 2^24
  std::uint32_t exponent = 15;
  while (value < 1.0F) {
    value *= 2;
    --exponent;
  }
  return (exponent << 10) + static_cast<std::uint32_t>((value - 1.0F) * 1024.0F + 0.5F);
}

// Queues the kernels that fill one matrix.
class Filler {
 public:
  Filler(DType type, const DeviceMatrix& w, std::uint64_t seed, cudaStream_t stream)
      : type_(type),
        w_(w),
        blocks_(std::int64_t{w.rows} * w.cols / block_size(type).elements),
        seed_(seed),
        stream_(stream) {}

  cudaError_t fill(float deviation, const float* row_factors) {
    const std::int64_t count = std::int64_t{w_.rows} * w_.cols;
    switch (type_) {
      case DType::kF32:
        queue(count, make_f32, w_, deviation, row_factors, seed_);
        break;
      case DType::kBF16:
        queue(count / 4, make_bf16, w_, deviation, row_factors, seed_);
        break;
      case DType::kF8E4M3: {
        const std::int64_t scales = std::int64_t{(w_.rows + 127) / 128} * ((w_.cols + 127) / 128);
        queue(count / 16, make_f8, to(w_.codes), count, seed_);
        queue(scales, make_floats, reinterpret_cast<float*>(to(w_.scales)), scales, deviation / kF8Deviation);
        break;
      }
      case DType::kQ4K: {
        // Codes deviate by 4.61, times scales whose mean square is 48.4^2.
        const float d = deviation / (4.61F * 48.4F);
        random(w_.codes, blocks_ * 128);
        queue(blocks_, make_q4k_scales, to(w_.scales), blocks_, half_bits(d) | (half_bits(7.5F * d) << 16), seed_ + 1);
        break;
      }
      default:  // Q6_K: codes deviate by 18.5, signed 8-bit scales by 73.9
        random(w_.codes, blocks_ * 128);
        random(w_.high, blocks_ * 64);
        random(w_.scales, blocks_ * 16);
        queue(blocks_, make_q6k_super, to(w_.super), blocks_, half_bits(deviation / (18.5F * 73.9F)));
        break;
    }
    return code_;
  }

 private:
  static std::uint8_t* to(const std::uint8_t* plane) { return const_cast<std::uint8_t*>(plane); }

  template <class... Parameters, class... Arguments>
  void queue(std::int64_t threads, void (*kernel)(Parameters...), Arguments... arguments) {
    if (code_ == cudaSuccess) code_ = cuda::launch(stream_, grid_for(threads), kernel, arguments...);
  }
  void random(const std::uint8_t* plane, std::int64_t bytes) {
    queue(bytes / 8, make_random, reinterpret_cast<std::uint64_t*>(to(plane)), bytes / 8, random_bits(seed_++));
  }

  DType type_;
  DeviceMatrix w_;
  std::int64_t blocks_;
  std::uint64_t seed_;
  cudaStream_t stream_;
  cudaError_t code_ = cudaSuccess;
};

bool can_be_made(DType type, std::int64_t cols) {
  const bool known = type == DType::kF32 || type == DType::kBF16 || type == DType::kF8E4M3 || type == DType::kQ4K ||
                     type == DType::kQ6K;
  return known && cols % std::max<std::int64_t>(16, block_size(type).elements) == 0;
}

}  // namespace

bool fill_with_random_bits(void* memory, std::int64_t bytes, std::uint64_t seed, CUstream_st* stream) {
  return cuda::launch(stream, grid_for(bytes / 8), make_random, static_cast<std::uint64_t*>(memory), bytes / 8, seed) ==
         cudaSuccess;
}

std::int64_t matrix_bytes(DType type, std::int64_t rows, std::int64_t cols) {
  return cuda::device_bytes({type, nullptr, rows, cols, nullptr});
}

std::int64_t matrix_bytes(const Weight& weight) { return matrix_bytes(type_of(weight), weight.rows(), weight.cols()); }

DType type_of(const Weight& weight) { return cuda::cuda_weight(weight).type(); }

WeightMaker::WeightMaker(std::uint64_t seed, CUstream_st* stream)
    : memory_(std::make_unique<cuda::HeapMemory>()), next_seed_(seed), stream_(stream) {}
WeightMaker::~WeightMaker() = default;

std::int64_t WeightMaker::used() const { return memory_->used(); }

Result<std::unique_ptr<WeightMaker>> WeightMaker::create(std::int64_t bytes, std::uint64_t seed, CUstream_st* stream) {
  std::unique_ptr<WeightMaker> maker(new WeightMaker(seed, stream));
  if (maker->memory_->reserve(bytes)) return Result<std::unique_ptr<WeightMaker>>(std::move(maker));
  return Error{ErrorCode::kOutOfMemory, "The GPU has no room for " + std::to_string(bytes >> 20) +
                                            " MiB of weights; take fewer layers or a smaller format."};
}

Result<WeightHandle> WeightMaker::make(DType type, std::int64_t rows, std::int64_t cols, float deviation,
                                       const float* row_factors) {
  if (!can_be_made(type, cols)) {
    return Error{ErrorCode::kUnsupported,
                 "No matrix of " + std::to_string(cols) + " columns is made as " + std::string(name_of(type)) + "."};
  }
  const std::int64_t bytes = matrix_bytes(type, rows, cols);
  std::byte* piece = memory_->take(bytes);
  if (piece == nullptr) return Error{ErrorCode::kOutOfMemory, "The memory for weights is too small for all of them."};
  const cuda::PlaneBytes block = cuda::plane_bytes(type);
  auto* at = reinterpret_cast<const std::uint8_t*>(piece);
  const auto plane = [&](std::int64_t size) { return std::exchange(at, at + aligned(size)); };
  DeviceMatrix w;
  w.row_bytes = row_bytes_of(type, cols);
  w.rows = static_cast<std::int32_t>(rows);
  w.cols = static_cast<std::int32_t>(cols);
  w.codes = plane(rows * w.row_bytes);
  w.high = plane(plane_size(type, rows, cols, block.high));
  w.scales = plane(type == DType::kF8E4M3 ? (rows + 127) / 128 * ((cols + 127) / 128) * 4
                                          : plane_size(type, rows, cols, block.scales));
  w.super = at;
  next_seed_ = random_bits(next_seed_);
  auto weight = std::make_unique<cuda::CudaWeight>(type, w, *memory_, piece);
  const cudaError_t code = Filler(type, w, next_seed_, stream_).fill(deviation, row_factors);
  if (code != cudaSuccess) {
    return Error{ErrorCode::kDevice, std::string("Making a matrix failed (") + cudaGetErrorString(code) + ")."};
  }
  return WeightHandle(std::move(weight));
}

}  // namespace lectern::engine::bench
