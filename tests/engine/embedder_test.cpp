// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/embedder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/json.h"
#include "golden/deterministic_model.h"
#include "golden/golden_files.h"

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;
using golden::TensorSpec;

// Largest difference of any component of a unit vector from the reference's.
constexpr float kTinyTolerance = 1e-5F;
constexpr float kMiniLmTolerance = 1e-4F;
constexpr float kMiniLmCosine = 0.9999F;

fs::path golden_bert() { return golden::directory() / "bert"; }

std::vector<std::string> golden_texts() { return golden::read_texts(golden_bert() / "texts.json"); }

std::vector<TensorSpec> tiny_tensors() {
  const auto config = JsonDocument::read(golden_bert() / "config.json");
  return golden::bert_tensors((*config).root());
}

class EmbedderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(::testing::TempDir()) / ("lectern_embedder_" + std::to_string(::getpid()));
    fs::create_directories(directory_);
    fs::copy_file(golden_bert() / "vocab.txt", directory_ / "vocab.txt", fs::copy_options::overwrite_existing);
    fs::copy_file(golden_bert() / "config.json", directory_ / "config.json", fs::copy_options::overwrite_existing);
  }
  void TearDown() override { fs::remove_all(directory_); }

  void write_weights(const std::vector<TensorSpec>& tensors) {
    golden::write_safetensors(directory_ / "model.safetensors", tensors, golden::Storage::kFloat32);
  }

  // Replaces the first `from` in config.json.
  void change_config(std::string_view from, std::string_view to) {
    std::string config = *read_text_file(golden_bert() / "config.json", 1 << 16);
    const std::size_t at = config.find(from);
    ASSERT_NE(at, std::string::npos);
    std::ofstream(directory_ / "config.json") << config.replace(at, from.size(), to);
  }

  std::unique_ptr<Embedder> open_tiny() {
    write_weights(tiny_tensors());
    auto opened = Embedder::open(directory_, 1);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return opened.ok() ? std::move(*opened) : nullptr;
  }

  void expect_open_fails(ErrorCode code, std::string_view words) {
    const auto opened = Embedder::open(directory_, 1);
    ASSERT_FALSE(opened.ok()) << words;
    EXPECT_EQ(opened.error().code, code) << opened.error().message;
    EXPECT_NE(opened.error().message.find(words), std::string::npos) << opened.error().message;
  }

  fs::path directory_;
};

void expect_rows_near(const std::vector<std::vector<float>>& rows, const std::vector<float>& expected, float tolerance,
                      float cosine) {
  ASSERT_FALSE(rows.empty());
  const std::size_t width = rows[0].size();
  ASSERT_EQ(rows.size() * width, expected.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    float worst = 0.0F;
    double product = 0.0;
    for (std::size_t j = 0; j < width; ++j) {
      worst = std::max(worst, std::abs(rows[i][j] - expected[i * width + j]));
      product += double{rows[i][j]} * double{expected[i * width + j]};
    }
    EXPECT_LT(worst, tolerance) << "text " << i;
    EXPECT_GT(product, double{cosine}) << "text " << i;
  }
}

TEST_F(EmbedderTest, AgreesWithTheReference) {
  const auto embedder = open_tiny();
  ASSERT_NE(embedder, nullptr);
  EXPECT_EQ(embedder->dimension(), 36);
  EXPECT_EQ(embedder->max_tokens(), 40);
  const auto rows = embedder->embed(golden_texts(), {});
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  expect_rows_near(*rows, golden::read_floats(golden_bert() / "tiny_embeddings.f32"), kTinyTolerance, kMiniLmCosine);
}

TEST_F(EmbedderTest, ATextGetsTheSameVectorAloneAndInACrowd) {
  const auto embedder = open_tiny();
  ASSERT_NE(embedder, nullptr);
  std::vector<std::string> texts = golden_texts();
  for (int i = 0; i < 100; ++i) texts.push_back("text number " + std::to_string(i) + std::string(i, 'x'));
  const auto together = embedder->embed(texts, {});
  ASSERT_TRUE(together.ok());
  for (std::size_t i = 0; i < texts.size(); i += 7) {
    const auto alone = embedder->embed(std::vector<std::string>{texts[i]}, {});
    ASSERT_TRUE(alone.ok());
    for (std::size_t j = 0; j < 36; ++j) EXPECT_NEAR((*alone)[0][j], (*together)[i][j], 1e-6F) << "text " << i;
  }
}

