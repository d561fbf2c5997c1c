// SPDX-License-Identifier: GPL-3.0-or-later
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <limits>
#include <set>
#include <string>

#include "bert_folder.h"
#include "cli_process.h"
#include "support/scratch.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class CommandLineTest : public testing::Test {
 protected:
  void addNotes() {
    m_files.write("notes/mast.txt", "The signal mast of Garrick Hill was raised in 1874.\n\nIt carries two lamps.\n");
    m_files.write("notes/well.md", "# The well\n\nThe well in the yard is nineteen metres deep.\n");
    const Finished finished = m_cli.run({"ingest", "--no-embeddings", (m_files.path() / "notes").string()});
    ASSERT_EQ(finished.code, 0) << finished.out << finished.err;
  }

  json documents() const { return m_cli.run({"ls", "--json"}).json()["documents"]; }

  test::Scratch m_files;
  test::Scratch m_data;
  Cli m_cli{m_data.path()};
};

TEST_F(CommandLineTest, VersionAndHelp) {
  const Finished version = m_cli.run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, testing::MatchesRegex("lectern-cli [0-9.]+\n"));
  const Finished help = m_cli.run({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* word : {"ingest", "search", "ask", "ls", "rm", "doctor", "Exit codes"}) {
    EXPECT_THAT(help.out, HasSubstr(word));
  }
}

TEST_F(CommandLineTest, WrongUseIsCodeTwo) {
  EXPECT_EQ(m_cli.run({}).code, 2);
  EXPECT_EQ(m_cli.run({"paint"}).code, 2);
  EXPECT_EQ(m_cli.run({"ask"}).code, 2);
  EXPECT_EQ(m_cli.run({"ask", "why", "--colour"}).code, 2);
  EXPECT_EQ(m_cli.run({"search", "--limit", "0", "why"}).code, 2);
}

TEST_F(CommandLineTest, MissingLibraryIsNotCreatedByLooking) {
  for (const char* command : {"ls", "search", "ask"}) {
    std::vector<std::string> arguments = {command};
    if (std::string(command) != "ls") arguments.emplace_back("lamps");
    const Finished finished = m_cli.run(arguments);
    EXPECT_EQ(finished.code, 4) << command;
    EXPECT_EQ(finished.errorLines(), 1U) << finished.err;
  }
  EXPECT_TRUE(fs::is_empty(m_data.path()));
}

TEST_F(CommandLineTest, ErrorsAreJsonToo) {
  const Finished finished = m_cli.run({"--json", "ls"});
  EXPECT_EQ(finished.code, 4);
  EXPECT_EQ(finished.json()["error"]["code"], "not_found");
}

TEST_F(CommandLineTest, GlobalOptionsWorkOnBothSides) {
  const std::string library = (m_files.path() / "library").string();
  const std::string file = m_files.write("mast.txt", "The signal mast was raised in 1874.\n").string();
  ASSERT_EQ(m_cli.run({"--library", library, "--no-embeddings", "ingest", file}).code, 0);
  EXPECT_EQ(m_cli.run({"ls", "--json", "--library", library}).json()["documents"].size(), 1U);
  EXPECT_EQ(m_cli.run({"--library", library, "--json", "ls"}).json()["documents"].size(), 1U);
}

TEST_F(CommandLineTest, LibraryIsClosedToOthers) {
  addNotes();
  const fs::path folder = m_data.path() / "libraries" / "default";
  EXPECT_EQ(fs::status(folder).permissions() & fs::perms::all, fs::perms::owner_all);
  const fs::perms others = fs::perms::group_all | fs::perms::others_all;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    EXPECT_EQ(entry.status().permissions() & others, fs::perms::none) << entry.path();
  }
}

TEST_F(CommandLineTest, SecondIngestChangesNothing) {
  addNotes();
  const Finished again = m_cli.run({"ingest", "--json", "--no-embeddings", (m_files.path() / "notes").string()});
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(again.json()["report"]["unchanged"], 2);
  EXPECT_EQ(again.json()["report"]["added"], 0);
}

