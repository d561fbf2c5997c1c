// SPDX-License-Identifier: Apache-2.0
// Products of several weights with up to eight rows that come from others by a norm or a gate, in one launch: every
// block forms the rows for itself, because that takes less time than another launch.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/norms.h"
#include "cuda/row_products.h"

namespace lectern::engine::cuda {

// What is multiplied.
enum class Form : std::int32_t { kNorm, kGatedNorm, kGated };  // rms_norm(x); rms_norm(x) silu(gate); x sigma(gate)

// Rows as a block forms them in shared memory: as codes, as floats, or both. Without padding, because launches are
// compared byte by byte.
struct FormedRows {
  const float* x = nullptr;     // [rows, cols]
  const float* gate = nullptr;  // the same
  const float* gain = nullptr;  // [width]
  Form form = Form::kNorm;
  std::int32_t rows = 0;
  std::int32_t cols = 0;
  std::int32_t width = 0;  // of a group of the norm; quads lie within one
  float eps = 0.0F;
  std::int32_t wide = 0;  // everything can be read 16 bytes at a time
  std::int32_t coded = 0;
  std::int32_t plain = 0;
};

namespace {

constexpr std::size_t kMostProducts = 4;
constexpr std::int64_t kMostFormedBytes = std::int64_t{96} << 10;   // of shared memory; every device has 99 KiB
constexpr std::int64_t kUsualSharedBytes = std::int64_t{44} << 10;  // beside the 4 KiB that a kernel may have itself

// --- rows -----------------------------------------------------------------------------------------------------------

// Where the parts are in shared memory, codes first.
struct FormedPlaces {
  std::int64_t floats;
  std::int64_t factors;  // of the norm, one for each group
  std::int64_t partial;  // sums of squares, one for each warp of each group
  std::int64_t end;
};

__host__ __device__ constexpr std::int64_t formed_stride(const FormedRows& x) { return (x.cols + 15) / 16 * 16; }
__host__ __device__ constexpr int norm_groups_of(const FormedRows& x) {
  return x.form == Form::kGated ? 0 : x.rows * (x.cols / x.width);
}

__host__ __device__ constexpr FormedPlaces places_of(const FormedRows& x) {
  const std::int64_t groups = norm_groups_of(x);
  FormedPlaces places = {};
  places.floats = x.coded != 0 ? (coded_bytes(x.rows, x.cols) + 15) / 16 * 16 : 0;
  places.factors = places.floats + (x.plain != 0 ? 4 * x.rows * formed_stride(x) : 0);
  places.partial = places.factors + 4 * groups;
  places.end = places.partial + 4 * groups * norm_warps(x.width);
  return places;
}

// Four columns of a row, zeros behind the end.
__device__ inline float4 formed_quad(const FormedRows& x, const float* factors, int row, int col) {
  const std::int64_t left = x.cols - col;
  const std::int64_t at = static_cast<std::int64_t>(row) * x.cols + col;
  const bool wide = x.wide != 0;
  float4 a = load_quad(x.x + at, left, wide);
  if (left <= 0) return a;
  if (x.form == Form::kGated) {
    const float4 b = load_quad(x.gate + at, left, wide);
    return make_float4(a.x * sigmoid(b.x), a.y * sigmoid(b.y), a.z * sigmoid(b.z), a.w * sigmoid(b.w));
  }
  const float factor = factors[row * (x.cols / x.width) + col / x.width];
  const float4 g = load_quad(x.gain + col % x.width, left, wide);
  a = make_float4(a.x * factor * g.x, a.y * factor * g.y, a.z * factor * g.z, a.w * factor * g.w);
  if (x.form == Form::kNorm) return a;
  const float4 b = load_quad(x.gate + at, left, wide);
  return make_float4(a.x * silu(b.x), a.y * silu(b.y), a.z * silu(b.z), a.w * silu(b.w));
}

__device__ inline void form_codes(const FormedRows& x, const float* factors, const CodedRows& to) {
  const int row_groups = static_cast<int>(to.groups);
  const int groups = x.rows * row_groups;
  for (int first = 0; first < groups; first += static_cast<int>(kBlockThreads) / 4) {
    const int group = first + static_cast<int>(threadIdx.x) / 4;
    const bool valid = group < groups;
    float4 from[2] = {make_float4(0.0F, 0.0F, 0.0F, 0.0F), make_float4(0.0F, 0.0F, 0.0F, 0.0F)};
    if (valid) {
      const int col = group % row_groups * kGroup + static_cast<int>(threadIdx.x) % 4 * 8;
      from[0] = formed_quad(x, factors, group / row_groups, col);
      from[1] = formed_quad(x, factors, group / row_groups, col + 4);
    }
    const float values[8] = {from[0].x, from[0].y, from[0].z, from[0].w, from[1].x, from[1].y, from[1].z, from[1].w};
    code_group(values, group, valid, to);
  }
}

__device__ inline void form_floats(const FormedRows& x, const float* factors, float* to) {
  const int quads = static_cast<int>(formed_stride(x) / kQuad);
  for (int i = static_cast<int>(threadIdx.x); i < x.rows * quads; i += static_cast<int>(kBlockThreads)) {
    const int col = i % quads * static_cast<int>(kQuad);
    reinterpret_cast<float4*>(to)[i] = formed_quad(x, factors, i / quads, col);
  }
}

// --- products -------------------------------------------------------------------------------------------------------

// Every block has one of the matrices, or some of its rows. Without padding, as above.
struct FormedProducts {
  RowProduct products[kMostProducts];
  std::int32_t types[kMostProducts];             // DType
  std::int32_t first_blocks[kMostProducts + 1];  // of each, and behind the last
  std::int32_t unused;
};

// The rows that every block has formed.
struct Formed {
  CodedRows codes;
  FloatRows floats;
};

constexpr std::size_t kTypes = kDTypes.size();

// multiply_share() for the type, which is a DType from Index on.
template <int Rows, std::size_t Index = 0>
__device__ inline void multiply_typed(std::int32_t type, const RowProduct& p, const Formed& x, int block, int blocks,
                                      Partial<kWeightRows * Rows>& partial) {
  constexpr auto kType = static_cast<DType>(Index);
  if (type == static_cast<std::int32_t>(kType)) {
    if constexpr (kIsCoded<kType>) {
      multiply_share<kType, Rows>(p, x.codes, block, blocks, 0, partial);
    } else {
      multiply_share<kType, Rows>(p, x.floats, block, blocks, 0, partial);
    }
    return;
  }
  if constexpr (Index + 1 < kTypes) multiply_typed<Rows, Index + 1>(type, p, x, block, blocks, partial);
}

template <int Rows>
__global__ void __launch_bounds__(kBlockThreads, kLeastBlocks<Rows>)
    multiply_formed_rows(const __grid_constant__ FormedProducts all, const FormedRows x) {
  __shared__ Partial<kWeightRows * Rows> partial;
  auto* const memory = dynamic_shared<std::uint8_t>();
  const FormedPlaces places = places_of(x);
  auto* const factors = reinterpret_cast<float*>(memory + places.factors);
  auto* const numbers = reinterpret_cast<float*>(memory + places.floats);
  const Formed formed = {coded_rows(memory, x.rows, x.cols), {numbers, formed_stride(x), x.cols, x.rows - 1, 1}};
  if (x.form != Form::kGated) {
    find_norm_factors(x.x, norm_groups_of(x), x.width, x.eps, x.wide != 0, factors,
                      reinterpret_cast<float*>(memory + places.partial));
  }
  if (x.coded != 0) form_codes(x, factors, formed.codes);
  if (x.plain != 0) form_floats(x, factors, numbers);
  __syncthreads();
  int which = 0;
  for (int i = 1; i < static_cast<int>(kMostProducts); ++i) {
    if (static_cast<int>(blockIdx.x) >= all.first_blocks[i]) which = i;
  }
  const int block = static_cast<int>(blockIdx.x) - all.first_blocks[which];
  const int blocks = all.first_blocks[which + 1] - all.first_blocks[which];
  multiply_typed<Rows>(all.types[which], all.products[which], formed, block, blocks, partial);
}

bool aligned(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory) % 16 == 0; }

FormedRows formed_rows(Form form, const Tensor& x, const float* gate, const Norm& norm, std::int64_t width) {
  FormedRows rows;
  rows.x = x.data;
  rows.gate = gate;
  rows.gain = norm.gain;
  rows.form = form;
  rows.rows = static_cast<std::int32_t>(x.rows);
  rows.cols = static_cast<std::int32_t>(x.cols);
  rows.width = static_cast<std::int32_t>(width);
  rows.eps = norm.eps;
  rows.wide = x.cols % kQuad == 0 && width % kQuad == 0 && aligned(x.data) && aligned(gate) && aligned(norm.gain);
  return rows;
}

// With at most `most` blocks, if there are not more matrices.
FormedProducts table_of(std::span<const Projection> products, std::int64_t rows, bool accumulate, int multiprocessors,
                        std::int64_t most) {
  FormedProducts all = {};
  std::int64_t steps[kMostProducts] = {};
  std::int64_t all_steps = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const CudaWeight& w = cuda_weight(*products[i].weight);
    RowShare share;
    with_type(w.type(), [&]<DType Type>() { share = share_of(units_of<Type>(w.cols()), w.rows(), multiprocessors); });
    all.products[i] = {w.matrix(), products[i].y.data, rows, share, accumulate ? 1 : 0};
    all.types[i] = static_cast<std::int32_t>(w.type());
    steps[i] = quotient_up(w.rows(), step_rows(share));
    all_steps += steps[i];
  }
  for (std::size_t i = 0; i < kMostProducts; ++i) {
    std::int64_t blocks = steps[i];
    if (all_steps > most && blocks > 0) blocks = std::max<std::int64_t>(1, blocks * most / all_steps);
    all.first_blocks[i + 1] = all.first_blocks[i] + static_cast<std::int32_t>(blocks);
  }
  return all;
}

}  // namespace

