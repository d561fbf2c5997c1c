// SPDX-License-Identifier: GPL-3.0-or-later
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/model_tools.h"
#include "model/gguf_file.h"
#include "model/model_files.h"
#include "model/tensor_plan.h"
#include "model/transformer.h"
#include "quant/mix.h"
#include "support/load_transformer.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ConversionTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::Scratch();
    support::write_tiny_model(directory_->path());
  }
  static void TearDownTestSuite() { delete directory_; }

  static const fs::path& source() { return directory_->path(); }
  fs::path target(const std::string& name = "model.gguf") const { return output_ / name; }

  Result<ConversionReport> convert(const fs::path& from, const fs::path& to, const ConversionOptions& options) {
    return convert_model(from, to, options, {}, {});
  }
  ConversionReport converted(const std::string& mix, const fs::path& to) {
    auto report = convert(source(), to, {.mix = mix, .threads = 1});
    EXPECT_TRUE(report.ok()) << mix << ": " << (report.ok() ? "" : report.error().message);
    return report.ok() ? std::move(report).value() : ConversionReport();
  }

  // Of the last of some tokens.
  static std::vector<float> logits_of(const fs::path& model) {
    const std::unique_ptr<Backend> backend = make_cpu_backend(1);
    auto loaded = support::load_transformer(model, *backend, 64);
    EXPECT_TRUE(loaded.ok()) << (loaded.ok() ? "" : loaded.error().message);
    if (!loaded.ok()) return {};
    auto state = (*loaded)->new_sequence({});
    std::vector<TokenId> tokens;
    tokens.reserve(40);
    for (TokenId i = 0; i < 40; ++i) tokens.push_back((i * 37 + 11) % support::kToySize);
    std::vector<float> logits(static_cast<std::size_t>((*loaded)->config().vocabulary));
    EXPECT_TRUE((*loaded)->forward(*state, tokens, {1, logits, {}}).ok());
    return logits;
  }

  std::size_t files_in_output() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(output_.path()), fs::directory_iterator()));
  }

  test::Scratch output_;

 private:
  static inline test::Scratch* directory_ = nullptr;
};

// Root mean square of the difference, as a share of the numbers' own spread.
double relative_error(const std::vector<float>& wanted, const std::vector<float>& got) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    difference += std::pow(static_cast<double>(wanted[i]) - static_cast<double>(got[i]), 2);
    size += std::pow(static_cast<double>(wanted[i]), 2);
  }
  return std::sqrt(difference / size);
}

GgufFile opened(const fs::path& file) {
  auto gguf = GgufFile::open(file);
  EXPECT_TRUE(gguf.ok()) << gguf.error().message;
  return std::move(gguf).value();
}

TEST_F(ConversionTest, Float32GivesTheSameLogits) {
  const ConversionReport report = converted("F32", target());
  const std::vector<float> wanted = logits_of(source());
  const std::vector<float> got = logits_of(target());
  ASSERT_EQ(got.size(), wanted.size());
  EXPECT_LT(relative_error(wanted, got), 1e-6);
  EXPECT_TRUE(report.fallbacks.empty());
  EXPECT_EQ(report.file_bytes, static_cast<std::int64_t>(fs::file_size(target())));
  EXPECT_EQ(files_in_output(), 1U);
}

// The largest relative error of a matrix.
double weight_error(const fs::path& wanted_file, const fs::path& got_file) {
  const auto wanted_files = ModelFiles::open(wanted_file);
  const auto got_files = ModelFiles::open(got_file);
  const auto wanted = plan_model(*wanted_files, true);
  const auto got = plan_model(*got_files, true);
  double largest = 0;
  for (std::size_t i = 0; i < wanted->tensors.size(); ++i) {
    const TensorPlan& tensor = wanted->tensors[i];
    std::vector<float> numbers(static_cast<std::size_t>(tensor.numbers()));
    std::vector<float> others(numbers.size());
    for (std::int64_t row = 0; row < tensor.rows(); ++row) {
      tensor.read(row, numbers.data() + row * tensor.cols());
      got->tensors[i].read(row, others.data() + row * tensor.cols());
    }
    largest = std::max(largest, relative_error(numbers, others));
  }
  return largest;
}

