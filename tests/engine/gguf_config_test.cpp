// SPDX-License-Identifier: GPL-3.0-or-later
#include "model/gguf_config.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "support/gguf_bytes.h"

namespace lectern::engine {
namespace {

using support::GgufBytes;

// The keys of a Qwen3-Next model of four layers, with three tokens.
GgufBytes tiny() {
  GgufBytes file;
  file.string("general.architecture", "qwen3next");
  const std::pair<const char*, std::uint32_t> numbers[] = {{"block_count", 4},
                                                           {"context_length", 4096},
                                                           {"embedding_length", 8},
                                                           {"feed_forward_length", 24},
                                                           {"attention.head_count", 4},
                                                           {"attention.head_count_kv", 2},
                                                           {"attention.key_length", 16},
                                                           {"attention.value_length", 16},
                                                           {"rope.dimension_count", 4},
                                                           {"expert_count", 6},
                                                           {"expert_used_count", 2},
                                                           {"expert_feed_forward_length", 12},
                                                           {"expert_shared_feed_forward_length", 14},
                                                           {"ssm.conv_kernel", 4},
                                                           {"ssm.state_size", 5},
                                                           {"ssm.group_count", 2},
                                                           {"ssm.time_step_rank", 6},
                                                           {"ssm.inner_size", 42},
                                                           {"full_attention_interval", 2}};
  for (const auto& [key, value] : numbers) file.u32("qwen3next." + std::string(key), value);
  file.number("qwen3next.attention.layer_norm_rms_epsilon", 1e-5F).number("qwen3next.rope.freq_base", 5e6F);
  return file.f32("token_embd.weight", {8, 3}).f32("output.weight", {8, 3});
}

Result<ModelConfig> read(const GgufBytes& builder) {
  const std::string file = builder.bytes();
  const auto content = parse_gguf(std::as_bytes(std::span(file.data(), file.size())), "model.gguf");
  EXPECT_TRUE(content.ok()) << content.error().message;
  return content.ok() ? read_gguf_config(*content) : content.error();
}

ModelConfig accepted(const GgufBytes& builder) {
  const auto config = read(builder);
  EXPECT_TRUE(config.ok()) << config.error().message;
  return config.ok() ? *config : ModelConfig();
}

void expect_refused(const GgufBytes& builder, ErrorCode code, std::string_view words) {
  const auto config = read(builder);
  ASSERT_FALSE(config.ok()) << words;
  EXPECT_EQ(config.error().code, code) << config.error().message;
  EXPECT_TRUE(config.error().message.starts_with("model.gguf: ")) << config.error().message;
  EXPECT_NE(config.error().message.find(words), std::string::npos) << config.error().message;
}

constexpr LayerKind kDelta = LayerKind::kDeltaNet;
constexpr LayerKind kFull = LayerKind::kAttention;

TEST(GgufConfig, ReadsQwen3Next) {
  const ModelConfig config = accepted(tiny());
  EXPECT_EQ(config.architecture, "qwen3_next");
  EXPECT_TRUE(config.output_gate);
  EXPECT_EQ(config.hidden_size, 8);
  EXPECT_EQ(config.vocabulary, 3);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.context_tokens, 4096);
  EXPECT_EQ(config.layers, (std::vector<LayerKind>{kDelta, kFull, kDelta, kFull}));
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-5F);
  EXPECT_EQ(config.attention.query_heads, 4);
  EXPECT_EQ(config.attention.kv_heads, 2);
  EXPECT_EQ(config.attention.head_dim, 16);
  EXPECT_EQ(config.rotary_dims, 4);
  EXPECT_EQ(config.rope_theta, 5e6);
  EXPECT_EQ(config.yarn.factor, 1);
  EXPECT_EQ(config.delta.key_heads, 2);
  EXPECT_EQ(config.delta.value_heads, 6);
  EXPECT_EQ(config.delta.key_dim, 5);
  EXPECT_EQ(config.delta.value_dim, 7);
  EXPECT_EQ(config.conv_taps, 4);
  EXPECT_EQ(config.experts, 6);
  EXPECT_EQ(config.experts_per_token, 2);
  EXPECT_EQ(config.expert_width, 12);
  EXPECT_EQ(config.shared_expert_width, 14);
  EXPECT_EQ(config.dense_width, 0);
  EXPECT_TRUE(config.normalise_top_k);
}