bool CudaBackend::multiply_formed(FormedRows x, std::span<const Projection> products, bool accumulate) {
  if (products.size() > kMostProducts || (x.width % kQuad != 0 && x.width != x.cols)) return false;
  for (const Projection& product : products) {
    (is_coded(cuda_weight(*product.weight).type()) ? x.coded : x.plain) = 1;
  }
  const std::int64_t bytes = places_of(x).end;
  if (bytes > kMostFormedBytes) return false;
  const auto multiply = [&]<int Rows>() {
    const std::int64_t most = std::int64_t{multiprocessors()} * kLeastBlocks<Rows>;
    const FormedProducts all = table_of(products, x.rows, accumulate, multiprocessors(), most);
    const auto blocks = static_cast<unsigned>(all.first_blocks[kMostProducts]);
    if (bytes > kUsualSharedBytes) allow_shared_memory(multiply_formed_rows<Rows>);
    run({blocks, kBlockThreads, static_cast<std::size_t>(bytes)}, multiply_formed_rows<Rows>, all, x);
  };
  if (x.rows == 1) {
    multiply.template operator()<1>();
  } else if (x.rows == 2) {
    multiply.template operator()<2>();
  } else if (x.rows <= 4) {
    multiply.template operator()<4>();
  } else {
    multiply.template operator()<8>();
  }
  return true;
}