TEST_F(ConversionTest, EveryMixLoadsWithABoundedError) {
  const std::map<std::string, double> bounds = {{"F32", 1e-7},  {"F16", 1e-3},  {"BF16", 5e-3}, {"Q8_0", 1e-2},
                                                {"Q6_K", 0.04}, {"Q5_0", 0.05}, {"Q5_1", 0.05}, {"Q5_K_M", 0.05}};
  const std::vector<float> wanted = logits_of(source());
  for (const MixInfo& mix : quantisation_mixes()) {
    const fs::path file = target(mix.name + ".gguf");
    EXPECT_EQ(converted(mix.name, file).mix, mix.name);
    const auto bound = bounds.find(mix.name);
    EXPECT_LT(weight_error(source(), file), bound == bounds.end() ? 0.15 : bound->second) << mix.name;
    // A token near the border between two experts changes sides at the smallest error, so that logits say less.
    const double error = relative_error(wanted, logits_of(file));
    EXPECT_LT(error, mix.name == "F32" ? 1e-6 : 1.5) << mix.name;
    const auto verified = verify_model(file, 1, {}, {});
    ASSERT_TRUE(verified.ok()) << mix.name << verified.error().message;
    EXPECT_TRUE(verified->sound()) << mix.name;
  }
}

TEST_F(ConversionTest, KeepsTheMtpModuleUnlessAskedNotTo) {
  EXPECT_TRUE(converted("BF16", target()).has_mtp);
  const auto with = inspect_model(target());
  ASSERT_TRUE(with.ok()) << with.error().message;
  EXPECT_TRUE(with->has_mtp);
  const auto left_out = convert(target(), target("plain.gguf"), {.mix = "BF16", .keep_mtp = false});
  ASSERT_TRUE(left_out.ok()) << left_out.error().message;
  const auto without = inspect_model(target("plain.gguf"));
  ASSERT_TRUE(without.ok()) << without.error().message;
  EXPECT_FALSE(without->has_mtp);
  EXPECT_EQ(without->attention_layers + without->delta_layers, with->attention_layers + with->delta_layers);
  EXPECT_EQ(logits_of(target()), logits_of(target("plain.gguf")));
}

TEST_F(ConversionTest, RequantisingGivesTheSameFileAsQuantising) {
  converted("F32", target("f32.gguf"));
  converted("Q8_0", target("direct.gguf"));
  const auto again = convert(target("f32.gguf"), target("again.gguf"), {.mix = "q8_0", .threads = 2});
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_TRUE(again->notes.empty());
  const GgufFile direct = opened(target("direct.gguf"));
  const GgufFile indirect = opened(target("again.gguf"));
  ASSERT_EQ(direct.tensors().size(), indirect.tensors().size());
  for (const auto& [name, tensor] : direct.tensors()) {
    const GgufTensor& other = indirect.tensors().at(name);
    EXPECT_EQ(tensor.dtype, other.dtype) << name;
    EXPECT_EQ(tensor.shape, other.shape) << name;
    EXPECT_TRUE(std::ranges::equal(tensor.bytes, other.bytes)) << name;
  }
  EXPECT_EQ(direct.metadata().size(), indirect.metadata().size());
  const auto twice = convert(target("again.gguf"), target("twice.gguf"), {.mix = "Q4_0"});
  ASSERT_TRUE(twice.ok());
  EXPECT_THAT(twice->notes, testing::ElementsAre(HasSubstr("quantised itself")));
}

TEST_F(ConversionTest, NamesTensorsWhoseRowsAreNoWholeBlocks) {
  const ConversionReport report = converted("Q4_K_M", target());
  ASSERT_FALSE(report.fallbacks.empty());
  const GgufFile file = opened(target());
  for (const TypeFallback& fallback : report.fallbacks) {
    EXPECT_NE(fallback.wanted, fallback.used);
    EXPECT_EQ(name_of(file.tensors().at(fallback.tensor).dtype), fallback.used);
  }
}

TEST_F(ConversionTest, CancellingLeavesNothing) {
  std::stop_source stop;
  const auto report = convert_model(
      source(), target(), {.mix = "Q4_0"},
      [&](const TaskProgress& progress) {
        if (progress.done > 0) stop.request_stop();
      },
      stop.get_token());
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(files_in_output(), 0U);
}

