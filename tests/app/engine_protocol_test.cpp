// SPDX-License-Identifier: GPL-3.0-or-later
// Messages arrive as they were sent; what is no message is refused without being trusted.
#include "engine_protocol.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <string>
#include <vector>

namespace lectern::app {
namespace {

constexpr std::size_t kLengthBytes = 4;

std::vector<EngineMessage> everyMessage() {
  engine::EngineOptions options;
  options.device = engine::DeviceKind::kCuda;
  options.gpus = {2, 0};
  options.threads = 3;
  options.context_tokens = 262144;
  options.kv_type = engine::KvType::kQ8;
  options.rope_factor = 4;
  options.draft_tokens = 2;
  options.memory_limit_bytes = std::int64_t{1} << 40;
  options.weights = engine::WeightPlacement::kCopied;
  options.sessions.directory = "/somewhere/else";
  options.sessions.disk_bytes = -1;
  options.gpu_experts = 12;
  engine::GenerationRequest request;
  request.messages = {{"system", ""}, {"user", std::string("What\0 is \xf0\x9f\x99\x82?", 14)}};
  request.messages[1].boundaries = {4, 8, std::int64_t{1} << 40};
  request.sampling = {0.7F, 40, 0.9F, 0.05F, 1.5F, 1.1F, std::numeric_limits<std::uint64_t>::max()};
  request.max_new_tokens = 77;
  request.thinking = true;
  request.stop_texts = {"###", ""};
  engine::ModelInfo info;
  info.name = "qwen";
  info.quantisation = "Q4_K 71 %";
  info.parameters = 80'000'000'000;
  info.has_mtp = true;
  info.memory = {.weights = 1,
                 .kv_cache = 2,
                 .state = 3,
                 .scratch = 4,
                 .sessions = 6,
                 .kept_sessions = 5,
                 .limit = 7,
                 .experts = 9,
                 .experts_on_gpu = 8,
                 .expert_staging = 10,
                 .hosted_experts = 12,
                 .locked_experts = 11,
                 .gpus = {{.gpu = 2, .layers = 3, .weights = 4, .sequences = 5, .scratch = 6, .limit = 7}, {}}};
  engine::GenerationResult result{
      "An answer.", "A thought.", engine::FinishReason::kLength, {10, 20, 5, 4, 3, 1.5, 0.25, 1e-9}};
  return {HelloMessage{7},
          OpenMessage{"/models/nano", options},
          CountMessage{1, request.messages, true},
          GenerateMessage{2, request},
          CancelMessage{std::numeric_limits<std::uint64_t>::max()},
          OpenedMessage{info},
          CountedMessage{4, 1234},
          PrefillMessage{5, 512, 1024, 0.5},
          TextMessage{6, "piece"},
          ReasoningMessage{7, ""},
          FinishedMessage{8, result},
          FailedMessage{9, {engine::ErrorCode::kDevice, "The device failed; ask again."}},
          ListDevicesMessage{},
          DevicesMessage{{{engine::DeviceKind::kCuda, "A card", 1 << 30, false, "The driver is too old."}}},
          LoadingMessage{5, 7}};
}

std::string encoded(const EngineMessage& message) { return encodeMessage(message).value(); }

TEST(EngineProtocolTest, MessagesArriveAsTheyWereSent) {
  const std::vector<EngineMessage> messages = everyMessage();
  EXPECT_EQ(messages.size(), std::variant_size_v<EngineMessage>);
  for (const EngineMessage& message : messages) {
    const std::string bytes = encoded(message);
    const auto decoded = decodeMessage(std::string_view(bytes).substr(kLengthBytes));
    ASSERT_TRUE(decoded.ok()) << message.index();
    EXPECT_EQ(decoded->index(), message.index());
    EXPECT_EQ(encoded(*decoded), bytes) << message.index();
  }
}

TEST(EngineProtocolTest, FieldsKeepTheirMeaning) {
  const auto messages = everyMessage();
  const auto decodedAs = [&messages](std::size_t index) {
    const std::string bytes = encoded(messages[index]);
    return decodeMessage(std::string_view(bytes).substr(kLengthBytes)).value();
  };
  const auto open = std::get<OpenMessage>(decodedAs(1));
  EXPECT_EQ(open.model, "/models/nano");
  EXPECT_EQ(open.options.gpus, (std::vector<int>{2, 0}));
  EXPECT_EQ(open.options.rope_factor, 4);
  EXPECT_EQ(open.options.sessions.directory, "/somewhere/else");
  EXPECT_EQ(open.options.sessions.disk_bytes, -1);
  const auto generate = std::get<GenerateMessage>(decodedAs(3));
  EXPECT_EQ(generate.generation.messages[1].content.size(), 14U);
  EXPECT_EQ(generate.generation.messages[1].boundaries, (std::vector<std::int64_t>{4, 8, std::int64_t{1} << 40}));
  EXPECT_EQ(generate.generation.sampling.repetition_penalty, 1.1F);
  EXPECT_EQ(generate.generation.sampling.seed, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(generate.generation.stop_texts, (std::vector<std::string>{"###", ""}));
  const auto finished = std::get<FinishedMessage>(decodedAs(10));
  EXPECT_EQ(finished.result.finish, engine::FinishReason::kLength);
  EXPECT_EQ(finished.result.statistics.accepted_tokens, 3);
  EXPECT_EQ(finished.result.statistics.decode_seconds, 1e-9);
  EXPECT_EQ(std::get<FailedMessage>(decodedAs(11)).error.code, engine::ErrorCode::kDevice);
}

TEST(EngineProtocolTest, AStreamMayBeCutAnywhere) {
  std::string bytes;
  const auto messages = everyMessage();
  for (const EngineMessage& message : messages) bytes += encoded(message);
  for (const std::size_t step : {std::size_t{1}, std::size_t{7}, std::size_t{64}, bytes.size()}) {
    MessageStream stream;
    std::size_t seen = 0;
    for (std::size_t at = 0; at < bytes.size(); at += step) {
      stream.append(std::string_view(bytes).substr(at, step));
      for (;;) {
        const auto next = stream.next();
        ASSERT_TRUE(next.ok());
        if (!next->has_value()) break;
        EXPECT_EQ(encoded(**next), encoded(messages[seen++]));
      }
    }
    EXPECT_EQ(seen, messages.size()) << step;
  }
}

TEST(EngineProtocolTest, ATruncatedOrLongerMessageIsRefused) {
  for (const EngineMessage& message : everyMessage()) {
    const std::string body = encoded(message).substr(kLengthBytes);
    for (std::size_t length = 0; length < body.size(); ++length) {
      EXPECT_FALSE(decodeMessage(std::string_view(body).substr(0, length)).ok()) << message.index() << " " << length;
    }
    EXPECT_FALSE(decodeMessage(body + '\0').ok());
  }
}

TEST(EngineProtocolTest, WhatIsReadInSpoiltBytesIsStillSound) {
  std::mt19937 random(1);
  for (const EngineMessage& message : everyMessage()) {
    const std::string body = encoded(message).substr(kLengthBytes);
    for (int i = 0; i < 500; ++i) {
      std::string spoilt = body;
      for (unsigned n = 0; n <= random() % 3; ++n) spoilt[random() % spoilt.size()] = static_cast<char>(random());
      const auto decoded = decodeMessage(spoilt);
      if (decoded.ok()) {
        EXPECT_EQ(encoded(*decoded).substr(kLengthBytes), spoilt);
      } else {
        EXPECT_EQ(decoded.error().code, engine::ErrorCode::kCorrupt);
      }
    }
  }
}

TEST(EngineProtocolTest, LengthsAndCountsAreNotTrusted) {
  const auto refused = [](const std::string& bytes) {
    MessageStream stream;
    stream.append(bytes);
    return !stream.next().ok();
  };
  EXPECT_TRUE(refused(std::string(4, '\0'))) << "an empty message";
  EXPECT_TRUE(refused("\xff\xff\xff\xff")) << "4 GB";
  EXPECT_TRUE(refused(std::string("\x01\x00\x00\x04", 4))) << "one byte over the limit";
  EXPECT_FALSE(refused(std::string("\x00\x00\x00\x04", 4))) << "the limit, but nothing has come yet";
  EXPECT_TRUE(refused(std::string("\x01\x00\x00\x00\x63", 5))) << "no such kind";
  EXPECT_FALSE(decodeMessage(std::string("\x02\x01\0\0\0\0\0\0\0\xff\xff\xff\x7f", 13)).ok()) << "two thousand million";
  EXPECT_FALSE(encodeMessage(TextMessage{1, std::string(kLongestEngineMessage, 'x')}).ok());
}

TEST(EngineProtocolTest, NumbersThatAreNoneAreRefused) {
  const std::string bytes = encoded(PrefillMessage{1, 2, 3, std::numeric_limits<double>::quiet_NaN()});
  EXPECT_FALSE(decodeMessage(bytes.substr(kLengthBytes)).ok());
}

}  // namespace
}  // namespace lectern::app
