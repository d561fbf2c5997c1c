// SPDX-License-Identifier: GPL-3.0-or-later
// Damaged copies of the bundled model: each is refused in one sentence and the library stays as it was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>

#include "cli_process.h"
#include "support/scratch.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// A safetensors file: header length (8 bytes, little endian), JSON header, tensor data.
struct TensorFile {
  ordered_json header;
  std::string data;

  static TensorFile parse(const std::string& bytes) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    return {ordered_json::parse(bytes.substr(8, length)), bytes.substr(8 + length)};
  }

  std::string bytes() const {
    const std::string text = header.dump();
    const std::uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + data;
  }

  // Any tensor but the file's own metadata.
  std::string someTensor() const {
    for (const auto& [name, value] : header.items()) {
      if (name != "__metadata__") return name;
    }
    return "";
  }
};

class ModelFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    const fs::path nano = fs::path(LECTERN_RESOURCES) / "models" / "nano";
    if (!fs::exists(nano / "config.json")) FAIL() << "the bundled model is not in this checkout";
    m_model = m_files.path() / "model";
    fs::create_directory(m_model);
    for (const fs::directory_entry& entry : fs::directory_iterator(nano)) {
      if (entry.is_regular_file()) fs::copy_file(entry.path(), m_model / entry.path().filename());
    }
    const fs::path notes = m_files.write("mast.txt", "The signal mast of Garrick Hill was raised in 1874.\n");
    ASSERT_EQ(m_cli.run({"ingest", "--no-embeddings", notes.string()}).code, 0);
  }

  fs::path weights() const {
    for (const fs::directory_entry& entry : fs::directory_iterator(m_model)) {
      if (entry.path().extension() == ".safetensors") return entry.path();
    }
    return {};
  }

  void replace(const fs::path& file, const std::string& content) const {
    m_files.write(file.lexically_relative(m_files.path()).string(), content);
  }

  Finished ask() const {
    return m_cli.run({"ask", "--quiet", "--no-embeddings", "--model", m_model.string(), "When was the mast raised?"});
  }

  void expectRefused(const std::string& named) const {
    const Finished finished = ask();
    EXPECT_EQ(finished.code, 1) << finished.out << finished.err;
    EXPECT_EQ(finished.errorLines(), 1U) << finished.err;
    EXPECT_THAT(finished.err, testing::HasSubstr(named));
    EXPECT_EQ(finished.out, "");
    EXPECT_EQ(m_cli.run({"ls", "--json"}).json()["documents"].size(), 1U);
  }

  test::Scratch m_files;
  test::Scratch m_data;
  Cli m_cli{m_data.path()};
  fs::path m_model;
};

TEST_F(ModelFilesTest, UntouchedCopyAnswers) {
  const Finished finished = ask();
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_NE(finished.out, "");
}

TEST_F(ModelFilesTest, TensorBeyondTheEndOfTheFile) {
  TensorFile file = TensorFile::parse(readFile(weights()));
  const std::string tensor = file.someTensor();
  for (auto& offset : file.header[tensor]["data_offsets"]) offset = offset.get<std::uint64_t>() + file.data.size();
  replace(weights(), file.bytes());
  expectRefused(weights().filename().string());
}

TEST_F(ModelFilesTest, TensorWithOffsetsThatWrapAround) {
  TensorFile file = TensorFile::parse(readFile(weights()));
  file.header[file.someTensor()]["data_offsets"] = {18446744073709551612U, 16U};
  replace(weights(), file.bytes());
  expectRefused(weights().filename().string());
}

TEST_F(ModelFilesTest, MissingTensorIsNamed) {
  TensorFile file = TensorFile::parse(readFile(weights()));
  file.header["elsewhere"] = file.header["model.norm.weight"];  // its bytes stay accounted for
  file.header.erase("model.norm.weight");
  replace(weights(), file.bytes());
  expectRefused("model.norm.weight");
}

TEST_F(ModelFilesTest, CutWeights) {
  const std::string whole = readFile(weights());
  replace(weights(), whole.substr(0, whole.size() / 2));
  expectRefused(weights().filename().string());
}

TEST_F(ModelFilesTest, HeaderLongerThanTheFile) {
  std::string whole = readFile(weights());
  whole.replace(0, 8, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8));
  replace(weights(), whole);
  expectRefused(weights().filename().string());
}

TEST_F(ModelFilesTest, TokenizerWithAHole) {
  int changed = 0;
  for (const char* name : {"tokenizer.json", "vocab.json"}) {
    const fs::path file = m_model / name;
    if (!fs::exists(file)) continue;
    ordered_json json = ordered_json::parse(readFile(file));
    ordered_json& vocabulary = json.contains("model") ? json["model"]["vocab"] : json;
    std::string removed;
    for (const auto& [token, id] : vocabulary.items()) {
      if (id == 300) removed = token;
    }
    vocabulary.erase(removed);
    replace(file, json.dump());
    ++changed;
  }
  ASSERT_GT(changed, 0);
  expectRefused(".json");
}

TEST_F(ModelFilesTest, ConfigurationThatIsNoJson) {
  replace(m_model / "config.json", "{\"num_hidden_layers\": ");
  expectRefused("config.json");
}

TEST_F(ModelFilesTest, ConfigurationWithAbsurdSizes) {
  ordered_json json = ordered_json::parse(readFile(m_model / "config.json"));
  json["hidden_size"] = 1LL << 40;
  replace(m_model / "config.json", json.dump());
  expectRefused("");
}

TEST_F(ModelFilesTest, PromptProfileThatIsNoJson) {
  m_files.write("model/lectern.json", "{");
  expectRefused("lectern.json");
}

}  // namespace
}  // namespace lectern::app