TEST_F(ConversionTest, ReplacesAFileOnlyWhenAsked) {
  output_.write("model.gguf", "mine");
  const auto refused = convert(source(), target(), {.mix = "F16"});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(fs::file_size(target()), 4U);
  EXPECT_TRUE(convert(source(), target(), {.mix = "F16", .overwrite = true}).ok());
  EXPECT_GT(fs::file_size(target()), 4U);
  EXPECT_TRUE(convert(target(), target(), {.mix = "Q8_0", .overwrite = true}).ok());  // onto itself
  EXPECT_TRUE(inspect_model(target()).ok());
  EXPECT_EQ(files_in_output(), 1U);
}

TEST_F(ConversionTest, RefusesWhatItCannotDo) {
  const auto error_of = [&](const fs::path& from, const fs::path& to, const std::string& mix) {
    const auto report = convert(from, to, {.mix = mix});
    return report.ok() ? std::string("it worked") : report.error().message;
  };
  EXPECT_THAT(error_of(source(), target(), "Q7_X"), HasSubstr("Q4_K_M"));
  EXPECT_THAT(error_of(source(), target("model.bin"), "F16"), HasSubstr(".gguf"));
  EXPECT_THAT(error_of(source(), output_ / "no/such/folder.gguf", "F16"), HasSubstr("cannot be written"));
  EXPECT_THAT(error_of(output_ / "nothing", target(), "F16"), HasSubstr("nothing"));
  EXPECT_EQ(files_in_output(), 0U);
}

// Overwrites the first numbers of a tensor in the file.
void spoil(const fs::path& file, const std::string& tensor, std::span<const float> numbers) {
  std::uint64_t at = 0;
  {
    const GgufFile gguf = opened(file);
    const GgufTensor& found = gguf.tensors().at(tensor);
    const GgufTensor& first = std::min_element(gguf.tensors().begin(), gguf.tensors().end(), [](auto& a, auto& b) {
                                return a.second.bytes.data() < b.second.bytes.data();
                              })->second;
    const GgufTensor& last = std::max_element(gguf.tensors().begin(), gguf.tensors().end(), [](auto& a, auto& b) {
                               return a.second.bytes.data() < b.second.bytes.data();
                             })->second;
    const auto padded = (last.bytes.size() + 31) / 32 * 32;
    const auto data = static_cast<std::uint64_t>(last.bytes.data() - first.bytes.data()) + padded;
    at = fs::file_size(file) - data + static_cast<std::uint64_t>(found.bytes.data() - first.bytes.data());
  }
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekp(static_cast<std::streamoff>(at));
  stream.write(reinterpret_cast<const char*>(numbers.data()), static_cast<std::streamsize>(numbers.size_bytes()));
}

TEST_F(ConversionTest, NumbersThatAreNoneAreFoundAndNotConverted) {
  converted("F32", target());
  const float bad[] = {std::numeric_limits<float>::quiet_NaN()};
  spoil(target(), "blk.0.ffn_down_shexp.weight", bad);
  const auto verified = verify_model(target(), 2, {}, {});
  ASSERT_TRUE(verified.ok()) << verified.error().message;
  EXPECT_FALSE(verified->sound());
  ASSERT_EQ(verified->findings.size(), 1U);
  EXPECT_THAT(verified->findings[0].item, HasSubstr("shared_expert.down_proj"));
  const auto report = convert(target(), target("q.gguf"), {.mix = "Q8_0"});
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(report.error().message, HasSubstr("shared_expert.down_proj"));
  EXPECT_FALSE(fs::exists(target("q.gguf")));
}

TEST_F(ConversionTest, NumbersBeyondSixteenBitsAreRefusedForF16Alone) {
  converted("F32", target());
  const float large[] = {70000.0F};
  spoil(target(), "token_embd.weight", large);
  const auto half = convert(target(), target("half.gguf"), {.mix = "F16"});
  ASSERT_FALSE(half.ok());
  EXPECT_THAT(half.error().message, HasSubstr("BF16"));
  EXPECT_TRUE(convert(target(), target("bf16.gguf"), {.mix = "BF16"}).ok());
  EXPECT_FALSE(verify_model(target(), 1, {}, {})->sound());
}

