// SPDX-License-Identifier: GPL-3.0-or-later
// The whole engine on a real GPU: the same answers as on the CPU, and the same again.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

class GpuEngine : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch;
    support::write_tiny_model(directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  // Empty, with a failure, if anything goes wrong.
  static std::string answer(DeviceKind device, int most_tokens, int times = 1, const std::vector<int>& gpus = {}) {
    EngineOptions options;
    options.device = device;
    options.gpus = gpus;
    options.prefill_chunk_tokens = 64;
    options.kv_type = KvType::kF32;
    auto engine = Engine::open(directory_->path(), options);
    if (!engine.ok()) {
      ADD_FAILURE() << engine.error().message;
      return {};
    }
    GenerationRequest request;
    request.messages = {{"system", "Be brief."}, {"user", "hello world, what is a hell?"}};
    request.max_new_tokens = most_tokens;
    std::string text;
    for (int i = 0; i < times; ++i) {
      GenerationSink sink;
      auto result = engine.value()->generate(request, sink, {});
      if (!result.ok()) {
        ADD_FAILURE() << result.error().message;
        return {};
      }
      text += result.value().text + "\n";
    }
    return text;
  }

  static test::Scratch* directory_;
};

test::Scratch* GpuEngine::directory_ = nullptr;

TEST_F(GpuEngine, AnswersAsTheCpuDoes) {
  const std::string expected = answer(DeviceKind::kCpu, 24);
  ASSERT_NE(expected, "");
  EXPECT_EQ(answer(DeviceKind::kCuda, 24), expected);
}

TEST_F(GpuEngine, AnswersTheSameAgain) {
  const std::string once = answer(DeviceKind::kCuda, 64);
  ASSERT_NE(once, "");
  EXPECT_EQ(answer(DeviceKind::kCuda, 64, 2), once + once);
}

TEST_F(GpuEngine, TwoGpusAnswerAsOneDoes) {
  const std::vector<DeviceInfo> devices = list_devices();
  if (devices.size() < 3 || !devices[1].usable || !devices[2].usable) GTEST_SKIP() << "There are no two GPUs.";
  if (devices[1].name != devices[2].name) GTEST_SKIP() << "The two GPUs may round differently.";
  EXPECT_EQ(answer(DeviceKind::kCuda, 64, 2, {0, 1}), answer(DeviceKind::kCuda, 64, 2, {0}));
}

}  // namespace
}  // namespace lectern::engine
