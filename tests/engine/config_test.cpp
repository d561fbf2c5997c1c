// SPDX-License-Identifier: GPL-3.0-or-later
#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "support/scratch.h"

namespace lectern::engine {
namespace {

// config.json of the 80B model.
constexpr std::string_view kConfig = R"({
  "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": 2048,
  "num_hidden_layers": 48, "full_attention_interval": 4, "num_attention_heads": 16, "num_key_value_heads": 2,
  "head_dim": 256, "partial_rotary_factor": 0.25, "rope_theta": 10000000, "rope_scaling": null,
  "attention_bias": false, "attention_dropout": 0.0, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
  "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "hidden_act": "silu",
  "rms_norm_eps": 1e-06, "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
  "shared_expert_intermediate_size": 512, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
  "intermediate_size": 5120, "vocab_size": 151936, "max_position_embeddings": 262144, "tie_word_embeddings": false,
  "use_sliding_window": false, "torch_dtype": "bfloat16"})";

class ConfigTest : public ::testing::Test {
 protected:
  // kConfig with the first `from` replaced.
  Result<ModelConfig> read_with(std::string_view from, std::string_view to) {
    std::string text(kConfig);
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    scratch_.write("config.json", text.replace(at, from.size(), to));
    return read_config(scratch_.path());
  }

  ModelConfig accepted(std::string_view from, std::string_view to) {
    const auto config = read_with(from, to);
    EXPECT_TRUE(config.ok()) << config.error().message;
    return config.ok() ? *config : ModelConfig();
  }

  void expect_refused(std::string_view from, std::string_view to, ErrorCode code, std::string_view words) {
    const auto config = read_with(from, to);
    ASSERT_FALSE(config.ok()) << to;
    EXPECT_EQ(config.error().code, code) << config.error().message;
    EXPECT_NE(config.error().message.find(words), std::string::npos) << config.error().message;
  }

  test::Scratch scratch_;
};

TEST_F(ConfigTest, ReadsTheLargeModel) {
  const ModelConfig config = accepted("x", "x");
  EXPECT_EQ(config.hidden_size, 2048);
  EXPECT_EQ(config.vocabulary, 151936);
  EXPECT_EQ(config.context_tokens, 262144);
  ASSERT_EQ(config.layers.size(), 48U);
  for (std::size_t i = 0; i < 48; ++i) {
    EXPECT_EQ(config.layers[i], i % 4 == 3 ? LayerKind::kAttention : LayerKind::kDeltaNet) << i;
  }
  EXPECT_EQ(config.attention.head_dim, 256);
  EXPECT_EQ(config.rotary_dims, 64);
  EXPECT_EQ(config.rope_theta, 1e7);
  EXPECT_EQ(config.yarn.factor, 1.0);
  EXPECT_EQ(config.conv_channels(), 8192);
  EXPECT_EQ(config.value_width(), 4096);
  EXPECT_EQ(config.query_width(), 4096);
  EXPECT_EQ(config.experts, 512);
  EXPECT_EQ(config.experts_per_token, 10);
  EXPECT_TRUE(config.normalise_top_k);
  EXPECT_FALSE(config.tied_embeddings);
}

TEST_F(ConfigTest, MissingFileAndBrokenText) {
  EXPECT_EQ(read_config(scratch_ / "nowhere").error().code, ErrorCode::kNotFound);
  for (const char* text : {"", "{", "[]", "7", "{}"}) {
    scratch_.write("config.json", text);
    EXPECT_EQ(read_config(scratch_.path()).error().code, ErrorCode::kCorrupt) << text;
  }
}

TEST_F(ConfigTest, LayerTypesAreTrusted) {
  const ModelConfig config =
      accepted(R"("num_hidden_layers": 48, "full_attention_interval": 4)",
               R"("num_hidden_layers": 2, "layer_types": ["full_attention", "linear_attention"])");
  EXPECT_EQ(config.layers, (std::vector<LayerKind>{LayerKind::kAttention, LayerKind::kDeltaNet}));
  expect_refused(R"("full_attention_interval": 4)", R"("layer_types": ["full_attention"])", ErrorCode::kCorrupt,
                 "layer_types");
  expect_refused(R"("num_hidden_layers": 48)", R"("num_hidden_layers": 1, "layer_types": ["sliding_attention"])",
                 ErrorCode::kCorrupt, "layer type");
}

