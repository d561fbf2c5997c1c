// SPDX-License-Identifier: Apache-2.0
#include "cuda/cublas.h"

#include <map>
#include <type_traits>
#include <utility>

#include "cuda/cublas_platform.h"

namespace lectern::engine::cuda {

#if LECTERN_HAS_CUBLAS
namespace {

// The newest first. One that is newer than the driver cannot be used, an older one beside it perhaps can.
constexpr const char* kLibraries[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
constexpr std::size_t kOldestVersion = 120000;  // 12.0.0: what is used here has been the same since

// Shapes whose ways are remembered: those of all matrices for some lengths of what is read at once.
constexpr std::size_t kMostPlans = 1024;

struct Functions {
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtGetStatusName) status_name = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmulDescCreate) create_operation = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroy_operation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) find_algorithms = nullptr;
  decltype(&cublasLtMatmul) multiply = nullptr;
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(library_function(library, name));
  return function != nullptr;
}

bool find_all(void* library, Functions& f) {
  return find(library, "cublasLtGetVersion", f.version) && find(library, "cublasLtGetStatusName", f.status_name) &&
         find(library, "cublasLtCreate", f.create) && find(library, "cublasLtDestroy", f.destroy) &&
         find(library, "cublasLtMatmulDescCreate", f.create_operation) &&
         find(library, "cublasLtMatmulDescDestroy", f.destroy_operation) &&
         find(library, "cublasLtMatmulDescSetAttribute", f.set_operation) &&
         find(library, "cublasLtMatrixLayoutCreate", f.create_layout) &&
         find(library, "cublasLtMatrixLayoutDestroy", f.destroy_layout) &&
         find(library, "cublasLtMatmulPreferenceCreate", f.create_preference) &&
         find(library, "cublasLtMatmulPreferenceDestroy", f.destroy_preference) &&
         find(library, "cublasLtMatmulPreferenceSetAttribute", f.set_preference) &&
         find(library, "cublasLtMatmulAlgoGetHeuristic", f.find_algorithms) &&
         find(library, "cublasLtMatmul", f.multiply);
}

// What the library made, and its function that takes it back.
template <class Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, cublasStatus_t (*)(Handle)>;

template <class Handle>
Owned<Handle> nothing() {
  return {nullptr, nullptr};
}

// How the products of a shape are computed.
struct Plan {
  Owned<cublasLtMatrixLayout_t> w = nothing<cublasLtMatrixLayout_t>();
  Owned<cublasLtMatrixLayout_t> x = nothing<cublasLtMatrixLayout_t>();
  Owned<cublasLtMatrixLayout_t> y = nothing<cublasLtMatrixLayout_t>();
  cublasLtMatmulAlgo_t algorithm = {};
  bool usable = false;
};

}  // namespace

// The library thinks in columns: row-major x, w and y are to it their transposes, and it computes y^T = w x^T.
struct Cublas::Api {
  Functions f;
  Owned<cublasLtHandle_t> handle = nothing<cublasLtHandle_t>();
  Owned<cublasLtMatmulDesc_t> operation = nothing<cublasLtMatmulDesc_t>();
  Owned<cublasLtMatmulPreference_t> preference = nothing<cublasLtMatmulPreference_t>();
  std::map<LibraryProduct, Plan> plans;

  cublasStatus_t prepare();
  cublasStatus_t prefer(cublasLtMatmulPreferenceAttributes_t attribute, std::int64_t value);
  Owned<cublasLtMatrixLayout_t> layout(cudaDataType_t type, std::int64_t rows, std::int64_t cols,
                                       std::int64_t stride) const;
  Plan make_plan(const LibraryProduct& shape);
  const Plan& plan(const LibraryProduct& shape);
};