TEST_F(EmbedderTest, VectorsHaveUnitLength) {
  const auto embedder = open_tiny();
  ASSERT_NE(embedder, nullptr);
  const auto rows = embedder->embed(golden_texts(), {});
  ASSERT_TRUE(rows.ok());
  for (const std::vector<float>& row : *rows) {
    double sum = 0.0;
    for (const float value : row) sum += double{value} * value;
    EXPECT_NEAR(sum, 1.0, 1e-5);
  }
}

TEST_F(EmbedderTest, NoTextsGiveNoVectors) {
  const auto embedder = open_tiny();
  ASSERT_NE(embedder, nullptr);
  const auto rows = embedder->embed({}, {});
  ASSERT_TRUE(rows.ok());
  EXPECT_TRUE(rows->empty());
}

TEST_F(EmbedderTest, SeveralThreadsGiveTheSameVectors) {
  const auto one = open_tiny();
  auto opened = Embedder::open(directory_, 2);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const auto first = one->embed(golden_texts(), {});
  const auto second = (*opened)->embed(golden_texts(), {});
  ASSERT_TRUE(first.ok() && second.ok());
  for (std::size_t i = 0; i < first->size(); ++i) {
    for (std::size_t j = 0; j < 36; ++j) EXPECT_NEAR((*first)[i][j], (*second)[i][j], 1e-6F);
  }
}

TEST_F(EmbedderTest, CallsFromSeveralThreadsWaitForEachOther) {
  const auto embedder = open_tiny();
  ASSERT_NE(embedder, nullptr);
  const auto expected = embedder->embed(golden_texts(), {});
  ASSERT_TRUE(expected.ok());
  std::vector<std::thread> threads;
  std::vector<std::vector<std::vector<float>>> results(4);
  for (auto& result : results) {
    threads.emplace_back([&embedder, &result] {
      auto rows = embedder->embed(golden_texts(), {});
      if (rows.ok()) result = std::move(*rows);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, *expected);
}

TEST_F(EmbedderTest, AStopRequestCancels) {
  const auto embedder = open_tiny();
  ASSERT_NE(embedder, nullptr);
  std::stop_source source;
  source.request_stop();
  const auto rows = embedder->embed(golden_texts(), source.get_token());
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code, ErrorCode::kCancelled);
}

TEST_F(EmbedderTest, TheSentenceLimitOfTheModelDirectoryWins) {
  std::ofstream(directory_ / "sentence_bert_config.json") << R"({"max_seq_length": 6, "do_lower_case": false})";
  const auto embedder = open_tiny();
  ASSERT_NE(embedder, nullptr);
  EXPECT_EQ(embedder->max_tokens(), 6);
  const auto rows = embedder->embed(std::vector<std::string>{"a b c d", "a b c d e f"}, {});
  ASSERT_TRUE(rows.ok());
  EXPECT_EQ((*rows)[0], (*rows)[1]);
}

TEST_F(EmbedderTest, ASentenceLimitBeyondThePositionsIsRefused) {
  std::ofstream(directory_ / "sentence_bert_config.json") << R"({"max_seq_length": 41})";
  write_weights(tiny_tensors());
  expect_open_fails(ErrorCode::kCorrupt, "max_seq_length");
}

TEST_F(EmbedderTest, AcceptsThePrefixedNamesAndIgnoresPoolerAndPositionIds) {
  const auto plain = open_tiny();
  const auto expected = plain->embed(golden_texts(), {});
  ASSERT_TRUE(expected.ok());

  // Values follow from names, so the prefixed file is the plain one with its names patched in the header.
  std::vector<TensorSpec> tensors = tiny_tensors();
  tensors.push_back({"pooler.dense.weight", {36, 36}});
  tensors.push_back({"embeddings.position_ids", {1, 40}});
  write_weights(tensors);
  std::string file = *read_text_file(directory_ / "model.safetensors", 1 << 24);
  for (const std::string name : {"embeddings.", "encoder.", "pooler."}) {
    for (std::size_t at = 0; (at = file.find("\"" + name, at)) != std::string::npos; at += 6 + name.size()) {
      file.insert(at + 1, "bert.");
    }
  }
  std::uint64_t length = file.find("]}}", 8) + 3 - 8;
  const std::size_t padding = (8 - length % 8) % 8;
  const std::size_t header_end = static_cast<std::size_t>(length) + 8;
  std::size_t data = header_end;
  while (file[data] == ' ') ++data;
  file.replace(header_end, data - header_end, padding, ' ');
  length += padding;
  std::copy_n(reinterpret_cast<const char*>(&length), 8, file.begin());
  std::ofstream(directory_ / "model.safetensors", std::ios::binary) << file;

  const auto opened = Embedder::open(directory_, 1);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const auto rows = (*opened)->embed(golden_texts(), {});
  ASSERT_TRUE(rows.ok());
  EXPECT_EQ(*rows, *expected);
}

TEST_F(EmbedderTest, TheModelIdFollowsWeightsAndConfiguration) {
  const std::string id = open_tiny()->model_id();
  EXPECT_EQ(open_tiny()->model_id(), id);
  EXPECT_EQ(id.rfind(directory_.filename().string(), 0), 0U) << id;
  change_config("1e-12", "1e-11");
  EXPECT_NE(open_tiny()->model_id(), id);
}

TEST_F(EmbedderTest, EveryTensorIsChecked) {
  const std::vector<TensorSpec> tensors = tiny_tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::vector<TensorSpec> missing = tensors;
    missing.erase(missing.begin() + static_cast<std::ptrdiff_t>(i));
    write_weights(missing);
    expect_open_fails(ErrorCode::kCorrupt, tensors[i].name);

    std::vector<TensorSpec> wrong = tensors;
    wrong[i].shape[0] += 1;
    write_weights(wrong);
    expect_open_fails(ErrorCode::kCorrupt, tensors[i].name);
  }
}

