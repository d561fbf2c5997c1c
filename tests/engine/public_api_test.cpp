// SPDX-License-Identifier: GPL-3.0-or-later
// Compiled with engine/include alone: whatever a user of the engine needs must be declared there.
#include <gtest/gtest.h>

#include <stop_token>
#include <string>
#include <type_traits>

#include "engine/embedder.h"
#include "engine/engine.h"
#include "engine/result.h"
#include "engine/tokenizer.h"
#include "engine/types.h"

namespace {

using namespace lectern::engine;

TEST(PublicApi, TheCpuIsAlwaysThere) {
  const std::vector<DeviceInfo> devices = list_devices();
  ASSERT_FALSE(devices.empty());
  EXPECT_EQ(devices.front().kind, DeviceKind::kCpu);
  EXPECT_TRUE(devices.front().usable);
  EXPECT_FALSE(devices.front().name.empty());
  EXPECT_GT(devices.front().memory_bytes, 0);
  for (const DeviceInfo& device : devices) EXPECT_EQ(device.usable, device.reason.empty()) << device.name;
}

TEST(PublicApi, MissingModelsAreOneSentenceWithTheirPath) {
  const std::string path = "/nonexistent/model";
  const auto engine = Engine::open(path, {});
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.error().code, ErrorCode::kNotFound);
  EXPECT_NE(engine.error().message.find(path), std::string::npos) << engine.error().message;
  const auto tokenizer = Tokenizer::load(path);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kNotFound);
  const auto embedder = Embedder::open(path, 1);
  ASSERT_FALSE(embedder.ok());
  EXPECT_EQ(embedder.error().code, ErrorCode::kNotFound);
}

TEST(PublicApi, SinksMayIgnoreEvents) {
  GenerationSink sink;
  sink.on_prefill(1, 2, 0.5);
  sink.on_text("a");
  sink.on_reasoning("b");
}

TEST(PublicApi, EnginesCannotBeCopied) {
  EXPECT_TRUE(std::has_virtual_destructor_v<Engine>);
  EXPECT_TRUE(std::has_virtual_destructor_v<Tokenizer>);
  EXPECT_TRUE(std::has_virtual_destructor_v<Embedder>);
  EXPECT_TRUE(std::is_abstract_v<Engine>);
}

}  // namespace