void CudaBackend::linear_of_norm(const Tensor& x, const Norm& norm, std::span<const Projection> products,
                                 const Tensor& normed) {
  const bool few = x.rows <= kSmallBatchRows;
  if (few && multiply_formed(formed_rows(Form::kNorm, x, nullptr, norm, x.cols), products, false)) return;
  Backend::linear_of_norm(x, norm, products, normed);
}

void CudaBackend::linear_of_gated_norm(const Tensor& o, const Tensor& z, const Norm& norm, std::int64_t width,
                                       const Weight& w, const Tensor& y) {
  const Projection product = {&w, y};
  const bool few = o.rows <= kSmallBatchRows;
  if (few && multiply_formed(formed_rows(Form::kGatedNorm, o, z.data, norm, width), {&product, 1}, true)) return;
  Backend::linear_of_gated_norm(o, z, norm, width, w, y);
}

void CudaBackend::linear_of_gated(const Tensor& o, const Tensor& gate, const Weight& w, const Tensor& y) {
  const Projection product = {&w, y};
  const bool few = o.rows <= kSmallBatchRows;
  if (few && multiply_formed(formed_rows(Form::kGated, o, gate.data, {}, o.cols), {&product, 1}, true)) return;
  Backend::linear_of_gated(o, gate, w, y);
}

}  // namespace lectern::engine::cuda
