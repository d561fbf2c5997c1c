// SPDX-License-Identifier: Apache-2.0
// Element-wise operations, norms, rotary positions and pooling.
#include <cmath>
#include <span>

#include "cuda/cuda_backend.h"
#include "cuda/norms.h"
#include "cuda/rotary.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

constexpr int kThreads = 256;

bool aligned(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory) % 16 == 0; }

unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

__device__ std::int64_t thread_of_grid() {
  return static_cast<std::int64_t>(blockIdx.x) * static_cast<std::int64_t>(blockDim.x) +
         static_cast<std::int64_t>(threadIdx.x);
}

// --- each number on its own -----------------------------------------------------------------------------------------

struct SiluGate {
  __device__ static float of(float gate, float y) { return silu(gate) * y; }
};
struct SigmoidGate {
  __device__ static float of(float gate, float y) { return y * sigmoid(gate); }
};

template <class Operation>
__global__ void combine_numbers(const float* x, float* y, std::int64_t count, bool wide) {
  const std::int64_t at = thread_of_grid() * kQuad;
  if (at >= count) return;
  const float4 a = load_quad(x + at, count - at, wide);
  const float4 b = load_quad(y + at, count - at, wide);
  const float4 result =
      make_float4(Operation::of(a.x, b.x), Operation::of(a.y, b.y), Operation::of(a.z, b.z), Operation::of(a.w, b.w));
  store_quad(result, y + at, count - at, wide);
}

__device__ float gelu_of(float x) { return x * (0.5F * (1.0F + erff(x * 0.70710678118654752F))); }

__global__ void apply_gelu(float* x, std::int64_t count, bool wide) {
  const std::int64_t at = thread_of_grid() * kQuad;
  if (at >= count) return;
  const float4 a = load_quad(x + at, count - at, wide);
  store_quad(make_float4(gelu_of(a.x), gelu_of(a.y), gelu_of(a.z), gelu_of(a.w)), x + at, count - at, wide);
}

// One thread for up to four columns of a row.
__global__ void add_to_rows(const float* bias, float* y, std::int64_t rows, std::int64_t cols, bool wide) {
  const std::int64_t quads = (cols + kQuad - 1) / kQuad;
  const std::int64_t index = thread_of_grid();
  if (index >= rows * quads) return;
  const std::int64_t column = index % quads * kQuad;
  float* at = y + index / quads * cols + column;
  const float4 a = load_quad(at, cols - column, wide);
  const float4 b = load_quad(bias + column, cols - column, wide);
  store_quad(make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w), at, cols - column, wide);
}

__global__ void move_columns(const float* from, float* to, std::int64_t rows, std::int64_t cols, std::int64_t to_cols,
                             bool wide) {
  const std::int64_t quads = (cols + kQuad - 1) / kQuad;
  const std::int64_t index = thread_of_grid();
  if (index >= rows * quads) return;
  const std::int64_t row = index / quads;
  const std::int64_t column = index % quads * kQuad;
  const float4 quad = load_quad(from + row * cols + column, cols - column, wide);
  store_quad(quad, to + row * to_cols + column, cols - column, wide);
}

// Rows of `cols` numbers to the rows from *first on.
__global__ void place_rows(const float* from, std::int64_t count, std::int64_t cols, const std::int64_t* first,
                           float* to) {
  const std::int64_t index = thread_of_grid();
  if (index < count) to[*first * cols + index] = from[index];
}

// --- norms ----------------------------------------------------------------------------------------------------------

// The threads that share a group of `width` numbers; thread `first` has the quads first, first + step, ... whether or
// not they can be read at once, so that alignment changes nothing in the result.
template <bool kBlock>
struct Sharers {
  std::int64_t group;
  std::int64_t first;
  std::int64_t step;

  __device__ Sharers() {
    const auto thread = static_cast<std::int64_t>(threadIdx.x);
    const auto threads = static_cast<std::int64_t>(blockDim.x);
    const auto block = static_cast<std::int64_t>(blockIdx.x);
    group = kBlock ? block : block * (threads / kWarp) + thread / kWarp;
    first = kBlock ? thread : thread % kWarp;
    step = kBlock ? threads : kWarp;
  }

  __device__ float sum(float value) const {
    if constexpr (kBlock) {
      __shared__ float partial[kWarp];
      return block_sum(value, partial);
    } else {
      return warp_sum(value);
    }
  }

  // The sum of f(quad, count) over the quads of the group, `count` of whose numbers belong to it.
  template <class F>
  __device__ float sum_quads(const float* x, std::int64_t width, bool wide, const F& f) const {
    float total = 0.0F;
    for (std::int64_t at = first * kQuad; at < width; at += step * kQuad) {
      total += f(load_quad(x + at, width - at, wide), width - at);
    }
    return sum(total);
  }
};

