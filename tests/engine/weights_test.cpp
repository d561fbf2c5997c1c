// SPDX-License-Identifier: GPL-3.0-or-later
// Binding of a checkpoint's tensors: every way of writing one down, and every way of spoiling it.
#include "model/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "model/transformer.h"
#include "quant/formats.h"
#include "support/load_transformer.h"
#include "support/scratch.h"

namespace lectern::engine {
namespace {

struct FileTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
  std::string type = "F32";
};

// What binary16 keeps of a number of ordinary size.
float to_half_precision(float value) {
  int exponent = 0;
  const float fraction = std::frexp(value, &exponent);
  const int step = std::max(exponent - 11, -24);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, exponent - step)), step);
}

// Of a number that to_half_precision() gave.
std::uint16_t half_bits(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const float size = std::abs(value);
  if (size < std::ldexp(1.0F, -14)) return static_cast<std::uint16_t>(sign | static_cast<int>(std::ldexp(size, 24)));
  int exponent = 0;
  const float fraction = std::frexp(size, &exponent);
  return static_cast<std::uint16_t>(sign | (exponent + 14) << 10 | (static_cast<int>(std::ldexp(fraction, 11)) & 1023));
}

// The code of a number that E4M3 holds exactly.
std::uint8_t f8_code(float value) {
  for (int code = 0; code < 256; ++code) {
    if (f8_e4m3_to_float(static_cast<std::uint8_t>(code)) == value) return static_cast<std::uint8_t>(code);
  }
  return 0;
}

class WeightsTest : public ::testing::Test {
 protected:
  WeightsTest() { use_config(*read_text_file(golden::directory() / "models" / "tiny" / "config.json", 1 << 16)); }

  void use_config(const std::string& text) {
    config_ = text;
    const auto config = JsonDocument::parse(text, "config.json");
    tensors_.clear();
    for (const golden::TensorSpec& tensor : golden::decoder_tensors((*config).root(), true)) {
      tensors_.push_back({tensor.name, tensor.shape, golden::tensor_values(tensor)});
    }
  }

  void set_in_config(const std::string& key, int value) {
    const std::size_t at = config_.find("\"" + key + "\": ");
    ASSERT_NE(at, std::string::npos) << key;
    const std::size_t number = at + key.size() + 4;
    use_config(config_.replace(number, config_.find_first_of(",\n", number) - number, std::to_string(value)));
  }

  FileTensor& tensor(std::string_view name) {
    for (FileTensor& one : tensors_) {
      if (one.name == name) return one;
    }
    ADD_FAILURE() << name;
    return tensors_.front();
  }

  void remove_if(const std::function<bool(const FileTensor&)>& condition) { std::erase_if(tensors_, condition); }

  Result<std::unique_ptr<Transformer>> load(std::string_view header_padding = "") {
    write(header_padding);
    return support::load_transformer(scratch_.path(), *backend_, 64);
  }

  std::vector<float> logits(std::string_view header_padding = "") {
    const auto model = load(header_padding);
    EXPECT_TRUE(model.ok()) << model.error().message;
    if (!model.ok()) return {};
    SequenceState state = std::move((*model)->new_sequence({})).value();
    const std::vector<TokenId> tokens = {5, 15, 39, 77, 33};
    std::vector<float> rows(tokens.size() * 96);
    EXPECT_TRUE((*model)->forward(state, tokens, {5, rows, {}}).ok());
    return rows;
  }

  // Turns the projections into codes with a scale for every 128 x 128, as the released FP8 checkpoints have them, and
  // gives the logits of the numbers that these stand for.
  std::vector<float> store_as_f8() {
    std::vector<FileTensor> scales;
    for (FileTensor& one : tensors_) {
      if (!one.name.ends_with("_proj.weight") && !one.name.ends_with("in_proj_qkvz.weight")) continue;
      const std::int64_t rows = one.shape[0];
      const std::int64_t cols = one.shape[1];
      FileTensor scale{one.name + "_scale_inv", {(rows + 127) / 128, (cols + 127) / 128}, {}};
      for (std::int64_t i = 0; i < scale.shape[0] * scale.shape[1]; ++i) {
        scale.values.push_back(0.01F + 0.003F * static_cast<float>(i % 5));
      }
      for (std::int64_t i = 0; i < rows * cols; ++i) {
        const auto code = static_cast<std::uint8_t>(i * 37 % 120 + (i % 3 == 0 ? 128 : 0));
        const std::int64_t block = i / cols / 128 * scale.shape[1] + i % cols / 128;
        one.values[static_cast<std::size_t>(i)] =
            f8_e4m3_to_float(code) * scale.values[static_cast<std::size_t>(block)] / 64;
      }
      for (float& value : scale.values) value /= 64;
      scales.push_back(std::move(scale));
    }
    const std::vector<float> expected = logits();
    for (const FileTensor& scale : scales) {
      FileTensor& one = tensor(scale.name.substr(0, scale.name.size() - std::string_view("_scale_inv").size()));
      for (std::size_t i = 0; i < one.values.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        const std::int64_t block = at / one.shape[1] / 128 * scale.shape[1] + at % one.shape[1] / 128;
        one.values[i] = std::nearbyint(one.values[i] / scale.values[static_cast<std::size_t>(block)] * 512) / 512;
      }
      one.type = "F8_E4M3";
    }
    tensors_.insert(tensors_.end(), scales.begin(), scales.end());
    return expected;
  }

