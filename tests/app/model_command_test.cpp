// SPDX-License-Identifier: GPL-3.0-or-later
// The commands that look at, convert, compare and measure models, on the bundled one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cli_process.h"
#include "support/promptness.h"
#include "support/scratch.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class ModelCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(nano() / "config.json")) FAIL() << "this checkout has no bundled model";
  }

  static fs::path nano() { return fs::path(LECTERN_RESOURCES) / "models" / "nano"; }
  std::string file(const std::string& name) const { return (m_files.path() / name).string(); }

  // A quarter of the model's size.
  std::string quantised() {
    const Finished made = m_cli.run({"model", "quantize", "nano", file("small.gguf"), "--mix", "Q4_0", "--quiet"});
    EXPECT_EQ(made.code, 0) << made.err;
    return file("small.gguf");
  }

  test::Scratch m_files;
  test::Scratch m_data;
  Cli m_cli{m_data.path()};
};

TEST_F(ModelCommandTest, InfoSaysWhatAModelIs) {
  const Finished text = m_cli.run({"model", "info", "nano"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, testing::AllOf(HasSubstr("qwen3_next"), HasSubstr("MTP"), HasSubstr("Context")));
  const json info = m_cli.run({"model", "info", nano().string(), "--json", "--tensors"}).json();
  EXPECT_EQ(info["format"], "safetensors");
  EXPECT_GT(info["parameters"], 1'000'000);
  EXPECT_GT(info["tokenizer_tokens"], 0);
  EXPECT_LT(info["active_parameters"], info["parameters"]);
  EXPECT_FALSE(info["tensors"].empty());
  EXPECT_GT(info["memory"][0]["total_bytes"], info["weight_bytes"]);
}

TEST_F(ModelCommandTest, InfoPredictsSpeedWhenItIsAskedTo) {
  const json plain = m_cli.run({"model", "info", "nano", "--json"}).json();
  EXPECT_FALSE(plain.contains("placement"));
  const Finished text = m_cli.run({"model", "info", "nano", "--device", "cpu", "--context", "1024"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, testing::AllOf(HasSubstr("On cpu"), HasSubstr("Predicted: reading"), HasSubstr("1024 tokens")));
  const json info = m_cli.run({"model", "info", "nano", "--device", "cpu", "--json"}).json();
  EXPECT_GT(info["placement"]["predicted"]["decode_tokens_per_second"], 0);
  EXPECT_GT(info["placement"]["predicted"]["prefill_tokens_per_second"], 0);
  EXPECT_GT(info["placement"]["predicted"]["assumed"]["memory_gigabytes_per_second"], 0);
}

TEST_F(ModelCommandTest, AConvertedModelIsSoundAndAnswersLikeItsSource) {
  const Finished made = m_cli.run({"model", "convert", "nano", file("nano.gguf"), "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(made.json()["mix"], "BF16");
  EXPECT_TRUE(made.json()["mtp"]);
  EXPECT_EQ(made.json()["file_bytes"], fs::file_size(file("nano.gguf")));

  const Finished checked = m_cli.run({"model", "verify", file("nano.gguf"), "--json"});
  EXPECT_EQ(checked.code, 0) << checked.out;
  EXPECT_TRUE(checked.json()["sound"]);

  const Finished compared = m_cli.run({"model", "compare", "nano", file("nano.gguf"), "--decode", "4", "--json"});
  ASSERT_EQ(compared.code, 0) << compared.err;
  EXPECT_GT(compared.json()["agreement"]["same_top_token"], 0.999);
  EXPECT_LT(compared.json()["agreement"]["mean_kl_divergence"], 1e-5);
}

TEST_F(ModelCommandTest, AskTakesAGgufFile) {
  m_files.write("text/mast.txt", "The mast of the ship was raised in 1907 by two brothers.\n");
  ASSERT_EQ(m_cli.run({"ingest", "--no-embeddings", file("text")}).code, 0);
  const Finished answered = m_cli.run(
      {"ask", "--no-embeddings", "--json", "--model", quantised(), "--max-tokens", "8", "When was the mast raised?"});
  EXPECT_EQ(answered.code, 0) << answered.err;
  EXPECT_EQ(answered.json()["model"], "small");
}

TEST_F(ModelCommandTest, BenchGivesTheFieldsThatOtherProgramsRead) {
  const Finished run = m_cli.run({"bench", "--model", quantised(), "--threads", "1", "--prefill", "24", "--decode", "6",
                                  "--depth", "40", "--batch", "2", "--repeat", "2", "--draft", "2", "--json"});
  ASSERT_EQ(run.code, 0) << run.err;
  const json result = run.json();
  for (const char* field : {"prefill_tokens_per_second", "decode_tokens_per_second", "decode_gigabytes_per_second",
                            "prefill_gigaflops", "peak_resident_bytes"}) {
    ASSERT_TRUE(result.contains(field)) << field;
    EXPECT_GT(result[field], 0) << field;
  }
  EXPECT_GT(result["machine"]["read_gigabytes_per_second"], 0);
  EXPECT_GT(result["predicted"]["decode_tokens_per_second"], 0);
  EXPECT_GT(result["predicted"]["prefill_tokens_per_second"], 0);
  EXPECT_EQ(result["threads"], 1);
  EXPECT_EQ(result["depth_tokens"], 40);
  EXPECT_TRUE(result["repeatable"]);
  EXPECT_TRUE(result["drafts"]["same_tokens"]);
  EXPECT_EQ(result["logits_fingerprint"].get<std::string>().size(), 16U);
}

TEST_F(ModelCommandTest, BenchDecodesSeveralSequencesTogether) {
  json alone;
  for (const int batch : {1, 3, 8}) {
    const Finished run = m_cli.run({"bench", "--model", "nano", "--threads", "1", "--prefill", "16", "--decode", "4",
                                    "--repeat", "1", "--batch", std::to_string(batch), "--json"});
    ASSERT_EQ(run.code, 0) << run.err;
    const json result = run.json();
    EXPECT_EQ(result["batch"], batch);
    EXPECT_DOUBLE_EQ(result["decode_tokens_per_second_each"].get<double>() * batch,
                     result["decode_tokens_per_second"].get<double>());
    if (batch == 1) alone = result;
    EXPECT_EQ(result["logits_fingerprint"], alone["logits_fingerprint"]) << "neighbours change no bit";
  }
}

// A vocabulary of millions takes seconds to read, and reading it cannot be interrupted.
TEST_F(ModelCommandTest, MeasuringStopsWhileAModelIsBeingOpened) {
  fs::copy(nano(), m_files.path() / "slow", fs::copy_options::recursive);
  std::ifstream stream(nano() / "tokenizer.json");
  json tokenizer = json::parse(stream);
  tokenizer["model"]["vocab"].clear();
  for (int i = 0; i < 2'000'000; ++i) tokenizer["model"]["vocab"]["w" + std::to_string(i)] = i;
  m_files.write("slow/tokenizer.json", tokenizer.dump());
  for (const std::vector<std::string>& command : {std::vector<std::string>{"bench", "--model", file("slow"), "--quiet"},
                                                  {"model", "compare", file("slow"), "nano", "--quiet"}}) {
    Cli::Running running = m_cli.start(command);
    std::this_thread::sleep_for(std::chrono::seconds(1));  // it loads
    const auto before = std::chrono::steady_clock::now();
    running.signal(SIGINT);
    const Finished finished = running.finish();
    EXPECT_EQ(finished.code, 130) << finished.err;
    EXPECT_EQ(finished.errorLines(), 1U) << finished.err;
    EXPECT_LT(std::chrono::steady_clock::now() - before, test::kPromptly);
  }
}

TEST_F(ModelCommandTest, AFileCutShortWhileItIsReadEndsInASentence) {
  Finished finished;
  for (int wait = 500; finished.err.find("any more") == std::string::npos && wait <= 16'000; wait *= 2) {
    fs::remove(file("small.gguf"));
    const std::string model = quantised();
    Cli::Running running =
        m_cli.start({"bench", "--model", model, "--weights", "map", "--decode", "100000", "--threads", "1", "--quiet"});
    std::this_thread::sleep_for(std::chrono::milliseconds(wait));  // at first it may still be opening the file
    fs::resize_file(model, 4096);
    finished = running.finish();
    EXPECT_EQ(finished.code, 1) << finished.err;
    EXPECT_EQ(finished.errorLines(), 1U) << finished.err;
  }
  EXPECT_THAT(finished.err, HasSubstr("any more"));
}

// Unlike a library, a model is for whomever the user's own settings let read it.
TEST_F(ModelCommandTest, AModelIsWrittenWithTheUsualMode) {
  const auto all = fs::perms::owner_read | fs::perms::owner_write;
  for (const auto& [mask, expected] : {std::pair{022U, all | fs::perms::group_read | fs::perms::others_read},
                                       std::pair{077U, all}, std::pair{027U, all | fs::perms::group_read}}) {
    const mode_t before = umask(mask);
    fs::remove(file("small.gguf"));
    EXPECT_EQ(fs::status(quantised()).permissions(), expected);
    umask(before);
  }
}

TEST_F(ModelCommandTest, RulerReportsEveryTask) {
  const Finished run = m_cli.run({"eval", "ruler", "--model", "nano", "--lengths", "1024", "--samples", "1", "--tasks",
                                  "needle,variable_tracking", "--json"});
  ASSERT_EQ(run.code, 0) << run.err;
  const json result = run.json();
  EXPECT_TRUE(result["complete"]);
  ASSERT_EQ(result["results"].size(), 2U);
  for (const json& cell : result["results"]) {
    EXPECT_GE(cell["score"], 0);
    EXPECT_LE(cell["mean_prompt_tokens"], 1024);
    EXPECT_GT(cell["mean_prompt_tokens"], 850);
  }
  EXPECT_EQ(m_cli.run({"eval", "ruler", "--tasks", "juggling"}).code, 2);
}

TEST_F(ModelCommandTest, RulerKeepsWhatWasFinishedWhenStopped) {
  Finished finished;
  for (int wait = 500; finished.out.empty() && wait <= 16'000; wait *= 2) {  // at first it may still be loading
    Cli::Running running = m_cli.start({"eval", "ruler", "--model", "nano", "--samples", "1000", "--json"});
    std::this_thread::sleep_for(std::chrono::milliseconds(wait));
    running.signal(SIGINT);
    finished = running.finish();
    EXPECT_EQ(finished.code, 130) << finished.err;
  }
  ASSERT_FALSE(finished.out.empty());
  EXPECT_FALSE(finished.json()["complete"]);
}

TEST_F(ModelCommandTest, MistakesAreSentences) {
  const Finished mix = m_cli.run({"model", "quantize", "nano", file("x.gguf"), "--mix", "Q9"});
  EXPECT_EQ(mix.code, 1);
  EXPECT_THAT(mix.err, HasSubstr("Q4_K_M"));
  EXPECT_EQ(m_cli.run({"model", "quantize", "nano", quantised()}).code, 1);  // exists
  EXPECT_EQ(m_cli.run({"model", "quantize", "nano", file("small.gguf"), "--force", "--mix", "Q8_0"}).code, 0);
  EXPECT_EQ(m_cli.run({"model", "info", file("none.gguf")}).code, 1);
  m_files.write("broken.gguf", "GGUF and nothing else");
  const Finished broken = m_cli.run({"model", "verify", file("broken.gguf")});
  EXPECT_EQ(broken.code, 1);
  EXPECT_EQ(broken.errorLines(), 1U) << broken.err;
  EXPECT_EQ(m_cli.run({"model"}).code, 2);
  EXPECT_EQ(m_cli.run({"bench", "--kv", "q3"}).code, 2);
  EXPECT_EQ(m_cli.run({"bench", "--depth", "9999999", "--model", "nano"}).code, 1);
}

TEST_F(ModelCommandTest, StoppingAConversionLeavesNothing) {
  Finished finished;
  for (int attempt = 0; finished.code != 130 && attempt < 20; ++attempt) {  // the conversion may be faster
    Cli::Running running =
        m_cli.start({"model", "quantize", "nano", file("stopped.gguf"), "--mix", "Q2_K", "--threads", "1", "--force"});
    for (int i = 0; i < 5000 && fs::is_empty(m_files.path()); ++i) {  // until it writes
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    running.signal(SIGINT);
    finished = running.finish();
    if (finished.code == 0) fs::remove(file("stopped.gguf"));
  }
  EXPECT_EQ(finished.code, 130) << finished.err;
  EXPECT_TRUE(fs::is_empty(m_files.path()));
}

}  // namespace
}  // namespace lectern::app
