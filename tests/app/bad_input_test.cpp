// SPDX-License-Identifier: GPL-3.0-or-later
// Files and libraries that cannot be used: one clear sentence each, and no harm to anything else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>

#include "cli_process.h"
#include "support/scratch.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kNotes = "The signal mast of Garrick Hill was raised in 1874.\n\nIt carries two lamps.\n";

std::string testPdf(const std::string& name) { return readFile(fs::path(LECTERN_TEST_DATA) / name); }

class BadInputTest : public testing::Test {
 protected:
  Finished ingest(const fs::path& path, Privilege privilege = Privilege::kOwn) const {
    return m_cli.run({"ingest", "--json", "--no-embeddings", path.string()}, privilege);
  }

  // Items of an ingest by file name.
  static std::map<std::string, json> itemsOf(const Finished& finished) {
    std::map<std::string, json> items;
    const json result = finished.json();
    for (const json& item : result["items"]) {
      items[fs::path(item["path"].get<std::string>()).filename().string()] = item;
    }
    return items;
  }

  // One failed item that says `expected`, beside a good file that is kept.
  void expectOneFailure(const std::string& name, const std::string& content, const std::string& expected) {
    m_files.write("documents/notes.txt", kNotes);
    m_files.write("documents/" + name, content);
    const Finished finished = ingest(m_files.path() / "documents");
    EXPECT_EQ(finished.code, 3) << finished.err;
    auto items = itemsOf(finished);
    ASSERT_TRUE(items.count(name)) << finished.out;
    EXPECT_EQ(items[name]["outcome"], "failed");
    const std::string message = items[name]["message"];
    EXPECT_THAT(message, HasSubstr(name));
    EXPECT_THAT(message, HasSubstr(expected));
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_EQ(items["notes.txt"]["outcome"], "added");
    EXPECT_EQ(m_cli.run({"search", "--no-embeddings", "signal mast"}).code, 0);
  }

  test::Scratch m_files;
  test::Scratch m_data;
  Cli m_cli{m_data.path()};
};

TEST_F(BadInputTest, EncryptedPdf) { expectOneFailure("locked.pdf", testPdf("encrypted.pdf"), "password"); }

TEST_F(BadInputTest, TruncatedPdf) {
  const std::string whole = testPdf("harbour.pdf");
  expectOneFailure("cut.pdf", whole.substr(0, whole.size() / 3), "");
}

TEST_F(BadInputTest, EmptyFilesAreNamed) {
  for (const char* name : {"nothing.pdf", "nothing.txt"}) {
    const Finished finished = ingest(m_files.write(name, ""));
    EXPECT_EQ(finished.code, 3) << finished.err;
    auto items = itemsOf(finished);
    ASSERT_TRUE(items.count(name)) << finished.out;
    EXPECT_THAT(items[name]["message"].get<std::string>(), HasSubstr("empty"));
  }
}

TEST_F(BadInputTest, ProgramsAreRefused) {
  std::string noise =
      "\x7f"
      "ELF";
  for (int i = 0; i < 5000; ++i) noise += static_cast<char>(i * 7919 % 256);
  expectOneFailure("program", noise, "is a program");
  EXPECT_EQ(m_cli.run({"search", "--no-embeddings", "ELF"}).code, 4);
}

TEST_F(BadInputTest, NoiseIsRefused) {
  std::string noise;
  for (int i = 0; i < 5000; ++i) noise += static_cast<char>(i * 7919 % 256);
  expectOneFailure("noise.txt", noise, "");
}

TEST_F(BadInputTest, MissingPath) {
  const Finished finished = ingest(m_files.path() / "no-such-file.pdf");
  EXPECT_EQ(finished.code, 3) << finished.err;
  EXPECT_THAT(finished.out, HasSubstr("no-such-file.pdf"));
}