TEST_F(EmbedderTest, ConfigurationsItCannotRunAreRefused) {
  write_weights(tiny_tensors());
  const std::pair<const char*, const char*> changes[] = {
      {R"("gelu")", R"("relu")"},
      {R"("bert")", R"("roberta")"},
      {R"("hidden_size": 36)", R"("position_embedding_type": "relative_key", "hidden_size": 36)"},
  };
  for (const auto& [from, to] : changes) {
    change_config(from, to);
    const auto opened = Embedder::open(directory_, 1);
    ASSERT_FALSE(opened.ok()) << to;
    EXPECT_EQ(opened.error().code, ErrorCode::kUnsupported) << opened.error().message;
  }
}

TEST_F(EmbedderTest, HostileConfigurationsAreErrors) {
  write_weights(tiny_tensors());
  const std::pair<const char*, const char*> changes[] = {
      {"\"hidden_size\": 36", "\"hidden_size\": 0"},
      {"\"hidden_size\": 36", "\"hidden_size\": 4611686018427387904"},
      {"\"num_attention_heads\": 3", "\"num_attention_heads\": 5"},
      {"\"num_attention_heads\": 3", "\"num_attention_heads\": 0"},
      {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2000000000"},
      {"\"intermediate_size\": 52", "\"intermediate_size\": -1"},
      {"\"max_position_embeddings\": 40", "\"max_position_embeddings\": 1"},
      {"\"layer_norm_eps\": 1e-12", "\"layer_norm_eps\": -1"},
      {"\"vocab_size\": 113", "\"vocab_size\": 112"},
      {"\"type_vocab_size\": 2", "\"type_vocab_size\": 0"},
      {"{", "["},
  };
  for (const auto& [from, to] : changes) {
    change_config(from, to);
    const auto opened = Embedder::open(directory_, 1);
    EXPECT_FALSE(opened.ok()) << to;
  }
}

TEST_F(EmbedderTest, AVocabularyLargerThanTheEmbeddingIsRefused) {
  write_weights(tiny_tensors());
  std::ofstream(directory_ / "vocab.txt", std::ios::app) << "extra\n";
  expect_open_fails(ErrorCode::kCorrupt, "vocab");
}

TEST_F(EmbedderTest, MissingFilesAreNamed) {
  expect_open_fails(ErrorCode::kNotFound, "safetensors");
  write_weights(tiny_tensors());
  fs::remove(directory_ / "vocab.txt");
  expect_open_fails(ErrorCode::kNotFound, "tokenizer.json");
  fs::remove(directory_ / "config.json");
  expect_open_fails(ErrorCode::kNotFound, "config.json");
}

TEST(MiniLm, AgreesWithTheReference) {
  const fs::path model = golden::directory() / ".." / ".." / "models" / "all-MiniLM-L6-v2";
  if (!fs::exists(model / "model.safetensors")) {
    GTEST_SKIP() << "all-MiniLM-L6-v2 is not here; resources/models/get_minilm fetches it";
  }
  const auto opened = Embedder::open(model, 0);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ((*opened)->dimension(), 384);
  EXPECT_EQ((*opened)->max_tokens(), 256);
  const auto rows = (*opened)->embed(golden_texts(), {});
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  expect_rows_near(*rows, golden::read_floats(golden_bert() / "minilm_embeddings.f32"), kMiniLmTolerance,
                   kMiniLmCosine);
}

}  // namespace
}  // namespace lectern::engine
