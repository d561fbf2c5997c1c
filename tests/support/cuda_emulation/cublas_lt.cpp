// SPDX-License-Identifier: GPL-3.0-or-later
// cuBLASLt in plain loops. What its documentation demands is checked: layouts that fit together, an algorithm that was
// found for just these, matrices and workspace on the device and aligned as was promised.
#include "support/cuda_emulation/cublas_lt.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "support/cuda_emulation/device_state.h"

// NOLINTBEGIN(readability-identifier-naming): NVIDIA's own names
struct cublasLtContext {};

struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  std::int32_t transpose_a = CUBLAS_OP_N;
  std::int32_t transpose_b = CUBLAS_OP_N;
};

// Column after column, `stride` numbers apart.
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  std::uint64_t rows;
  std::uint64_t cols;
  std::int64_t stride;
};

struct cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t workspace_bytes = 0;
  std::uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C, D
};
// NOLINTEND(readability-identifier-naming)

namespace lectern::engine::cuda::emulation {
namespace {

constexpr std::size_t kWorkspaceAlignment = 256;
constexpr std::size_t kWorkspaceUsed = 4096;

struct State {
  CublasBehaviour behaviour;
  CublasCounters counters;
  std::int64_t objects = 0;
  std::size_t version = 0;  // of the library that was opened last
  cublasStatus_t starting = CUBLAS_STATUS_SUCCESS;
};

State& state() {
  static State state;
  return state;
}

using Layout = cublasLtMatrixLayoutOpaque_t;

// A product of matrices that fit together.
struct Product {
  std::uint64_t rows = 0;  // of D
  std::uint64_t cols = 0;
  std::uint64_t depth = 0;
  bool transposed[2] = {false, false};
  Layout a = {};
  Layout b = {};
  Layout c = {};
  Layout d = {};
};

bool is_possible(const Layout& layout) {
  return layout.rows > 0 && layout.cols > 0 && layout.stride >= static_cast<std::int64_t>(layout.rows);
}

bool same_size(const Layout& one, const Layout& other) { return one.rows == other.rows && one.cols == other.cols; }

// False: they do not fit together, or in this form are not computed here.
bool make_product(cublasLtMatmulDesc_t operation, const Layout& a, const Layout& b, const Layout& c, const Layout& d,
                  Product& product) {
  product.transposed[0] = operation->transpose_a == CUBLAS_OP_T;
  product.transposed[1] = operation->transpose_b == CUBLAS_OP_T;
  product.a = a;
  product.b = b;
  product.c = c;
  product.d = d;
  product.rows = product.transposed[0] ? a.cols : a.rows;
  product.depth = product.transposed[0] ? a.rows : a.cols;
  product.cols = product.transposed[1] ? b.rows : b.cols;
  const std::uint64_t other_depth = product.transposed[1] ? b.cols : b.rows;
  const bool types = a.type == CUDA_R_16BF && b.type == CUDA_R_16BF && c.type == CUDA_R_32F && d.type == CUDA_R_32F &&
                     operation->compute == CUBLAS_COMPUTE_32F && operation->scale == CUDA_R_32F;
  return types && is_possible(a) && is_possible(b) && is_possible(c) && is_possible(d) &&
         product.depth == other_depth && same_size(c, d) && d.rows == product.rows && d.cols == product.cols;
}

// What an algorithm was found for: sizes, strides and alignments.
cublasLtMatmulAlgo_t algorithm_for(const Product& p, const std::uint32_t (&alignments)[4]) {
  const auto number = [](std::int64_t stride) { return static_cast<std::uint64_t>(stride); };
  return {{p.rows, p.cols, p.depth, number(p.a.stride), number(p.b.stride), number(p.c.stride), number(p.d.stride),
           alignments[0] | std::uint64_t{alignments[1]} << 16 | std::uint64_t{alignments[2]} << 32 |
               std::uint64_t{alignments[3]} << 48}};
}

bool is_for(const cublasLtMatmulAlgo_t& algorithm, const Product& p) {
  std::uint32_t alignments[4];
  for (int i = 0; i < 4; ++i) alignments[i] = static_cast<std::uint32_t>(algorithm.data[7] >> (16 * i) & 0xffffU);
  const cublasLtMatmulAlgo_t right = algorithm_for(p, alignments);
  return std::equal(std::begin(right.data), std::end(right.data), std::begin(algorithm.data));
}

// On the device, to the last number, and aligned as the algorithm was told.
bool is_there(const void* matrix, const Layout& layout, std::uint64_t alignments, int which) {
  const std::size_t number = layout.type == CUDA_R_32F ? 4 : 2;
  const std::size_t bytes = number * ((layout.cols - 1) * static_cast<std::size_t>(layout.stride) + layout.rows);
  const std::uint64_t alignment = alignments >> (16 * which) & 0xffffU;
  return reinterpret_cast<std::uintptr_t>(matrix) % alignment == 0 && context().chosen().memory.contains(matrix, bytes);
}

float bf16_at(const std::uint16_t* matrix, const Layout& layout, bool transposed, std::uint64_t row,
              std::uint64_t col) {
  const std::uint64_t stride = static_cast<std::uint64_t>(layout.stride);
  const std::uint64_t at = transposed ? row * stride + col : col * stride + row;
  return std::bit_cast<float>(std::uint32_t{matrix[at]} << 16);
}

void compute(const Product& p, float alpha, const std::uint16_t* a, const std::uint16_t* b, float beta, const float* c,
             float* d) {
  for (std::uint64_t col = 0; col < p.cols; ++col) {
    for (std::uint64_t row = 0; row < p.rows; ++row) {
      float sum = 0;
      for (std::uint64_t k = 0; k < p.depth; ++k) {
        sum += bf16_at(a, p.a, p.transposed[0], row, k) * bf16_at(b, p.b, p.transposed[1], k, col);
      }
      float result = alpha * sum;
      if (beta != 0) result += beta * c[col * static_cast<std::uint64_t>(p.c.stride) + row];
      d[col * static_cast<std::uint64_t>(p.d.stride) + row] = result;
    }
  }
}

template <class Object>
cublasStatus_t made(Object** to, Object* object) {
  ++state().objects;
  *to = object;
  return CUBLAS_STATUS_SUCCESS;
}

template <class Object>
cublasStatus_t gone(Object* object) {
  if (object == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  --state().objects;
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

template <class Value>
cublasStatus_t set(Value& to, const void* value, std::size_t bytes) {
  if (value == nullptr || bytes != sizeof(Value)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

void set_cublas(const CublasBehaviour& behaviour) {
  state().behaviour = behaviour;
  state().counters = {};
}

CublasCounters cublas_counters() { return state().counters; }

std::int64_t cublas_objects() { return state().objects; }

void* open_library(const char* name) {
  const auto found = state().behaviour.libraries.find(name);
  if (found == state().behaviour.libraries.end()) return nullptr;
  state().version = found->second.version;
  state().starting = found->second.starting;
  return &state();
}

void* library_function(void* /*library*/, const char* name) {
  const std::map<std::string, void*> functions = {
      {"cublasLtGetVersion", reinterpret_cast<void*>(cublasLtGetVersion)},
      {"cublasLtGetStatusName", reinterpret_cast<void*>(cublasLtGetStatusName)},
      {"cublasLtCreate", reinterpret_cast<void*>(cublasLtCreate)},
      {"cublasLtDestroy", reinterpret_cast<void*>(cublasLtDestroy)},
      {"cublasLtMatmulDescCreate", reinterpret_cast<void*>(cublasLtMatmulDescCreate)},
      {"cublasLtMatmulDescDestroy", reinterpret_cast<void*>(cublasLtMatmulDescDestroy)},
      {"cublasLtMatmulDescSetAttribute", reinterpret_cast<void*>(cublasLtMatmulDescSetAttribute)},
      {"cublasLtMatrixLayoutCreate", reinterpret_cast<void*>(cublasLtMatrixLayoutCreate)},
      {"cublasLtMatrixLayoutDestroy", reinterpret_cast<void*>(cublasLtMatrixLayoutDestroy)},
      {"cublasLtMatmulPreferenceCreate", reinterpret_cast<void*>(cublasLtMatmulPreferenceCreate)},
      {"cublasLtMatmulPreferenceDestroy", reinterpret_cast<void*>(cublasLtMatmulPreferenceDestroy)},
      {"cublasLtMatmulPreferenceSetAttribute", reinterpret_cast<void*>(cublasLtMatmulPreferenceSetAttribute)},
      {"cublasLtMatmulAlgoGetHeuristic", reinterpret_cast<void*>(cublasLtMatmulAlgoGetHeuristic)},
      {"cublasLtMatmul", reinterpret_cast<void*>(cublasLtMatmul)}};
  const auto found = functions.find(name);
  return found == functions.end() ? nullptr : found->second;
}

}  // namespace lectern::engine::cuda::emulation

// NOLINTBEGIN(readability-identifier-naming): NVIDIA's own names
using namespace lectern::engine::cuda::emulation;

std::size_t cublasLtGetVersion() { return state().version; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (state().starting != CUBLAS_STATUS_SUCCESS) return state().starting;
  return made(handle, new cublasLtContext);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return gone(handle); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  return made(operation, new cublasLtMatmulDescOpaque_t{compute, scale});
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) { return gone(operation); }

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  const bool is_a = attribute == CUBLASLT_MATMUL_DESC_TRANSA;
  if (!is_a && attribute != CUBLASLT_MATMUL_DESC_TRANSB) return CUBLAS_STATUS_INVALID_VALUE;
  return set(is_a ? operation->transpose_a : operation->transpose_b, value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, std::uint64_t rows,
                                          std::uint64_t cols, std::int64_t stride) {
  return made(layout, new Layout{type, rows, cols, stride});
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return gone(layout); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return made(preference, new cublasLtMatmulPreferenceOpaque_t);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return gone(preference); }

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    std::size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return set(preference->workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return set(preference->alignments[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return set(preference->alignments[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return set(preference->alignments[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return set(preference->alignments[3], value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  ++state().counters.searches;
  *count = 0;
  Product product;
  if (handle == nullptr || requested < 1 || preference->workspace_bytes < kWorkspaceUsed) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!state().behaviour.knows_algorithms || !make_product(operation, *a, *b, *c, *d, product)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  *count = 1;
  results[0] = {algorithm_for(product, preference->alignments), kWorkspaceUsed, CUBLAS_STATUS_SUCCESS, 1.0F, {}};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  ++state().counters.products;
  if (state().behaviour.products_until_failure == 0) return CUBLAS_STATUS_EXECUTION_FAILED;
  --state().behaviour.products_until_failure;
  Product product;
  if (handle == nullptr || algorithm == nullptr || workspace_bytes < kWorkspaceUsed ||
      !make_product(operation, *a_layout, *b_layout, *c_layout, *d_layout, product) || !is_for(*algorithm, product)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const std::uint64_t alignments = algorithm->data[7];
  const bool are_there = is_there(a, *a_layout, alignments, 0) && is_there(b, *b_layout, alignments, 1) &&
                         is_there(c, *c_layout, alignments, 2) && is_there(d, *d_layout, alignments, 3) &&
                         context().chosen().memory.contains(workspace, workspace_bytes) &&
                         reinterpret_cast<std::uintptr_t>(workspace) % kWorkspaceAlignment == 0;
  if (!are_there) return CUBLAS_STATUS_INVALID_VALUE;
  float factors[2];  // read now, as numbers of the host
  std::memcpy(&factors[0], alpha, sizeof(float));
  std::memcpy(&factors[1], beta, sizeof(float));
  const cudaError_t submitted = submit(stream, {WorkKind::kLaunch, 0, [=] {
                                                  std::memset(workspace, 0xff, kWorkspaceUsed);
                                                  compute(product, factors[0], static_cast<const std::uint16_t*>(a),
                                                          static_cast<const std::uint16_t*>(b), factors[1],
                                                          static_cast<const float*>(c), static_cast<float*>(d));
                                                }});
  return submitted == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
// NOLINTEND(readability-identifier-naming)