TEST_F(BadInputTest, FolderWithoutPermission) {
  if (!canDropOverride()) GTEST_SKIP() << "this process may read everything and cannot give that up";
  m_files.write("documents/notes.txt", kNotes);
  m_files.write("documents/closed/secret.txt", "The door code is not for everyone.\n");
  const fs::path closed = m_files.path() / "documents" / "closed";
  fs::permissions(closed, fs::perms::none);
  const Finished finished = ingest(m_files.path() / "documents", Privilege::kNoOverride);
  fs::permissions(closed, fs::perms::owner_all);
  auto items = itemsOf(finished);
  ASSERT_TRUE(items.count("closed")) << finished.out;
  EXPECT_EQ(finished.code, 3) << finished.err;
  EXPECT_EQ(items["closed"]["outcome"], "failed");
  EXPECT_THAT(items["closed"]["message"].get<std::string>(), HasSubstr("check its permissions"));
  EXPECT_EQ(items["notes.txt"]["outcome"], "added");
}

TEST_F(BadInputTest, FileWithoutPermission) {
  if (!canDropOverride()) GTEST_SKIP() << "this process may read everything and cannot give that up";
  const fs::path file = m_files.write("closed.txt", kNotes);
  fs::permissions(file, fs::perms::none);
  const Finished finished = ingest(file, Privilege::kNoOverride);
  EXPECT_EQ(finished.code, 3) << finished.err;
  EXPECT_EQ(itemsOf(finished)["closed.txt"]["outcome"], "failed");
}

class LibraryFileTest : public BadInputTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(ingest(m_files.write("notes.txt", kNotes)).code, 0);
    m_file = m_data.path() / "libraries" / "default" / "library.sqlite";
    ASSERT_TRUE(fs::exists(m_file));
  }

  void overwrite(std::size_t offset, const std::string& bytes) const {
    std::string content = readFile(m_file);
    ASSERT_GT(content.size(), offset + bytes.size());
    content.replace(offset, bytes.size(), bytes);
    m_data.write("libraries/default/library.sqlite", content);
  }

  fs::path m_file;
};

TEST_F(LibraryFileTest, NewerVersionIsLeftUntouched) {
  overwrite(60, std::string("\0\0\x27\x0f", 4));  // user_version in the header of an SQLite file
  const std::string before = readFile(m_file);
  for (const char* command : {"search", "ask"}) {
    const Finished finished = m_cli.run({command, "signal mast"});
    EXPECT_EQ(finished.code, 5) << finished.err;
    EXPECT_EQ(finished.errorLines(), 1U) << finished.err;
    EXPECT_THAT(finished.err, HasSubstr("newer"));
  }
  EXPECT_EQ(ingest(m_files.path() / "notes.txt").code, 5);
  EXPECT_EQ(readFile(m_file), before);
}

TEST_F(LibraryFileTest, DamagedHeaderIsAnErrorAndTheFileIsKept) {
  overwrite(0, "not a library at all");
  const std::string before = readFile(m_file);
  const Finished finished = m_cli.run({"search", "signal mast"});
  EXPECT_EQ(finished.code, 1) << finished.err;
  EXPECT_EQ(finished.errorLines(), 1U) << finished.err;
  EXPECT_EQ(readFile(m_file), before);
}

TEST_F(LibraryFileTest, UnwritableFolderSaysSo) {
  if (!canDropOverride()) GTEST_SKIP() << "this process may write everywhere and cannot give that up";
  const fs::path closed = m_files.path() / "closed";
  fs::create_directory(closed);
  fs::permissions(closed, fs::perms::owner_read | fs::perms::owner_exec);
  const Finished finished = m_cli.run({"ingest", "--library", (closed / "library").string(), m_files.path().string()},
                                      Privilege::kNoOverride);
  EXPECT_EQ(finished.code, 1);
  EXPECT_EQ(finished.errorLines(), 1U) << finished.err;
  EXPECT_THAT(finished.err, HasSubstr("closed"));
}

}  // namespace
}  // namespace lectern::app