TEST_F(ConversionTest, VerifyFindsHolesAndGrowingStates) {
  converted("F32", target());
  const std::vector<float> zeros(static_cast<std::size_t>(64 * 1024));
  std::int64_t numbers = 1;
  {
    const GgufFile file = opened(target());
    for (const std::int64_t length : file.tensors().at("blk.0.ffn_up_exps.weight").shape) numbers *= length;
  }
  spoil(target(), "blk.0.ffn_up_exps.weight",
        std::span(zeros).first(std::min(zeros.size(), static_cast<std::size_t>(numbers))));
  const float growing[] = {0.5F};
  spoil(target(), "blk.0.ssm_a", growing);
  const auto verified = verify_model(target(), 1, {}, {});
  ASSERT_TRUE(verified.ok());
  EXPECT_EQ(std::count_if(verified->findings.begin(), verified->findings.end(), [](auto& f) { return f.wrong; }), 2);
}

// The tensors of the published 48-layer shape that a mix gives a type.
std::map<DType, int> types_of_80b(const char* mix_name) {
  const Mix& mix = *find_mix(mix_name);
  std::map<DType, int> counts;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, std::int64_t block) {
    ++counts[type_in_mix(mix, {name, shape, block, 48, 8, false})];
  };
  add("token_embd.weight", {151936, 2048}, -1);
  add("output.weight", {151936, 2048}, -1);
  for (std::int64_t i = 0; i < 48; ++i) {
    const std::string to = "blk." + std::to_string(i) + ".";
    if (i % 4 == 3) {
      for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) add(to + name + ".weight", {512, 2048}, i);
    } else {
      for (const char* name : {"attn_qkv", "attn_gate", "ssm_ba", "ssm_out"}) add(to + name + ".weight", {64, 2048}, i);
    }
    for (const char* name : {"gate", "up", "down"}) {
      add(to + "ffn_" + name + "_exps.weight", {512, 512, 2048}, i);
      add(to + "ffn_" + name + "_shexp.weight", {512, 2048}, i);
    }
  }
  return counts;
}

TEST(MixTest, FollowsThePublishedRecipes) {
  using Counts = std::map<DType, int>;
  EXPECT_EQ(types_of_80b("Q8_0"), (Counts{{DType::kQ8_0, 482}}));
  EXPECT_EQ(types_of_80b("Q6_K"), (Counts{{DType::kQ6K, 482}}));
  EXPECT_EQ(types_of_80b("Q4_K_M"), (Counts{{DType::kQ4K, 482 - 73}, {DType::kQ6K, 1 + 24 * 3}}));
  EXPECT_EQ(types_of_80b("Q5_K_M"), (Counts{{DType::kQ5K, 482 - 73}, {DType::kQ6K, 1 + 24 * 3}}));
  EXPECT_EQ(types_of_80b("Q4_K_S"), (Counts{{DType::kQ4K, 482 - 17}, {DType::kQ5K, 12 + 3 + 1}, {DType::kQ6K, 1}}));
  EXPECT_EQ(types_of_80b("IQ4_XS"), (Counts{{DType::kIq4Xs, 482 - 61}, {DType::kQ5K, 48 + 12}, {DType::kQ6K, 1}}));
  EXPECT_EQ(types_of_80b("MXFP4_MOE"), (Counts{{DType::kMxfp4, 144}, {DType::kQ8_0, 482 - 144}}));
  EXPECT_EQ(types_of_80b("Q4_0"), (Counts{{DType::kQ4_0, 481}, {DType::kQ6K, 1}}));
}

TEST(MixTest, FindsATypeForRowsOfAnyLength) {
  EXPECT_EQ(type_for_rows(DType::kQ4K, 512), DType::kQ4K);
  EXPECT_EQ(type_for_rows(DType::kQ4K, 96), DType::kQ5_0);
  EXPECT_EQ(type_for_rows(DType::kQ5K, 96), DType::kQ5_1);
  EXPECT_EQ(type_for_rows(DType::kQ6K, 96), DType::kQ8_0);
  EXPECT_EQ(type_for_rows(DType::kQ2K, 96), DType::kIq4Nl);
  EXPECT_EQ(type_for_rows(DType::kIq4Xs, 96), DType::kIq4Nl);
  EXPECT_EQ(type_for_rows(DType::kQ6K, 90), DType::kF16);
  EXPECT_EQ(type_for_rows(DType::kQ8_0, 90), DType::kF16);
}

}  // namespace
}  // namespace lectern::engine