// `z` (optional): the result is multiplied by its silu. y may be x: a thread reads what it will write before that.
template <bool kBlock, bool kGated>
__global__ void norm_groups(const float* x, const float* z, const float* gain, float* y, std::int64_t groups,
                            std::int64_t width, float eps, bool wide) {
  const Sharers<kBlock> sharers;
  if (sharers.group >= groups) return;
  const std::int64_t start = sharers.group * width;
  const float squares =
      sharers.sum_quads(x + start, width, wide, [](const float4& quad, std::int64_t) { return square_of(quad); });
  const float factor = norm_factor(squares, width, eps);
  for (std::int64_t at = sharers.first * kQuad; at < width; at += sharers.step * kQuad) {
    const std::int64_t count = width - at;
    float4 a = load_quad(x + start + at, count, wide);
    const float4 g = load_quad(gain + at, count, wide);
    a = make_float4(a.x * factor * g.x, a.y * factor * g.y, a.z * factor * g.z, a.w * factor * g.w);
    if constexpr (kGated) {
      const float4 b = load_quad(z + start + at, count, wide);
      a = make_float4(a.x * silu(b.x), a.y * silu(b.y), a.z * silu(b.z), a.w * silu(b.w));
    }
    store_quad(a, y + start + at, count, wide);
  }
}

// The squares of the differences from `mean` of the first `count` numbers.
__device__ float deviation(const float4& a, std::int64_t count, float mean) {
  return square_of(make_float4(a.x - mean, count > 1 ? a.y - mean : 0.0F, count > 2 ? a.z - mean : 0.0F,
                               count > 3 ? a.w - mean : 0.0F));
}

template <bool kBlock>
__global__ void layer_norm_rows(const float* x, const float* gain, const float* bias, float* y, std::int64_t rows,
                                std::int64_t cols, float eps, bool wide) {
  const Sharers<kBlock> sharers;
  if (sharers.group >= rows) return;
  const float* in = x + sharers.group * cols;
  float* out = y + sharers.group * cols;
  const auto width = static_cast<float>(cols);
  const float mean = sharers.sum_quads(in, cols, wide, [](const float4& a, std::int64_t) {
    return (a.x + a.y) + (a.z + a.w);
  }) / width;
  const float squares = sharers.sum_quads(
      in, cols, wide, [mean](const float4& a, std::int64_t count) { return deviation(a, count, mean); });
  const float factor = 1.0F / sqrtf(squares / width + eps);
  for (std::int64_t at = sharers.first * kQuad; at < cols; at += sharers.step * kQuad) {
    const std::int64_t count = cols - at;
    const float4 a = load_quad(in + at, count, wide);
    const float4 g = load_quad(gain + at, count, wide);
    const float4 b = load_quad(bias + at, count, wide);
    const float4 result = make_float4(fmaf((a.x - mean) * factor, g.x, b.x), fmaf((a.y - mean) * factor, g.y, b.y),
                                      fmaf((a.z - mean) * factor, g.z, b.z), fmaf((a.w - mean) * factor, g.w, b.w));
    store_quad(result, out + at, count, wide);
  }
}

Grid grid_of_groups(std::int64_t groups, std::int64_t width) {
  if (width <= kWarpWidth) return {blocks_for(groups, 4), 4 * kWarp, 0};
  return {static_cast<unsigned>(groups), static_cast<unsigned>(norm_warps(width)) * kWarp, 0};
}

// --- rotary positions -----------------------------------------------------------------------------------------------

// One block for one row: cos and sin once for all its heads.
__global__ void rotate_rows(const double* inverse_frequency, const RotaryPlace* place, int pairs, int heads,
                            int head_dim, float* x) {
  auto* directions = dynamic_shared<float2>();
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < pairs; i += threads) {
    directions[i] = rotary_direction(*place, row, inverse_frequency[i]);
  }
  __syncthreads();
  float* start = x + row * heads * head_dim;
  for (int at = thread; at < heads * pairs; at += threads) {
    const int pair = at % pairs;
    float* first = start + at / pairs * head_dim + pair;
    rotate_pair(directions[pair], first[0], first[pairs]);
  }
}

// --- pooling --------------------------------------------------------------------------------------------------------

constexpr int kPoolWarps = 16;

// One block for one sequence: its warps share the rows, its lanes some columns at a time. The division by the count of
// rows cancels in the division by the length.
__global__ void pool_rows(const float* x, const std::int64_t* starts, std::int64_t cols, float* y) {
  __shared__ float sums[kPoolWarps][kWarp];
  __shared__ float partial[kWarp];
  const auto lane = static_cast<std::int64_t>(threadIdx.x % kWarp);
  const auto warp = static_cast<std::int64_t>(threadIdx.x / kWarp);
  const std::int64_t begin = starts[blockIdx.x];
  const std::int64_t end = starts[blockIdx.x + 1];
  float* out = y + static_cast<std::int64_t>(blockIdx.x) * cols;
  float squares = 0.0F;
  for (std::int64_t first = 0; first < cols; first += kWarp) {
    const std::int64_t column = first + lane;
    float sum = 0.0F;
    if (column < cols) {
#pragma unroll 4
      for (std::int64_t t = begin + warp; t < end; t += kPoolWarps) sum += x[t * cols + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < cols) {
      for (int i = 1; i < kPoolWarps; ++i) sum += sums[i][lane];
      out[column] = sum;
      squares = fmaf(sum, sum, squares);
    }
    __syncthreads();
  }
  const float length = sqrtf(block_sum(squares, partial));
  if (warp != 0 || !(length > 0.0F)) return;
  for (std::int64_t column = lane; column < cols; column += kWarp) out[column] /= length;
}

}  // namespace

