// SPDX-License-Identifier: Apache-2.0
// The rows of a few tokens on their way to attention, in one launch: norm, rotation, and into the cache.
#include "cuda/cuda_backend.h"
#include "cuda/kv_store.h"
#include "cuda/norms.h"
#include "cuda/rotary.h"

namespace lectern::engine::cuda {
namespace {

constexpr int kHeadWarps = 4;  // of a block

bool aligned(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory) % 16 == 0; }

// A projection, and the norm over its heads. Without padding, because launches are compared byte by byte.
struct NormedHeads {
  float* x;  // [rows, heads * width]
  const float* gain;
  float eps;
  std::int32_t wide;  // both can be read 16 bytes at a time
};

NormedHeads normed_heads(const Tensor& x, const Norm& norm, std::int64_t width) {
  return {x.data, norm.gain, norm.eps, width % kQuad == 0 && aligned(x.data) && aligned(norm.gain) ? 1 : 0};
}

struct HeadRows {
  NormedHeads q;
  NormedHeads k;
  const float* v;
  const double* inverse_frequency;
  const RotaryPlace* place;
  const std::int64_t* length;
  KvView to;
  std::int32_t query_heads;
  std::int32_t pairs;
  std::int64_t rows;
};

// A head of a row, by a warp, into `numbers`, in shared memory.
__device__ void norm_and_rotate(const HeadRows& in, const NormedHeads& heads, const float* from, std::int64_t row,
                                float* numbers) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int width = in.to.width;
  const int step = kWarp * static_cast<int>(kQuad);
  const bool wide = heads.wide != 0;
  float total = 0.0F;
  for (int at = lane * static_cast<int>(kQuad); at < width; at += step) {
    total += square_of(load_quad(from + at, width - at, wide));
  }
  const float factor = norm_factor(warp_sum(total), width, heads.eps);
  for (int at = lane * static_cast<int>(kQuad); at < width; at += step) {
    const float4 a = load_quad(from + at, width - at, wide);
    const float4 g = load_quad(heads.gain + at, width - at, wide);
    store_quad(make_float4(a.x * factor * g.x, a.y * factor * g.y, a.z * factor * g.z, a.w * factor * g.w),
               numbers + at, width - at, wide);
  }
  __syncwarp();
  for (int pair = lane; pair < in.pairs; pair += kWarp) {
    rotate_pair(rotary_direction(*in.place, row, in.inverse_frequency[pair]), numbers[pair], numbers[pair + in.pairs]);
  }
  __syncwarp();
}

// One warp for a head of a row: those of q, of k and of v.
template <KvType kType>
__global__ void __launch_bounds__(kHeadWarps* kWarp) append_head_rows(HeadRows in) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int width = in.to.width;
  const int all = in.query_heads + 2 * in.to.heads;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kHeadWarps + warp;
  const std::int64_t row = index / all;
  if (row >= in.rows) return;  // the whole warp
  auto head = static_cast<int>(index % all);
  float* const numbers = dynamic_shared<float>() + warp * width;
  if (head < in.query_heads) {
    float* const q = in.q.x + (row * in.query_heads + head) * width;
    norm_and_rotate(in, in.q, q, row, numbers);
    for (int i = lane; i < width; i += kWarp) q[i] = numbers[i];
    return;
  }
  head -= in.query_heads;
  const Side side = head < in.to.heads ? Side::kKeys : Side::kValues;
  if (side == Side::kValues) head -= in.to.heads;
  const std::int64_t place = (row * in.to.heads + head) * width;
  const float* from = in.v + place;
  if (side == Side::kKeys) {
    norm_and_rotate(in, in.k, in.k.x + place, row, numbers);
    from = numbers;
  }
  for (int first = 0; first < width; first += kScaleNumbers) {
    const bool mine = first + lane < width;
    store_numbers<kType>(mine ? from[first + lane] : 0.0F, mine, first, in.to, *in.length + row, head, side);
  }
}

}  // namespace

void CudaBackend::append_heads(const Tensor& q, const Norm& q_norm, const Tensor& k, const Norm& k_norm,
                               const Tensor& v, const RotaryTable& table, std::int64_t head_dim, KvCache& cache) {
  if (q.rows > kSmallBatchRows || head_dim > kWarpWidth) {
    return Backend::append_heads(q, q_norm, k, k_norm, v, table, head_dim, cache);
  }
  auto& to = static_cast<CudaKvCache&>(cache);
  HeadRows in = {};
  in.q = normed_heads(q, q_norm, head_dim);
  in.k = normed_heads(k, k_norm, head_dim);
  in.v = v.data;
  in.inverse_frequency = values_.add(std::span<const double>(table.inverse_frequency));
  in.place = values_.add(RotaryPlace{static_cast<double>(to.length()), table.magnitude});
  in.length = values_.add(to.length());
  in.to = to.view();
  in.query_heads = static_cast<std::int32_t>(q.cols / head_dim);
  in.pairs = static_cast<std::int32_t>(table.inverse_frequency.size());
  in.rows = q.rows;
  const std::int64_t warps = in.rows * (in.query_heads + 2 * in.to.heads);
  const Grid grid = {static_cast<unsigned>((warps + kHeadWarps - 1) / kHeadWarps), kHeadWarps * kWarp,
                     static_cast<std::size_t>(kHeadWarps * head_dim) * sizeof(float)};
  const auto kernel = to.type() == KvType::kF32    ? append_head_rows<KvType::kF32>
                      : to.type() == KvType::kBF16 ? append_head_rows<KvType::kBF16>
                                                   : append_head_rows<KvType::kQ8>;
  run(grid, kernel, in);
  to.extend(q.rows);
}

}  // namespace lectern::engine::cuda