// What all products have in common.
cublasStatus_t Cublas::Api::prepare() {
  cublasLtHandle_t made = nullptr;
  if (const cublasStatus_t code = f.create(&made); code != CUBLAS_STATUS_SUCCESS) return code;
  handle = {made, f.destroy};
  cublasLtMatmulDesc_t made_operation = nullptr;
  cublasStatus_t code = f.create_operation(&made_operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  if (code != CUBLAS_STATUS_SUCCESS) return code;
  operation = {made_operation, f.destroy_operation};
  const cublasOperation_t transposed = CUBLAS_OP_T;
  code = f.set_operation(operation.get(), CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
  if (code != CUBLAS_STATUS_SUCCESS) return code;
  cublasLtMatmulPreference_t made_preference = nullptr;
  code = f.create_preference(&made_preference);
  if (code != CUBLAS_STATUS_SUCCESS) return code;
  preference = {made_preference, f.destroy_preference};
  const auto bytes = static_cast<std::uint64_t>(kWorkspaceBytes);
  return f.set_preference(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
}

cublasStatus_t Cublas::Api::prefer(cublasLtMatmulPreferenceAttributes_t attribute, std::int64_t value) {
  const auto number = static_cast<std::uint32_t>(value);
  return f.set_preference(preference.get(), attribute, &number, sizeof number);
}

Owned<cublasLtMatrixLayout_t> Cublas::Api::layout(cudaDataType_t type, std::int64_t rows, std::int64_t cols,
                                                  std::int64_t stride) const {
  cublasLtMatrixLayout_t made = nullptr;
  const cublasStatus_t code =
      f.create_layout(&made, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols), stride);
  return {code == CUBLAS_STATUS_SUCCESS ? made : nullptr, f.destroy_layout};
}

Plan Cublas::Api::make_plan(const LibraryProduct& shape) {
  constexpr std::int64_t kInputAlignment = 16;
  Plan plan;
  plan.w = layout(CUDA_R_16BF, shape.depth, shape.outputs, shape.w_stride);
  plan.x = layout(CUDA_R_16BF, shape.depth, shape.rows, shape.x_stride);
  plan.y = layout(CUDA_R_32F, shape.outputs, shape.rows, shape.y_stride);
  if (plan.w == nullptr || plan.x == nullptr || plan.y == nullptr) return plan;
  const std::pair<cublasLtMatmulPreferenceAttributes_t, std::int64_t> alignments[] = {
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kInputAlignment},
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kInputAlignment},
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.y_alignment},
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.y_alignment}};
  for (const auto& [attribute, bytes] : alignments) {
    if (prefer(attribute, bytes) != CUBLAS_STATUS_SUCCESS) return plan;
  }
  // The one it expects to be the fastest. One algorithm gives the same bits again: parts of divided sums are added up
  // in sequence or in a step of their own.
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const cublasStatus_t code = f.find_algorithms(handle.get(), operation.get(), plan.w.get(), plan.x.get(), plan.y.get(),
                                                plan.y.get(), preference.get(), 1, &found, &count);
  plan.usable = code == CUBLAS_STATUS_SUCCESS && count == 1 && found.state == CUBLAS_STATUS_SUCCESS &&
                found.workspaceSize <= static_cast<std::size_t>(kWorkspaceBytes);
  plan.algorithm = found.algo;
  return plan;
}

const Plan& Cublas::Api::plan(const LibraryProduct& shape) {
  const auto known = plans.find(shape);
  if (known != plans.end()) return known->second;
  if (plans.size() >= kMostPlans) plans.clear();
  return plans.emplace(shape, make_plan(shape)).first->second;
}

Cublas::Cublas(std::unique_ptr<Api> api) : api_(std::move(api)) {
  const std::size_t version = api_->f.version();
  name_ = "cuBLASLt " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
          std::to_string(version % 100);
}

Result<std::unique_ptr<Cublas>> Cublas::open() {
  std::string why;
  for (const char* name : kLibraries) {
    void* const library = open_library(name);
    if (library == nullptr) continue;
    auto api = std::make_unique<Api>();
    if (!find_all(library, api->f) || api->f.version() < kOldestVersion) continue;
    const cublasStatus_t code = api->prepare();
    if (code == CUBLAS_STATUS_SUCCESS) return std::unique_ptr<Cublas>(new Cublas(std::move(api)));
    if (why.empty()) why = std::string(name) + " does not start (" + api->f.status_name(code) + ")";
  }
  if (why.empty()) why = "no libcublasLt of CUDA 12 or newer was found";
  return Error{ErrorCode::kUnsupported, why};
}

Cublas::~Cublas() = default;

bool Cublas::knows(const LibraryProduct& shape) { return api_->plan(shape).usable; }

const char* Cublas::multiply(const LibraryProduct& shape, const std::uint16_t* x, const std::uint16_t* w,
                             bool accumulate, float* y, void* workspace, cudaStream_t stream) {
  const Plan& plan = api_->plan(shape);
  const float alpha = 1.0F;
  const float beta = accumulate ? 1.0F : 0.0F;
  const cublasStatus_t code = api_->f.multiply(api_->handle.get(), api_->operation.get(), &alpha, w, plan.w.get(), x,
                                               plan.x.get(), &beta, y, plan.y.get(), y, plan.y.get(), &plan.algorithm,
                                               workspace, static_cast<std::size_t>(kWorkspaceBytes), stream);
  return code == CUBLAS_STATUS_SUCCESS ? nullptr : api_->f.status_name(code);
}

#else

struct Cublas::Api {};

Cublas::Cublas(std::unique_ptr<Api> api) : api_(std::move(api)) {}
Cublas::~Cublas() = default;

Result<std::unique_ptr<Cublas>> Cublas::open() {
  return Error{ErrorCode::kUnsupported, "this build was made without cublasLt.h"};
}

bool Cublas::knows(const LibraryProduct& /*shape*/) { return false; }

const char* Cublas::multiply(const LibraryProduct& /*shape*/, const std::uint16_t* /*x*/, const std::uint16_t* /*w*/,
                             bool /*accumulate*/, float* /*y*/, void* /*workspace*/, cudaStream_t /*stream*/) {
  return "this build was made without cublasLt.h";
}

#endif

}  // namespace lectern::engine::cuda