TEST_F(CommandLineTest, SaysWhenTheEmbeddingModelFails) {
  const fs::path file = m_files.write("mast.txt", "The signal mast was raised in 1874.\n");
  writeBert(m_data.path() / "models" / "all-MiniLM-L6-v2", std::numeric_limits<float>::quiet_NaN(),
            "[PAD]\n[UNK]\n[CLS]\n[SEP]\n");
  const Finished finished = m_cli.run({"ingest", file.string()});
  EXPECT_EQ(finished.code, 0) << "the document is kept";
  EXPECT_THAT(finished.out, HasSubstr("1 added"));
  EXPECT_THAT(finished.err, HasSubstr("by words alone"));
  EXPECT_EQ(finished.errorLines(), 1U) << finished.err;
  const json report = m_cli.run({"ingest", "--json", file.string()}).json()["report"];
  EXPECT_NE(report.value("embedding_error", ""), "") << report;
}

TEST_F(CommandLineTest, SearchSaysWhereAndWhy) {
  addNotes();
  const Finished finished = m_cli.run({"search", "--json", "--no-embeddings", "how deep is the well"});
  ASSERT_EQ(finished.code, 0) << finished.err;
  const json result = finished.json();
  ASSERT_FALSE(result["hits"].empty());
  const json& hit = result["hits"][0];
  EXPECT_EQ(hit["rank"], 1);
  EXPECT_EQ(hit["word_rank"], 1);
  EXPECT_EQ(hit["vector_rank"], 0);
  EXPECT_GT(hit["score"].get<double>(), 0);
  EXPECT_THAT(hit["text"].get<std::string>(), HasSubstr("nineteen metres"));
  EXPECT_GE(hit["first_line"].get<int>(), 1);
  const Finished text = m_cli.run({"search", "--quiet", "--no-embeddings", "how deep is the well"});
  EXPECT_THAT(text.out, HasSubstr("nineteen metres"));
  EXPECT_EQ(text.err, "");
}

TEST_F(CommandLineTest, AnyTextIsAQuery) {
  addNotes();
  for (const char* query : {"\"", "NEAR(", "a AND OR", "*", "-x", "';--", "\xff\xfe", "(lamps"}) {
    const Finished finished = m_cli.run({"search", "--json", "--no-embeddings", "--", query});
    EXPECT_THAT(finished.code, testing::AnyOf(0, 4)) << query << ": " << finished.err;
    finished.json();
  }
}

TEST_F(CommandLineTest, NothingFoundIsCodeFour) {
  addNotes();
  EXPECT_EQ(m_cli.run({"search", "--no-embeddings", "zygomorphic"}).code, 4);
}

TEST_F(CommandLineTest, SearchWithinOneDocument) {
  addNotes();
  for (const json& document : documents()) {
    const std::string id = std::to_string(document["document"].get<int>());
    const Finished finished = m_cli.run({"search", "--json", "--no-embeddings", "--document", id, "mast well"});
    const json result = finished.json();
    for (const json& hit : result["hits"]) EXPECT_EQ(hit["document"], document["document"]);
  }
}

TEST_F(CommandLineTest, RemovesByNumberAndByPath) {
  addNotes();
  const json before = documents();
  ASSERT_EQ(before.size(), 2U);
  EXPECT_EQ(m_cli.run({"rm", "999999"}).code, 4);
  EXPECT_EQ(m_cli.run({"rm", std::to_string(before[0]["document"].get<int>())}).code, 0);
  EXPECT_EQ(m_cli.run({"rm", "--json", before[1]["path"].get<std::string>()}).json()["removed"].size(), 1U);
  EXPECT_TRUE(documents().empty());
  EXPECT_TRUE(fs::exists(m_files.path() / "notes" / "mast.txt"));
}

