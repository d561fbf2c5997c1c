// SPDX-License-Identifier: Apache-2.0
#include "cuda/library_products.h"

#include <algorithm>
#include <utility>

#include "cuda/cublas.h"
#include "cuda/cuda_backend.h"
#include "cuda/gemm.h"
#include "cuda/row_products.h"

namespace lectern::engine::cuda {
namespace {

// Below sm_90, mma.sync is how any kernel uses the matrix units, and the own kernels need no decoded weights. Whether
// the library is faster there as well has not been measured, nor how much faster it is from sm_90 on.
constexpr int kLeastLibraryMajor = 9;

constexpr std::int64_t kPanelStep = 128;  // rows of a panel: a multiple, so that the library's tiles are full
constexpr unsigned kDecodeThreads = 256;
constexpr int kPieces = 4;  // of 16 bytes in a group of BF16

// A place in shared memory so that neither the pieces of one group nor one piece of eight groups meet in a bank.
__device__ inline int mixed(int piece) { return piece ^ (piece / (2 * kPieces) % kPieces); }

// Rows `first` and following of w in BF16, `groups` groups in all, without gaps: a thread decodes a group, and the
// block writes those of its threads in order.
template <DType Type>
__global__ void __launch_bounds__(kDecodeThreads)
    decode_panel(DeviceMatrix w, std::int32_t first, std::int32_t groups, std::int32_t row_groups, uint4* to) {
  __shared__ uint4 pieces[kPieces * kDecodeThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int block_first = static_cast<int>(kDecodeThreads * blockIdx.x);
  const int at = block_first + thread;
  if (at < groups) {
    const std::int64_t row = first + at / row_groups;
    const int group = at % row_groups;
    StoredRow stored = {};
    GroupFactors factors = {};
    if constexpr (kIsCoded<Type>) stored = stored_row<Type>(w, row);
    const RawTilePart<Type> raw = load_tile_part<Type>(w, stored, row, group);
    if constexpr (kIsCoded<Type>) factors = expand_factors<Type>(raw, group);
    pieces[mixed(kPieces * thread)] = decode_piece<Type, 0>(raw, factors);
    pieces[mixed(kPieces * thread + 1)] = decode_piece<Type, 1>(raw, factors);
    pieces[mixed(kPieces * thread + 2)] = decode_piece<Type, 2>(raw, factors);
    pieces[mixed(kPieces * thread + 3)] = decode_piece<Type, 3>(raw, factors);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int piece = i * static_cast<int>(kDecodeThreads) + thread;
    if (block_first + piece / kPieces < groups) to[std::int64_t{kPieces} * block_first + piece] = pieces[mixed(piece)];
  }
}

// Of BF16 weights rows are what is stored, of others whole groups.
std::int64_t library_depth(const CudaWeight& w) {
  if (w.type() == DType::kBF16) return w.matrix().row_bytes / 2;
  return (w.cols() + kGroup - 1) / kGroup * kGroup;
}

// Rows of a weight multiplied at a time; 0: they do not fit.
std::int64_t rows_of_panel(const CudaWeight& w, const LibraryLimits& limits) {
  if (w.type() == DType::kBF16) return w.rows();
  const std::int64_t fitting = limits.panel_bytes / 2 / library_depth(w) / kPanelStep * kPanelStep;
  return std::min(w.rows(), fitting);
}

std::int64_t alignment_of(const float* y) {
  const auto address = reinterpret_cast<std::uintptr_t>(y);
  return address % 16 == 0 ? 16 : address % 8 == 0 ? 8 : 4;
}

}  // namespace

bool CudaBackend::use_library(const LibraryLimits& limits) {
  Result<std::unique_ptr<Cublas>> opened = Cublas::open();
  if (!opened.ok()) {
    why_own_products_ = opened.error().message;
    return false;
  }
  library_ = std::move(opened).value();
  library_limits_ = limits;
  return true;
}

void CudaBackend::use_fastest_products() {
  if (properties_.major >= kLeastLibraryMajor) {
    use_library({});
  } else {
    why_own_products_ = "chosen for this kind of GPU";
  }
}

void CudaBackend::use_own_products() {
  cudaStreamSynchronize(stream_);
  library_.reset();
  why_own_products_ = "as asked for";
}

std::string CudaBackend::dense_products() const {
  return library_ != nullptr ? library_->name() : "own kernels (" + why_own_products_ + ")";
}

bool CudaBackend::multiply_by_library(const LibraryRows& x, const CudaWeight& w, bool accumulate, const Tensor& y) {
  // Remembered passes are small, and what they queue must be comparable.
  if (library_ == nullptr || remembers_calls()) return false;
  if (x.rows < library_limits_.rows || w.rows() * w.cols() < library_limits_.numbers) return false;
  const std::int64_t panel = rows_of_panel(w, library_limits_);
  if (panel == 0) return false;
  const std::int64_t depth = library_depth(w);
  const LibraryProduct whole = {x.rows, panel, depth, x.stride, depth, w.rows(), alignment_of(y.data)};
  LibraryProduct last = whole;
  if (w.rows() % panel != 0) last.outputs = w.rows() % panel;
  if (!library_->knows(whole) || !library_->knows(last)) return false;
  choose_device();
  Workspace workspace(*this);
  void* const work = workspace.take<std::byte>(Cublas::kWorkspaceBytes);
  std::uint16_t* const decoded = w.type() == DType::kBF16 ? nullptr : workspace.take<std::uint16_t>(panel * depth);
  for (std::int64_t first = 0; first < w.rows(); first += panel) {
    const LibraryProduct& shape = first + panel <= w.rows() ? whole : last;
    const std::uint16_t* weights = decoded;
    if (decoded != nullptr) {
      decode_rows(w, first, shape.outputs, decoded);
    } else {
      weights = reinterpret_cast<const std::uint16_t*>(w.matrix().codes);
    }
    for (int part = 0; part < x.parts && !failure_; ++part) {
      const char* const reason = library_->multiply(shape, x.data + part * x.rows * x.stride, weights,
                                                    accumulate || part > 0, y.data + first, work, stream_);
      if (reason != nullptr) fail("A product by " + library_->name(), reason);
    }
  }
  return true;
}

void CudaBackend::decode_rows(const CudaWeight& w, std::int64_t first, std::int64_t rows, std::uint16_t* to) {
  const auto row_groups = static_cast<std::int32_t>(library_depth(w) / kGroup);
  const auto groups = static_cast<std::int32_t>(rows * row_groups);
  with_type(w.type(), [&]<DType Type>() {
    if constexpr (Type != DType::kF32 && Type != DType::kBF16) {
      run({quotient_up(groups, kDecodeThreads), kDecodeThreads}, decode_panel<Type>, w.matrix(),
          static_cast<std::int32_t>(first), groups, row_groups, reinterpret_cast<uint4*>(to));
    }
  });
}

}  // namespace lectern::engine::cuda

namespace lectern::engine {

std::int64_t library_working_bytes(const LibraryLimits& limits) {
  return cuda::Cublas::kWorkspaceBytes + limits.panel_bytes + 2 * cuda::kAlignment;
}

bool use_library_products(Backend& backend, const LibraryLimits& limits) {
  return static_cast<cuda::CudaBackend&>(backend).use_library(limits);
}

void use_own_products(Backend& backend) { static_cast<cuda::CudaBackend&>(backend).use_own_products(); }

}  // namespace lectern::engine
