// SPDX-License-Identifier: GPL-3.0-or-later
// When the CUDA backend uses cuBLASLt and how, on the emulation of both.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/library_products.h"
#include "support/backend_fixture.h"
#include "support/cuda_emulation/cublas_lt.h"
#include "support/cuda_emulation/cuda_emulation.h"

namespace lectern::engine {
namespace {

using oracle::Matrix;
using support::HeldWeight;
using support::Numbers;
namespace emulation = cuda::emulation;

constexpr std::int64_t kDepth = 64;
constexpr LibraryLimits kSmall = {33, 64 * kDepth, 2 * 128 * kDepth};

class CudaCublas : public support::BackendTest {
 protected:
  void TearDown() override {
    BackendTest::TearDown();
    backend_.reset();
    EXPECT_EQ(emulation::cublas_objects(), 0);
    emulation::reset();
  }

  // A backend on a computer with these libraries.
  void open(const emulation::CublasBehaviour& behaviour, const DeviceMemory& memory = {}) {
    backend_.reset();
    emulation::set_cublas(behaviour);
    auto made = make_cuda_backend(0, memory);
    ASSERT_TRUE(made.ok()) << made.error().message;
    backend_ = std::move(made).value();
  }

  // How many products of the library make one, which must be right.
  std::int64_t products(std::int64_t rows, std::int64_t cols, DType type) {
    const std::int64_t before = emulation::cublas_counters().products;
    const HeldWeight w = random_weight(cols, kDepth, type);
    const Matrix inputs = random(rows, kDepth);
    Numbers x(*backend_, inputs);
    Numbers y(*backend_, rows, cols);
    backend_->linear(x.tensor(), *w.handle, false, y.tensor());
    y.expect(oracle::linear(inputs, w.values), oracle::kRoundedProduct);
    return emulation::cublas_counters().products - before;
  }
};

INSTANTIATE_TEST_SUITE_P(Late, CudaCublas, ::testing::Values(support::backend_kinds().back()), support::kind_name);

TEST_P(CudaCublas, HopperUsesItWhereItIs) {
  EXPECT_EQ(backend_->dense_products(), "cuBLASLt 13.1.0");
  open({.libraries = {{"libcublasLt.so", {120604}}}});
  EXPECT_EQ(backend_->dense_products(), "cuBLASLt 12.6.4");
  use_own_products(*backend_);
  EXPECT_EQ(backend_->dense_products(), "own kernels (as asked for)");
}

TEST_P(CudaCublas, OlderGpusUseOwnKernelsUnlessAsked) {
  backend_.reset();
  emulation::reset();
  emulation::set_device({.major = 8, .minor = 9});
  open({});
  EXPECT_EQ(backend_->dense_products(), "own kernels (chosen for this kind of GPU)");
  EXPECT_EQ(emulation::cublas_objects(), 0);
  EXPECT_TRUE(use_library_products(*backend_));
  EXPECT_EQ(backend_->dense_products(), "cuBLASLt 13.1.0");
}

TEST_P(CudaCublas, ALibraryThatDoesNotStartLeavesTheNextOrOwnKernels) {
  const emulation::CublasLibrary broken = {130100, CUBLAS_STATUS_NOT_INITIALIZED};
  open({.libraries = {{"libcublasLt.so.13", broken}, {"libcublasLt.so.12", {120400}}}});
  EXPECT_EQ(backend_->dense_products(), "cuBLASLt 12.4.0");
  open({.libraries = {{"libcublasLt.so.13", broken}}});
  EXPECT_EQ(backend_->dense_products(),
            "own kernels (libcublasLt.so.13 does not start (CUBLAS_STATUS_NOT_INITIALIZED))");
  EXPECT_FALSE(use_library_products(*backend_, kSmall));
  EXPECT_EQ(products(40, 70, DType::kQ8_0), 0);
  open({.libraries = {{"libcublasLt.so", {110900}}}});
  EXPECT_EQ(backend_->dense_products(), "own kernels (no libcublasLt of CUDA 12 or newer was found)");
  EXPECT_EQ(products(40, 70, DType::kBF16), 0);
}

TEST_P(CudaCublas, OnlyLargeProductsGoThere) {
  ASSERT_TRUE(use_library_products(*backend_, kSmall));
  EXPECT_EQ(products(33, 64, DType::kF16), 1);
  EXPECT_EQ(products(33, 63, DType::kF16), 0);
  EXPECT_EQ(products(32, 64, DType::kF16), 0);
  EXPECT_EQ(products(33, 128, DType::kF16), 1);
  EXPECT_EQ(products(33, 129, DType::kF16), 2);   // panels
  EXPECT_EQ(products(33, 300, DType::kBF16), 2);  // parts; there is nothing to decode
  EXPECT_EQ(products(33, 70, DType::kF32), 0);    // floats stay floats
  ASSERT_TRUE(use_library_products(*backend_, {33, 1, 2 * 127 * kDepth}));
  EXPECT_EQ(products(33, 129, DType::kF16), 0);  // no panel fits
}

TEST_P(CudaCublas, AShapeIsAskedForOnce) {
  ASSERT_TRUE(use_library_products(*backend_, kSmall));
  EXPECT_EQ(products(33, 129, DType::kF16), 2);
  const std::int64_t searches = emulation::cublas_counters().searches;
  EXPECT_EQ(searches, 2);
  EXPECT_EQ(products(33, 129, DType::kF16), 2);
  EXPECT_EQ(emulation::cublas_counters().searches, searches);
}

TEST_P(CudaCublas, ShapesItDoesNotKnowStayWithOwnKernels) {
  open({.knows_algorithms = false});
  ASSERT_TRUE(use_library_products(*backend_, kSmall));
  EXPECT_EQ(products(33, 70, DType::kF16), 0);
  EXPECT_EQ(products(33, 70, DType::kF16), 0);
  EXPECT_EQ(emulation::cublas_counters().searches, 1);
}

TEST_P(CudaCublas, AFailedProductIsAnErrorOfTheDevice) {
  emulation::set_cublas({.products_until_failure = 1});
  ASSERT_TRUE(use_library_products(*backend_, kSmall));
  {
    const HeldWeight w = random_weight(300, kDepth, DType::kF16);
    Numbers x(*backend_, random(40, kDepth));
    Numbers y(*backend_, 40, 300);
    backend_->linear(x.tensor(), *w.handle, false, y.tensor());
  }
  const Result<void> status = backend_->status();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kDevice);
  EXPECT_NE(status.error().message.find("A product by cuBLASLt 13.1.0 on the GPU "), std::string::npos);
  EXPECT_NE(status.error().message.find("failed (CUBLAS_STATUS_EXECUTION_FAILED); the model must be opened again"),
            std::string::npos);
  EXPECT_EQ(emulation::cublas_counters().products, 2);  // none after it
  open({});                                             // one that has not failed, for the end of the test
}

TEST_P(CudaCublas, RememberedPassesUseOwnKernels) {
  ASSERT_TRUE(use_library_products(*backend_, kSmall));
  const HeldWeight w = random_weight(70, kDepth, DType::kF16);
  const Matrix inputs = random(40, kDepth);
  Numbers x(*backend_, inputs);
  Numbers y(*backend_, 40, 70);
  const std::uint64_t key[] = {1};
  for (int pass = 0; pass < 3; ++pass) {
    backend_->begin_pass(key);
    backend_->linear(x.tensor(), *w.handle, false, y.tensor());
    ASSERT_TRUE(backend_->end_pass().ok());
  }
  y.expect(oracle::linear(inputs, w.values), oracle::kRoundedProduct);
  EXPECT_EQ(emulation::cublas_counters().products, 0);
}

TEST_P(CudaCublas, TakesThePlannedMemoryAndNoMore) {
  constexpr std::int64_t kActivations = 40 * kDepth * 2;
  const DeviceMemory memory = {1 << 20, 1 << 20, library_working_bytes(kSmall) + kActivations + 256};
  open({}, memory);
  ASSERT_TRUE(use_library_products(*backend_, kSmall));
  const std::int64_t before = emulation::counters().allocations;
  EXPECT_EQ(products(40, 300, DType::kF16), 3);
  EXPECT_LE(emulation::counters().allocations, before + 3);  // of the way of weights to the device
  EXPECT_GT(backend_->most_memory().scratch, library_working_bytes(kSmall) - 1024);
}

}  // namespace
}  // namespace lectern::engine