TEST(GgufConfig, ReadsTheRelatives) {
  const auto relative = [](const std::string& name) {
    GgufBytes file;
    file.string("general.architecture", name);
    for (const char* key : {"context_length", "attention.head_count", "attention.head_count_kv", "embedding_length",
                            "feed_forward_length", "expert_feed_forward_length", "expert_count"}) {
      file.u32(name + "." + key, 8);
    }
    file.u32(name + ".block_count", 2).u32(name + ".attention.key_length", 6).u32(name + ".expert_used_count", 2);
    file.number(name + ".attention.layer_norm_rms_epsilon", 1e-6F).number(name + ".rope.freq_base", 1e6F);
    return file.f32("token_embd.weight", {8, 3});
  };
  const ModelConfig dense = accepted(relative("qwen3"));
  EXPECT_EQ(dense.architecture, "qwen3");
  EXPECT_FALSE(dense.output_gate);
  EXPECT_TRUE(dense.tied_embeddings);
  EXPECT_EQ(dense.layers, (std::vector<LayerKind>{kFull, kFull}));
  EXPECT_EQ(dense.rotary_dims, 6) << "the whole head without rope.dimension_count";
  EXPECT_EQ(dense.dense_width, 8);
  EXPECT_EQ(dense.experts, 0);
  const ModelConfig sparse = accepted(relative("qwen3moe"));
  EXPECT_EQ(sparse.architecture, "qwen3_moe");
  EXPECT_EQ(sparse.dense_width, 0);
  EXPECT_EQ(sparse.experts, 8);
  EXPECT_EQ(sparse.shared_expert_width, 0);
  expect_refused(relative("qwen3").u32("qwen3.feed_forward_length", 0), ErrorCode::kCorrupt,
                 "feed_forward_length is 0");
}

TEST(GgufConfig, BlocksOfMultiTokenPredictionAreNotLayers) {
  EXPECT_EQ(accepted(tiny().u32("qwen3next.block_count", 5).u32("qwen3next.nextn_predict_layers", 1)).layers,
            (std::vector<LayerKind>{kDelta, kFull, kDelta, kFull}));
  expect_refused(tiny().u32("qwen3next.nextn_predict_layers", 4), ErrorCode::kCorrupt, "nextn_predict_layers is 4");
  expect_refused(tiny().number<std::int32_t>("qwen3next.nextn_predict_layers", -1), ErrorCode::kCorrupt,
                 "nextn_predict_layers is -1");
}

TEST(GgufConfig, LayerKindsFromAListOrAnInterval) {
  constexpr const char* kList = "qwen3next.attention.recurrent_layers";
  EXPECT_EQ(accepted(tiny().numbers<bool>(kList, {true, true, false, true})).layers,
            (std::vector<LayerKind>{kDelta, kDelta, kFull, kDelta}));
  EXPECT_EQ(accepted(tiny().without("qwen3next.full_attention_interval")).layers,
            (std::vector<LayerKind>{kDelta, kDelta, kDelta, kFull}))
      << "every fourth";
  const auto prediction = tiny().u32("qwen3next.nextn_predict_layers", 1);
  EXPECT_EQ(accepted(GgufBytes(prediction).numbers<bool>(kList, {true, true, false, false})).layers,
            (std::vector<LayerKind>{kDelta, kDelta, kFull}));
  EXPECT_EQ(accepted(GgufBytes(prediction).numbers<bool>(kList, {true, true, false})).layers.size(), 3U);
  expect_refused(tiny().numbers<bool>(kList, {true, true, false}), ErrorCode::kCorrupt, "an array of 3");
  expect_refused(tiny().numbers<bool>(kList, {}), ErrorCode::kCorrupt, "an array of 0");
  expect_refused(tiny().numbers<std::uint8_t>(kList, {1, 1, 0, 1}), ErrorCode::kCorrupt, "expected an array of bool");
  expect_refused(tiny().u32("qwen3next.full_attention_interval", 0), ErrorCode::kCorrupt, "interval is 0");
}