  static void expect_close(const std::vector<float>& actual, const std::vector<float>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
    for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-4 * (*high - *low));
  }

  void expect_refused(ErrorCode code, std::initializer_list<std::string_view> words) {
    const auto model = load();
    ASSERT_FALSE(model.ok());
    EXPECT_EQ(model.error().code, code) << model.error().message;
    for (const std::string_view word : words) {
      EXPECT_NE(model.error().message.find(word), std::string::npos) << model.error().message;
    }
  }

  // Experts as transformers 5 keeps them in memory: [experts, gate rows | up rows, d] and [experts, d, width].
  void fuse_experts(const std::string& prefix) {
    FileTensor gate_up{prefix + "experts.gate_up_proj", {8, 64, 64}, {}};
    FileTensor down{prefix + "experts.down_proj", {8, 64, 32}, {}};
    for (int e = 0; e < 8; ++e) {
      const std::string expert = prefix + "experts." + std::to_string(e) + ".";
      for (const char* part : {"gate_proj.weight", "up_proj.weight"}) append(tensor(expert + part), gate_up);
      append(tensor(expert + "down_proj.weight"), down);
    }
    remove_if([&](const FileTensor& one) { return one.name.starts_with(prefix + "experts."); });
    tensors_.push_back(std::move(gate_up));
    tensors_.push_back(std::move(down));
  }

  std::vector<FileTensor> tensors_;
  std::string config_;

 private:
  static void append(const FileTensor& from, FileTensor& to) {
    to.values.insert(to.values.end(), from.values.begin(), from.values.end());
  }

  void write(std::string_view header_padding) {
    std::string header = "{";
    std::string data;
    for (const FileTensor& one : tensors_) {
      const std::size_t begin = data.size();
      for (const float value : one.values) {
        std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
        if (one.type == "F16") bits = half_bits(value);
        if (one.type == "F8_E4M3") bits = f8_code(value);
        data.append(reinterpret_cast<const char*>(&bits), one.type == "F16" ? 2 : one.type == "F8_E4M3" ? 1 : 4);
      }
      header += (header.size() > 1 ? ",\"" : "\"") + one.name + "\":{\"dtype\":\"" + one.type +
                "\",\"shape\":" + shape_text(one.shape) + ",\"data_offsets\":[" + std::to_string(begin) + "," +
                std::to_string(data.size()) + "]}";
    }
    header += "}";
    header.append((8 - header.size() % 8) % 8, ' ');
    header += header_padding;
    const std::uint64_t length = header.size();
    scratch_.write("model.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
    scratch_.write("config.json", config_);
  }

  test::Scratch scratch_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
};

TEST_F(WeightsTest, CountsWhatItReads) {
  const auto model = load();
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->weights().parameters, 418696);
  EXPECT_EQ((*model)->weights().bytes, 418696 * 4);
  EXPECT_TRUE((*model)->has_mtp());
}

TEST_F(WeightsTest, EveryTensorIsNeeded) {
  const std::vector<FileTensor> all = tensors_;
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.0.linear_attn.A_log",
        "model.layers.1.linear_attn.in_proj_qkvz.weight", "model.layers.2.post_attention_layernorm.weight",
        "model.layers.3.self_attn.k_norm.weight", "model.layers.3.mlp.shared_expert_gate.weight",
        "model.layers.0.mlp.experts.7.up_proj.weight", "mtp.norm.weight", "mtp.layers.0.self_attn.o_proj.weight"}) {
    tensors_ = all;
    remove_if([&](const FileTensor& one) { return one.name == name; });
    expect_refused(ErrorCode::kCorrupt, {name, "missing"});
  }
}

TEST_F(WeightsTest, ShapesAreCompared) {
  FileTensor& norm = tensor("model.layers.3.self_attn.q_norm.weight");
  norm.shape = {31};
  norm.values.resize(31);
  expect_refused(ErrorCode::kCorrupt, {"model.layers.3.self_attn.q_norm.weight", "[31]", "[32]"});
}

