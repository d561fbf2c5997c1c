// SPDX-License-Identifier: GPL-3.0-or-later
// How many launches a token takes: between two of them a GPU does nothing for about as long as a layer needs for its
// bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "support/backend_kind.h"
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

}  // namespace
}  // namespace lectern::engine