TEST(GgufConfig, IntegersOfOtherTypesAndListsOfEqualOnes) {
  EXPECT_EQ(accepted(tiny().number<std::int64_t>("qwen3next.expert_count", 9)).experts, 9);
  EXPECT_EQ(accepted(tiny().number<std::int32_t>("qwen3next.block_count", 3)).layers.size(), 3U);
  EXPECT_EQ(accepted(tiny().numbers<std::int32_t>("qwen3next.expert_feed_forward_length", {9, 9, 9, 9})).expert_width,
            9);
  expect_refused(tiny().numbers<std::uint32_t>("qwen3next.attention.head_count_kv", {2, 4, 2, 2}),
                 ErrorCode::kUnsupported, "differs from layer to layer");
  expect_refused(tiny().numbers<std::uint32_t>("qwen3next.attention.head_count", {}), ErrorCode::kCorrupt, "empty");
  expect_refused(tiny().numbers<std::uint32_t>("qwen3next.attention.head_count", {0, 0}), ErrorCode::kCorrupt,
                 "head_count is 0, expected 1");
}

TEST(GgufConfig, RequiredKeys) {
  for (const char* key :
       {"block_count", "context_length", "embedding_length", "attention.head_count", "attention.head_count_kv",
        "attention.layer_norm_rms_epsilon", "rope.freq_base", "expert_count", "expert_used_count",
        "expert_feed_forward_length", "expert_shared_feed_forward_length", "ssm.conv_kernel", "ssm.state_size",
        "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size"}) {
    expect_refused(tiny().without("qwen3next." + std::string(key)), ErrorCode::kCorrupt,
                   "key qwen3next." + std::string(key) + " is missing");
  }
  expect_refused(tiny().without("general.architecture"), ErrorCode::kCorrupt, "general.architecture is missing");
}

TEST(GgufConfig, NumbersOutOfRange) {
  constexpr std::uint32_t kMost = std::numeric_limits<std::uint32_t>::max();
  const std::pair<const char*, std::vector<std::uint32_t>> wrong[] = {
      {"block_count", {0, 4097, kMost}},
      {"context_length", {0, kMost}},
      {"embedding_length", {0, (1U << 20U) + 1, kMost}},
      {"attention.head_count", {0, 4097, 3}},
      {"attention.head_count_kv", {0, 4097, 3}},
      {"attention.key_length", {0, 1, 4097}},
      {"attention.value_length", {0, 4097}},
      {"rope.dimension_count", {0, 1, 3, 17, kMost}},
      {"expert_count", {0, 65537, 1}},
      {"expert_used_count", {0, 7}},
      {"expert_feed_forward_length", {0, kMost}},
      {"expert_shared_feed_forward_length", {0, kMost}},
      {"ssm.conv_kernel", {0, 1, 65}},
      {"ssm.state_size", {0, 4097}},
      {"ssm.group_count", {0, 4, 4097}},
      {"ssm.time_step_rank", {0, 5, 4097}},
      {"ssm.inner_size", {0, 5, 43, 6 * 4097, kMost}},
  };
  for (const auto& [key, values] : wrong) {
    for (const std::uint32_t value : values) {
      SCOPED_TRACE(std::string(key) + " = " + std::to_string(value));
      expect_refused(tiny().u32("qwen3next." + std::string(key), value), ErrorCode::kCorrupt, "qwen3next.");
    }
  }
  for (const float epsilon : {0.0F, -1e-6F, 2.0F, std::numeric_limits<float>::quiet_NaN()}) {
    expect_refused(tiny().number("qwen3next.attention.layer_norm_rms_epsilon", epsilon), ErrorCode::kCorrupt,
                   "epsilon");
  }
  for (const float base : {0.0F, 1.0F, -1e6F, std::numeric_limits<float>::infinity()}) {
    expect_refused(tiny().number("qwen3next.rope.freq_base", base), ErrorCode::kCorrupt, "rope.freq_base");
  }
}