TEST_F(WeightsTest, TransposedMatricesAreNotAccepted) {
  FileTensor& fc = tensor("mtp.fc.weight");
  std::swap(fc.shape[0], fc.shape[1]);
  expect_refused(ErrorCode::kCorrupt, {"mtp.fc.weight", "[128, 64]", "[64, 128]"});
}

TEST_F(WeightsTest, ATensorOfNoUseIsAnError) {
  tensors_.push_back({"model.layers.4.input_layernorm.weight", {64}, std::vector<float>(64)});
  expect_refused(ErrorCode::kUnsupported, {"model.layers.4.input_layernorm.weight"});
}

TEST_F(WeightsTest, BlockFp8NeedsItsScales) {
  tensor("model.layers.0.mlp.gate.weight").type = "F8_E4M3";
  expect_refused(ErrorCode::kCorrupt, {"model.layers.0.mlp.gate.weight_scale_inv", "missing"});
}

TEST_F(WeightsTest, BlockFp8IsReadWithItsScales) {
  const std::vector<float> expected = store_as_f8();
  expect_close(logits(), expected);
}

// Heads as wide as the tiles of the scales: putting rows into order moves whole tiles, which stay codes.
TEST_F(WeightsTest, BlockFp8StaysFp8WhereHeadsAreWholeTiles) {
  for (const char* key : {"linear_key_head_dim", "linear_value_head_dim", "head_dim"}) set_in_config(key, 128);
  const std::vector<float> expected = store_as_f8();
  expect_close(logits(), expected);
  const auto model = load();
  ASSERT_TRUE(model.ok()) << model.error().message;
  std::int64_t as_floats = 0;
  for (const FileTensor& one : tensors_) {
    const auto count = static_cast<std::int64_t>(one.values.size());
    if (one.name.ends_with("_scale_inv")) continue;
    as_floats += one.type == "F8_E4M3" ? count : 4 * count;
  }
  EXPECT_EQ((*model)->weights().bytes, as_floats);
}

TEST_F(WeightsTest, ADraftHeadMayBeAbsent) {
  const std::vector<float> expected = logits();
  remove_if([](const FileTensor& one) { return one.name.starts_with("mtp."); });
  const auto model = load();
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_FALSE((*model)->has_mtp());
  SequenceState state = std::move((*model)->new_sequence({})).value();
  EXPECT_EQ((*model)->draft(state, std::vector<TokenId>{1}, std::vector<float>(64), {}).error().code,
            ErrorCode::kUnsupported);
  EXPECT_EQ(logits(), expected);
}

TEST_F(WeightsTest, APartOfADraftHeadIsAnError) {
  remove_if([](const FileTensor& one) { return one.name == "mtp.fc.weight"; });
  expect_refused(ErrorCode::kUnsupported, {"mtp."});
}

TEST_F(WeightsTest, TheDraftHeadMayBePartOfTheModel) {
  for (FileTensor& one : tensors_) {
    if (one.name.starts_with("mtp.")) one.name = "model." + one.name;
  }
  const auto model = load();
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_TRUE((*model)->has_mtp());
}

TEST_F(WeightsTest, FusedExpertsAreTheSameModel) {
  const std::vector<float> expected = logits();
  fuse_experts("model.layers.1.mlp.");
  fuse_experts("mtp.layers.0.mlp.");
  EXPECT_EQ(logits(), expected);
}

TEST_F(WeightsTest, TiedEmbeddings) {
  tensor("lm_head.weight").values = tensor("model.embed_tokens.weight").values;
  const std::vector<float> expected = logits();
  config_.replace(config_.find("\"tie_word_embeddings\": false"), 28, "\"tie_word_embeddings\": true");
  EXPECT_EQ(logits(), expected);
  remove_if([](const FileTensor& one) { return one.name == "lm_head.weight"; });
  EXPECT_EQ(logits(), expected);
}

TEST_F(WeightsTest, HalfPrecisionFiles) {
  for (FileTensor& one : tensors_) {
    for (float& value : one.values) value = to_half_precision(value);
  }
  const std::vector<float> expected = logits();
  for (FileTensor& one : tensors_) one.type = "F16";
  EXPECT_EQ(logits(), expected);
}

TEST_F(WeightsTest, DataMayLieAnywhereInTheFile) {
  const std::vector<float> expected = logits();
  EXPECT_EQ(logits(" "), expected);
  EXPECT_EQ(logits("  "), expected);
}

}  // namespace
}  // namespace lectern::engine
