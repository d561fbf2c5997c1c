// SPDX-License-Identifier: GPL-3.0-or-later
// How many launches a token takes: between two of them a GPU does nothing for about as long as a layer needs for its
// bytes.
#include <gtest/gtest.h>

#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "support/backend_fixture.h"
#include "support/cuda_emulation/cuda_emulation.h"
#include "support/load_transformer.h"
#include "support/scratch.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kOfDeltaNet = 7;
constexpr std::int64_t kOfAttention = 8;
constexpr std::int64_t kOfToken = 3;  // embedding, final norm, head

class CudaLaunches : public ::testing::Test {
 protected:
  CudaLaunches() {
    golden::write_model(golden::directory() / "models" / "tiny", directory_.path());
    auto model = support::load_transformer(directory_.path(), *backend_, 64);
    EXPECT_TRUE(model.ok());
    model_ = std::move(model).value();
  }

  // Of a pass that reads `rows` tokens behind some others.
  std::int64_t launches(std::int64_t rows, bool tentative) {
    SequenceState state = model_->new_sequence({}).value();
    std::vector<TokenId> tokens(static_cast<std::size_t>(rows), 7);
    std::vector<float> logits(static_cast<std::size_t>(model_->config().vocabulary));
    EXPECT_TRUE(model_->forward(state, std::vector<TokenId>(20, 3), {}).ok());
    const std::int64_t before = cuda::emulation::counters().launches;
    const Reading reading = {&state, tokens, {1, logits, {}}, tentative};
    EXPECT_TRUE(model_->advance({&reading, 1}).ok());
    return cuda::emulation::counters().launches - before;
  }

  std::int64_t budget() const {
    std::int64_t sum = kOfToken;
    for (const LayerWeights& layer : model_->weights().layers) sum += layer.delta ? kOfDeltaNet : kOfAttention;
    return sum;
  }

  test::Scratch directory_;
  std::unique_ptr<Backend> backend_ = support::test_backend();
  std::unique_ptr<Transformer> model_;
};

TEST_F(CudaLaunches, ATokenTakesFew) { EXPECT_LE(launches(1, false), budget()); }

TEST_F(CudaLaunches, ABatchTakesNoMore) {
  EXPECT_LE(launches(2, false), budget());
  EXPECT_LE(launches(kSmallBatchRows, false), budget());
  EXPECT_LE(launches(4, true), budget());
}

class FusedLaunches : public support::BackendTest {};

INSTANTIATE_TEST_SUITE_P(Kinds, FusedLaunches, ::testing::ValuesIn(support::backend_kinds()), support::kind_name);

TEST_P(FusedLaunches, ProductsOfAnyTypesTakeOne) {
  const support::HeldWeight weights[] = {random_weight(40, 256, DType::kQ4K), random_weight(20, 256, DType::kQ6K),
                                         random_weight(8, 256, DType::kQ8_0), random_weight(3, 256, DType::kBF16)};
  const Norm norm = {on_device(random_list(256, 0.5, 1.0)), 1e-6F};
  for (std::int64_t rows = 1; rows <= kSmallBatchRows; ++rows) {
    support::Numbers x(*backend_, random(rows, 256));
    support::Numbers normed(*backend_, rows, 256);
    std::vector<support::Numbers> results;
    std::vector<Projection> products;
    results.reserve(std::size(weights));
    for (const support::HeldWeight& w : weights) {
      products.push_back({w.handle.get(), results.emplace_back(*backend_, rows, w.handle->rows()).tensor()});
    }
    EXPECT_TRUE(backend_->status().ok());  // waits, so that earlier work is counted
    const std::int64_t before = cuda::emulation::counters().launches;
    backend_->linear_of_norm(x.tensor(), norm, products, normed.tensor());
    EXPECT_TRUE(backend_->status().ok());
    EXPECT_EQ(cuda::emulation::counters().launches - before, 1) << rows << " rows";
  }
}

}  // namespace
}  // namespace lectern::engine