TEST(GgufConfig, Variants) {
  for (const char* other : {"llama", "qwen35", "qwen35moe", "qwen2", "", "qwen3next "}) {
    expect_refused(tiny().string("general.architecture", other), ErrorCode::kUnsupported,
                   "the architecture \"" + std::string(other) + "\" is not supported");
  }
  expect_refused(tiny().u32("general.architecture", 1), ErrorCode::kCorrupt, "expected a string");
  expect_refused(tiny().u32("qwen3next.attention.value_length", 8), ErrorCode::kUnsupported, "value_length differs");
  expect_refused(tiny().string("qwen3next.rope.scaling.type", "linear"), ErrorCode::kUnsupported, "\"linear\"");
  EXPECT_EQ(accepted(tiny().string("qwen3next.rope.scaling.type", "none")).yarn.factor, 1);
}

GgufBytes with_yarn(float factor) {
  return tiny()
      .string("qwen3next.rope.scaling.type", "yarn")
      .number("qwen3next.rope.scaling.factor", factor)
      .u32("qwen3next.rope.scaling.original_context_length", 2048);
}

TEST(GgufConfig, Yarn) {
  const ModelConfig config = accepted(with_yarn(4).number("qwen3next.rope.scaling.yarn_beta_fast", 16.0F));
  EXPECT_EQ(config.yarn.factor, 4);
  EXPECT_EQ(config.yarn.original_context, 2048);
  EXPECT_EQ(config.yarn.beta_fast, 16);
  EXPECT_EQ(config.yarn.beta_slow, 1);
  EXPECT_EQ(config.context_tokens, 8192);
  EXPECT_EQ(accepted(with_yarn(4).without("qwen3next.rope.scaling.original_context_length")).context_tokens, 16384);
  for (const float factor : {0.5F, 0.0F, -4.0F, 2000.0F, std::numeric_limits<float>::quiet_NaN()}) {
    expect_refused(with_yarn(factor), ErrorCode::kCorrupt, "rope.scaling");
  }
  expect_refused(with_yarn(4).without("qwen3next.rope.scaling.factor"), ErrorCode::kCorrupt, "factor is missing");
  expect_refused(with_yarn(4).u32("qwen3next.rope.scaling.original_context_length", 0), ErrorCode::kCorrupt,
                 "original_context_length is 0");
  expect_refused(with_yarn(4).number("qwen3next.rope.scaling.yarn_beta_slow", 64.0F), ErrorCode::kCorrupt, "YaRN");
  for (const char* key : {"attn_factor", "yarn_attn_factor", "yarn_ext_factor"}) {
    EXPECT_TRUE(read(with_yarn(4).number("qwen3next.rope.scaling." + std::string(key), 1.0F)).ok());
    expect_refused(with_yarn(4).number("qwen3next.rope.scaling." + std::string(key), 0.5F), ErrorCode::kUnsupported,
                   key);
  }
}

TEST(GgufConfig, TheEmbeddingSaysHowManyTokensThereAre) {
  expect_refused(tiny().without_tensors(), ErrorCode::kCorrupt, "token_embd.weight is missing");
  const auto shaped = [](const std::vector<std::uint64_t>& sizes) {
    return tiny().without_tensors().f32("token_embd.weight", sizes);
  };
  EXPECT_TRUE(accepted(shaped({8, 5})).tied_embeddings);
  EXPECT_EQ(accepted(shaped({8, 5})).vocabulary, 5);
  expect_refused(shaped({5, 8}), ErrorCode::kCorrupt, "token_embd.weight has the shape [8, 5], expected one row of 8");
  expect_refused(shaped({8}), ErrorCode::kCorrupt, "the shape [8]");
  expect_refused(shaped({}), ErrorCode::kCorrupt, "the shape []");
  expect_refused(shaped({8, 0}), ErrorCode::kCorrupt, "the shape [0, 8]");
  expect_refused(shaped({8, 3, 1}), ErrorCode::kCorrupt, "the shape [1, 3, 8]");
  EXPECT_TRUE(read(tiny().strings("tokenizer.ggml.tokens", {"a", "b", "c"})).ok());
  expect_refused(tiny().strings("tokenizer.ggml.tokens", {"a", "b"}), ErrorCode::kCorrupt,
                 "it lists 2 tokens, but token_embd.weight has 3 rows");
}

}  // namespace
}  // namespace lectern::engine