TEST_F(ConfigTest, AnIntervalMayBeAbsent) {
  EXPECT_EQ(accepted(R"("full_attention_interval": 4,)", "").layers[3], LayerKind::kAttention);
  EXPECT_EQ(accepted(R"("full_attention_interval": 4)", R"("full_attention_interval": 2)").layers[1],
            LayerKind::kAttention);
}

// The generic default of 1.0 would be wrong for this model type.
TEST_F(ConfigTest, AMissingRotaryFactorIsAQuarter) {
  EXPECT_EQ(accepted(R"("partial_rotary_factor": 0.25,)", "").rotary_dims, 64);
}

TEST_F(ConfigTest, RopeParametersOfTransformers5) {
  const ModelConfig config =
      accepted(R"("partial_rotary_factor": 0.25, "rope_theta": 10000000, "rope_scaling": null)",
               R"("rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0, "partial_rotary_factor": 0.5})");
  EXPECT_EQ(config.rotary_dims, 128);
  EXPECT_EQ(config.rope_theta, 5e6);
  EXPECT_EQ(config.yarn.factor, 1.0);
  const ModelConfig yarn = accepted(R"("partial_rotary_factor": 0.25, "rope_theta": 10000000, "rope_scaling": null)",
                                    R"("rope_parameters": {"rope_type": "yarn", "rope_theta": 1e7, "factor": 2.0,
                             "original_max_position_embeddings": 262144})");
  EXPECT_EQ(yarn.rotary_dims, 64);
  EXPECT_EQ(yarn.yarn.factor, 2.0);
  EXPECT_EQ(yarn.context_tokens, 524288);
}

TEST_F(ConfigTest, AThetaIsNeeded) {
  expect_refused(R"("rope_theta": 10000000,)", "", ErrorCode::kCorrupt, "rope_theta");
  expect_refused(R"("rope_theta": 10000000)", R"("rope_theta": 0)", ErrorCode::kCorrupt, "rope_theta");
}

TEST_F(ConfigTest, VariantsThatAreNotComputedAreRefused) {
  const std::pair<const char*, const char*> variants[] = {
      {R"("attn_output_gate": false)", "attn_output_gate"},
      {R"("layer_scale": true)", "layer_scale"},
      {R"("output_gate_type": "sigmoid")", "output_gate_type"},
      {R"("quantization_config": {"quant_method": "fp8"})", "quantization_config"},
      {R"("rope_scaling": {"rope_type": "linear", "factor": 2})", "linear"},
      {R"("rope_scaling": {"type": "dynamic", "factor": 2})", "dynamic"},
      {R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "truncate": false})", "truncate"},
      {R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": 0.7})", "mscale"},
  };
  for (const auto& [member, words] : variants) {
    const bool scaling = std::string_view(member).find("rope_scaling") != std::string_view::npos;
    expect_refused(scaling ? R"("rope_scaling": null)" : R"("attention_dropout": 0.0)", member, ErrorCode::kUnsupported,
                   words);
  }
  expect_refused(R"("attention_bias": false)", R"("attention_bias": true)", ErrorCode::kUnsupported, "attention_bias");
  expect_refused(R"("hidden_act": "silu")", R"("hidden_act": "gelu")", ErrorCode::kUnsupported, "hidden_act");
  expect_refused(R"("decoder_sparse_step": 1)", R"("decoder_sparse_step": 2)", ErrorCode::kUnsupported, "experts");
  expect_refused(R"("mlp_only_layers": [])", R"("mlp_only_layers": [3])", ErrorCode::kUnsupported, "experts");
  expect_refused(R"("use_sliding_window": false)", R"("use_sliding_window": true)", ErrorCode::kUnsupported, "sliding");
  expect_refused("qwen3_next", "llama", ErrorCode::kUnsupported, "llama");
}

TEST_F(ConfigTest, DefaultsOfTheVariantsAreAccepted) {
  accepted(
      R"("attention_dropout": 0.0)",
      R"("attn_output_gate": true, "layer_scale": false, "output_gate_type": "silu", "quantization_config": null)");
}