void CudaBackend::add_bias(const float* bias, const Tensor& y) {
  const bool wide = y.cols % kQuad == 0 && aligned(bias) && aligned(y.data);
  const Grid grid = {blocks_for(y.rows * ((y.cols + kQuad - 1) / kQuad), kThreads), kThreads, 0};
  run(grid, add_to_rows, bias, y.data, y.rows, y.cols, wide);
}

void CudaBackend::silu_gate(const Tensor& gate, const Tensor& y) {
  const std::int64_t count = y.rows * y.cols;
  const Grid grid = {blocks_for(count, kThreads * kQuad), kThreads, 0};
  run(grid, combine_numbers<SiluGate>, gate.data, y.data, count, aligned(gate.data) && aligned(y.data));
}

void CudaBackend::sigmoid_gate(const Tensor& gate, const Tensor& y) {
  const std::int64_t count = y.rows * y.cols;
  const Grid grid = {blocks_for(count, kThreads * kQuad), kThreads, 0};
  run(grid, combine_numbers<SigmoidGate>, gate.data, y.data, count, aligned(gate.data) && aligned(y.data));
}

void CudaBackend::gelu(const Tensor& x) {
  const std::int64_t count = x.rows * x.cols;
  run({blocks_for(count, kThreads * kQuad), kThreads, 0}, apply_gelu, x.data, count, aligned(x.data));
}

void CudaBackend::copy_columns(const Tensor& from, const Tensor& to, std::int64_t first) {
  const bool wide = from.cols % kQuad == 0 && to.cols % kQuad == 0 && aligned(from.data) && aligned(to.data + first);
  const Grid grid = {blocks_for(from.rows * ((from.cols + kQuad - 1) / kQuad), kThreads), kThreads, 0};
  run(grid, move_columns, from.data, to.data + first, from.rows, from.cols, to.cols, wide);
}

void CudaBackend::copy_rows(const Tensor& from, const Tensor& to, std::int64_t first) {
  const std::int64_t count = from.rows * from.cols;
  run({blocks_for(count, kThreads), kThreads, 0}, place_rows, from.data, count, from.cols, values_.add(first), to.data);
}

void CudaBackend::rms_norm(const Tensor& x, const float* gain, std::int64_t width, float eps, const Tensor& y) {
  const std::int64_t groups = x.rows * (x.cols / width);
  const bool wide = width % kQuad == 0 && aligned(x.data) && aligned(gain) && aligned(y.data);
  const auto kernel = width <= kWarpWidth ? norm_groups<false, false> : norm_groups<true, false>;
  run(grid_of_groups(groups, width), kernel, x.data, nullptr, gain, y.data, groups, width, eps, wide);
}

void CudaBackend::gated_rms_norm(const Tensor& z, const float* gain, std::int64_t width, float eps, const Tensor& o) {
  const std::int64_t groups = o.rows * (o.cols / width);
  const bool wide = width % kQuad == 0 && aligned(z.data) && aligned(gain) && aligned(o.data);
  const auto kernel = width <= kWarpWidth ? norm_groups<false, true> : norm_groups<true, true>;
  run(grid_of_groups(groups, width), kernel, o.data, z.data, gain, o.data, groups, width, eps, wide);
}

void CudaBackend::layer_norm(const Tensor& x, const float* gain, const float* bias, float eps, const Tensor& y) {
  const bool wide = x.cols % kQuad == 0 && aligned(x.data) && aligned(gain) && aligned(bias) && aligned(y.data);
  const auto kernel = x.cols <= kWarpWidth ? layer_norm_rows<false> : layer_norm_rows<true>;
  run(grid_of_groups(x.rows, x.cols), kernel, x.data, gain, bias, y.data, x.rows, x.cols, eps, wide);
}

void CudaBackend::rotate(const RotaryTable& table, std::int64_t first, std::int64_t head_dim, const Tensor& x) {
  const std::size_t pairs = table.inverse_frequency.size();
  const double* inverse_frequency = values_.add(std::span<const double>(table.inverse_frequency));
  const RotaryPlace* place = values_.add(RotaryPlace{static_cast<double>(first), table.magnitude});
  const Grid grid = {static_cast<unsigned>(x.rows), kThreads, pairs * sizeof(float2)};
  run(grid, rotate_rows, inverse_frequency, place, static_cast<int>(pairs), static_cast<int>(x.cols / head_dim),
      static_cast<int>(head_dim), x.data);
}

void CudaBackend::mean_pool(const Tensor& x, std::span<const std::int64_t> starts, const Tensor& y) {
  const std::int64_t* places = values_.add(starts);
  run({static_cast<unsigned>(y.rows), kPoolWarps * kWarp, 0}, pool_rows, x.data, places, x.cols, y.data);
}

}  // namespace lectern::engine::cuda