TEST_F(CommandLineTest, DoctorReportsEveryPart) {
  const Finished finished = m_cli.run({"doctor", "--json"});
  const json result = finished.json();
  std::set<std::string> topics;
  for (const json& finding : result["findings"]) {
    topics.insert(finding["topic"].get<std::string>());
    EXPECT_NE(finding["text"], "") << finding;
    EXPECT_NE(finding["state"], "broken") << finding;
  }
  EXPECT_THAT(topics,
              testing::IsSupersetOf({"version", "device", "model", "embedding model", "sandbox", "library", "disk"}));
  EXPECT_EQ(finished.code, 0);
  EXPECT_TRUE(fs::is_empty(m_data.path())) << "looking creates nothing";
}

TEST_F(CommandLineTest, DocumentTextCannotSteerTheTerminal) {
  m_files.write("notes/evil.txt", "The signal \x1b]0;owned\x07mast \xE2\x80\xAE of\x1b[2J Garrick Hill.\n");
  m_cli.run({"ingest", "--no-embeddings", (m_files.path() / "notes").string()});
  const Finished text = m_cli.run({"search", "--no-embeddings", "signal mast"});
  const Finished object = m_cli.run({"search", "--json", "--no-embeddings", "signal mast"});
  for (const std::string& output : {text.out, text.err, object.out}) {
    EXPECT_EQ(output.find('\x1b'), std::string::npos);
    EXPECT_EQ(output.find('\x07'), std::string::npos);
    EXPECT_EQ(output.find("\xE2\x80\xAE"), std::string::npos);
  }
}

TEST_F(CommandLineTest, FullOutputIsAnError) {
  addNotes();
  const Finished finished = m_cli.start({"search", "--no-embeddings", "mast"}, Privilege::kOwn, "/dev/full").finish();
  EXPECT_EQ(finished.code, 1);
  EXPECT_THAT(finished.err, HasSubstr("could not be written"));
}

TEST_F(CommandLineTest, ClosedOutputEndsQuietly) {
  addNotes();
  Cli::Running running = m_cli.start({"search", "--quiet", "--no-embeddings", "mast"});
  running.closeOutput();
  const Finished finished = running.finish();
  EXPECT_EQ(finished.code, 141);
  EXPECT_EQ(finished.err, "");
}

TEST_F(CommandLineTest, AskKeepsWhatItReadWhenTold) {
  addNotes();
  const std::string sessions = (m_data.path() / "sessions").string();
  const auto ask = [&](const std::string& drafts) {
    const Finished finished = m_cli.run({"ask", "--json", "--no-embeddings", "--sessions", sessions, "--draft", drafts,
                                         "When was the signal mast raised?"});
    EXPECT_EQ(finished.code, 0) << finished.err;
    return finished.json();
  };
  const json first = ask("4");
  const json second = ask("4");
  EXPECT_EQ(first["statistics"]["reused_tokens"], 0);
  EXPECT_EQ(first["statistics"]["rope_factor"], 1);
  EXPECT_EQ(second["answer"], first["answer"]);
  EXPECT_FALSE(fs::is_empty(sessions));
  const json plain = ask("0");
  EXPECT_EQ(plain["statistics"]["drafted_tokens"], 0);
  EXPECT_EQ(plain["answer"], first["answer"]);
}

TEST_F(CommandLineTest, OneProcessOwnsTheLibrary) {
  addNotes();
  for (int i = 0; i < 400; ++i) m_files.write("many/" + std::to_string(i) + ".txt", "Lamp number " + std::to_string(i));
  Cli::Running first = m_cli.start({"ingest", "--no-embeddings", (m_files.path() / "many").string()});
  ASSERT_TRUE(first.waitForOutput("added"));
  const Finished second = m_cli.run({"ls"});
  first.signal(SIGINT);
  first.finish();
  EXPECT_EQ(second.code, 5) << second.out;
  EXPECT_EQ(second.errorLines(), 1U) << second.err;
}

}  // namespace
}  // namespace lectern::app