TEST_F(ConfigTest, NumbersOutOfRange) {
  const std::pair<const char*, const char*> wrong[] = {
      {R"("hidden_size": 2048)", R"("hidden_size": 0)"},
      {R"("hidden_size": 2048)", R"("hidden_size": 9223372036854775807)"},
      {R"("hidden_size": 2048)", R"("hidden_size": "2048")"},
      {R"("hidden_size": 2048,)", ""},
      {R"("num_hidden_layers": 48)", R"("num_hidden_layers": -1)"},
      {R"("num_hidden_layers": 48)", R"("num_hidden_layers": 1000000000)"},
      {R"("full_attention_interval": 4)", R"("full_attention_interval": 0)"},
      {R"("num_attention_heads": 16)", R"("num_attention_heads": 0)"},
      {R"("num_attention_heads": 16)", R"("num_attention_heads": 15)"},
      {R"("num_key_value_heads": 2)", R"("num_key_value_heads": 0)"},
      {R"("head_dim": 256)", R"("head_dim": 1)"},
      {R"("partial_rotary_factor": 0.25)", R"("partial_rotary_factor": 0)"},
      {R"("partial_rotary_factor": 0.25)", R"("partial_rotary_factor": 1.5)"},
      {R"("linear_num_key_heads": 16)", R"("linear_num_key_heads": 15)"},
      {R"("linear_num_value_heads": 32)", R"("linear_num_value_heads": 0)"},
      {R"("linear_key_head_dim": 128)", R"("linear_key_head_dim": 0)"},
      {R"("linear_conv_kernel_dim": 4)", R"("linear_conv_kernel_dim": 1)"},
      {R"("linear_conv_kernel_dim": 4)", R"("linear_conv_kernel_dim": 100000)"},
      {R"("rms_norm_eps": 1e-06)", R"("rms_norm_eps": 0)"},
      {R"("num_experts": 512)", R"("num_experts": 0)"},
      {R"("num_experts_per_tok": 10)", R"("num_experts_per_tok": 513)"},
      {R"("num_experts_per_tok": 10)", R"("num_experts_per_tok": 0)"},
      {R"("moe_intermediate_size": 512)", R"("moe_intermediate_size": 0)"},
      {R"("vocab_size": 151936)", R"("vocab_size": 0)"},
      {R"("vocab_size": 151936)", R"("vocab_size": 1e18)"},
      {R"("max_position_embeddings": 262144)", R"("max_position_embeddings": 0)"},
      {R"("rope_scaling": null)", R"("rope_scaling": 4)"},
      {R"("rope_scaling": null)", R"("rope_scaling": {"rope_type": "yarn"})"},
      {R"("rope_scaling": null)", R"("rope_scaling": {"rope_type": "yarn", "factor": 0.5})"},
      {R"("rope_scaling": null)", R"("rope_scaling": {"rope_type": "yarn", "factor": 4, "beta_slow": 0})"},
      {R"("rope_scaling": null)",
       R"("rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 9000000000000000000})"},
  };
  for (const auto& [from, to] : wrong) expect_refused(from, to, ErrorCode::kCorrupt, "config.json");
}

TEST_F(ConfigTest, PlainFrequencies) {
  const RotaryTable table = make_rotary_table(accepted("x", "x"), {});
  ASSERT_EQ(table.inverse_frequency.size(), 32U);
  EXPECT_EQ(table.magnitude, 1.0);
  EXPECT_DOUBLE_EQ(table.inverse_frequency[0], 1.0);
  EXPECT_NEAR(table.inverse_frequency[14], 8.659643234e-4, 1e-13);
  EXPECT_NEAR(table.inverse_frequency[31], 1.654817100e-7, 1e-16);
}

TEST_F(ConfigTest, FrequenciesUnderYarn) {
  const ModelConfig config =
      accepted(R"("rope_scaling": null)",
               R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262144})");
  EXPECT_EQ(config.context_tokens, 1048576);
  const RotaryTable table = make_rotary_table(config, config.yarn);
  EXPECT_NEAR(table.magnitude, 1.138629436111989, 1e-14);
  const std::pair<std::size_t, double> expected[] = {
      {0, 1.0},
      {14, 8.659643234e-4},
      {15, 4.742398227e-4},
      {16, 2.569350599e-4},
      {17, 1.373497451e-4},
      {18, 7.217387404e-5},
      {19, 3.707224982e-5},
      {20, 1.844922203e-5},
      {21, 8.759770071e-6},
      {22, 3.849816315e-6},
      {31, 4.137042750e-8},
  };
  for (const auto& [pair, frequency] : expected) {
    EXPECT_NEAR(table.inverse_frequency[pair] / frequency, 1.0, 1e-9) << pair;
  }
  const double angle = 262143 * table.inverse_frequency[18];
  EXPECT_NEAR(table.magnitude * std::cos(angle), 1.135815395, 1e-8);
  EXPECT_NEAR(table.magnitude * std::sin(angle), 0.080002384, 1e-8);
}

}  // namespace
}  // namespace lectern::engine
