// SPDX-License-Identifier: GPL-3.0-or-later
// The sandboxed reader: the same text as without the sandbox, and one clear error for whatever goes wrong.
#include "extractor_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "support/promptness.h"
#include "support/scratch.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using retrieval::ErrorCode;
using retrieval::ExtractedDocument;
using retrieval::Result;
using test::Scratch;
using testing::HasSubstr;
using testing::StartsWith;

using Clock = std::chrono::steady_clock;

// A PDF of a few kilobytes: a page with one word, then one that draws 10 ^ depth words through forms that draw forms,
// then one more with a word.
std::string bomb(int depth) {
  std::string pdf = "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n";
  const auto stream = [](const std::string& keys, const std::string& content) {
    return "<<" + keys + "/Length " + std::to_string(content.size()) + ">>stream\n" + content + "\nendstream endobj\n";
  };
  const auto page = [&](int number, int contents) {
    pdf += std::to_string(number) + " 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 500 500]/Contents " +
           std::to_string(contents) + " 0 R/Resources<</Font<</F 5 0 R>>/XObject<</X 10 0 R>>>>>>endobj\n";
  };
  const std::string word = "BT /F 9 Tf 1 0 0 1 9 9 Tm (word) Tj ET";
  pdf += "2 0 obj<</Type/Pages/Kids[3 0 R 6 0 R 7 0 R]/Count 3>>endobj\n";
  page(3, 4);
  page(6, 8);
  page(7, 4);
  pdf += "4 0 obj" + stream("", word) + "8 0 obj" + stream("", "/X Do");
  pdf += "5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n";
  for (int level = 0; level < depth; ++level) {
    std::string content;
    for (int i = 0; i < 10; ++i) content += "/X Do ";
    pdf += std::to_string(10 + level) + " 0 obj" +
           stream("/Type/XObject/Subtype/Form/BBox[0 0 500 500]/Resources<</XObject<</X " + std::to_string(11 + level) +
                      " 0 R>>>>",
                  content);
  }
  pdf += std::to_string(10 + depth) + " 0 obj" +
         stream("/Type/XObject/Subtype/Form/BBox[0 0 500 500]/Resources<</Font<</F 5 0 R>>>>", word);
  return pdf + "trailer<</Root 1 0 R>>\n%%EOF\n";
}

class ExtractorProcessTest : public testing::Test {
 protected:
  ~ExtractorProcessTest() override {
    // Whatever happened, no child is left, neither running nor as a zombie.
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
  }

  static ExtractorProcess reader(ExtractorProcessLimits limits = {}) {
    return ExtractorProcess(LECTERN_EXTRACT, limits);
  }

  // A program that a document has taken over, as a shell script.
  ExtractorProcess impostor(const std::string& script, ExtractorProcessLimits limits = {}) {
    const fs::path program = m_scratch.write("impostor", "#!/bin/sh\n" + script + "\n");
    fs::permissions(program, fs::perms::owner_all);
    m_document = m_scratch.write("paper.txt", "Words.\n");
    return ExtractorProcess(program, limits);
  }

  void expectError(const Result<ExtractedDocument>& result, ErrorCode code, const std::string& start,
                   const std::string& part) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_THAT(result.error().message, StartsWith(start));
    EXPECT_THAT(result.error().message, HasSubstr(part));
  }

  Scratch m_scratch;
  fs::path m_document;
};

TEST_F(ExtractorProcessTest, ReadsTheSameAsWithoutSandbox) {
  int compared = 0;
  for (const fs::path& root : {fs::path(TEST_DATA) / "documents", fs::path(LECTERN_RESOURCES) / "samples"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (!entry.is_regular_file()) continue;
      const auto plain = retrieval::extract_file(entry.path(), {}, {});
      const auto confined = reader().extract(entry.path(), {});
      EXPECT_TRUE(retrieval::encode_extraction(plain) == retrieval::encode_extraction(confined)) << entry.path();
      ++compared;
    }
  }
  EXPECT_GT(compared, 20);
}

TEST_F(ExtractorProcessTest, PassesOnWhatTheReaderFound) {
  const fs::path documents = fs::path(TEST_DATA) / "documents";
  expectError(reader().extract(documents / "locked_aes.pdf", {}), ErrorCode::kEncrypted, "locked_aes.pdf", "password");
  expectError(reader().extract(m_scratch.write("empty.txt", ""), {}), ErrorCode::kUnreadable, "empty.txt", "is empty");
  expectError(reader().extract(m_scratch.write("cut.pdf", "%PDF-1.5\n"), {}), ErrorCode::kUnreadable, "cut.pdf",
              "damaged");
  expectError(reader().extract(m_scratch / "none.txt", {}), ErrorCode::kNotFound, "none.txt", "does not exist");
  fs::create_symlink(m_scratch / "empty.txt", m_scratch / "link.txt");
  expectError(reader().extract(m_scratch / "link.txt", {}), ErrorCode::kUnreadable, "link.txt", "symbolic link");
  ASSERT_EQ(mkfifo((m_scratch / "pipe").c_str(), 0600), 0);
  expectError(reader().extract(m_scratch / "pipe", {}), ErrorCode::kUnreadable, "pipe", "a pipe");
}

TEST_F(ExtractorProcessTest, UsesTheNameOfTheDocument) {
  const auto code = reader().extract(m_scratch.write("--name odd $(x).py", "def f():\n    pass\n"), {});
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->language, "python");
}

TEST_F(ExtractorProcessTest, DeniesEverythingAnAttackerWants) {
  const Result<std::string> report = reader().selfTest();
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_THAT(*report, HasSubstr("seccomp"));
  EXPECT_THAT(*report, HasSubstr("32 of 32 forbidden actions were denied"));
}

TEST_F(ExtractorProcessTest, StopsWithin200Milliseconds) {
  const fs::path file = m_scratch.write("slow.pdf", bomb(9));
  std::stop_source stop;
  Clock::time_point asked;
  std::jthread asker([&] {
    std::this_thread::sleep_for(400ms);
    asked = Clock::now();
    stop.request_stop();
  });
  const auto result = reader().extract(file, stop.get_token());
  EXPECT_LT(Clock::now() - asked, test::kPromptly);
  expectError(result, ErrorCode::kCancelled, "Reading slow.pdf", "stopped");
}

TEST_F(ExtractorProcessTest, EndsADocumentThatTakesTooLong) {
  ExtractorProcessLimits limits;
  limits.deadline = 700ms;
  const Clock::time_point start = Clock::now();
  const auto result = reader(limits).extract(m_scratch.write("slow.pdf", bomb(9)), {});
  EXPECT_LT(Clock::now() - start, limits.deadline + test::kPromptly);
  expectError(result, ErrorCode::kUnreadable, "slow.pdf", "takes too long");
}

TEST_F(ExtractorProcessTest, KeepsThePagesBeforeABomb) {
  ExtractorProcessLimits limits;
  limits.pageTime = 300ms;
  const auto result = reader(limits).extract(m_scratch.write("bomb.pdf", bomb(9)), {});
  ASSERT_TRUE(result.ok()) << result.error().message;
  ASSERT_EQ(result->pages.size(), 1U);
  EXPECT_EQ(result->pages[0].text, "word");
  EXPECT_THAT(result->warnings, testing::ElementsAre("pages 2 to 3 not read: page 2 takes too much time or memory"));
}

TEST_F(ExtractorProcessTest, ReportsEachWayToFail) {
  const auto run = [&](const std::string& script, ExtractorProcessLimits limits = {}) {
    ExtractorProcess process = impostor(script, limits);
    return process.extract(m_document, {});
  };
  expectError(run("kill -SEGV $$"), ErrorCode::kUnreadable, "paper.txt", "made its reader fail");
  expectError(run("kill -SYS $$"), ErrorCode::kUnreadable, "paper.txt", "something forbidden");
  expectError(run("kill -XCPU $$"), ErrorCode::kUnreadable, "paper.txt", "too much time");
  expectError(run("exit 1"), ErrorCode::kUnreadable, "paper.txt", "made its reader fail");
  expectError(run("echo nonsense"), ErrorCode::kUnreadable, "paper.txt", "malformed");
  expectError(run("true"), ErrorCode::kUnreadable, "paper.txt", "malformed");
  ExtractorProcessLimits little;
  little.answerBytes = 1'000'000;
  expectError(run("yes", little), ErrorCode::kTooLarge, "paper.txt", "more text than can be read");
}

TEST_F(ExtractorProcessTest, EndsAReaderThatLingers) {
  ExtractorProcessLimits limits;
  limits.deadline = 500ms;
  const Clock::time_point start = Clock::now();
  ExtractorProcess process = impostor("exec 1>&-; sleep 60", limits);
  expectError(process.extract(m_document, {}), ErrorCode::kUnreadable, "paper.txt", "too much time");
  EXPECT_LT(Clock::now() - start, limits.deadline + test::kPromptly);
}

TEST_F(ExtractorProcessTest, GivesTheReaderNothingButTheDocument) {
  ExtractorProcess process = impostor("{ env; ls -l /proc/$$/fd; pwd; } >" + (m_scratch / "seen").string() + " 2>&1");
  setenv("LECTERN_SECRET", "canary", 1);
  static_cast<void>(process.extract(m_document, {}));
  unsetenv("LECTERN_SECRET");
  std::ifstream stream(m_scratch / "seen");
  const std::string seen(std::istreambuf_iterator<char>(stream), {});
  EXPECT_THAT(seen, Not(HasSubstr("canary")));
  EXPECT_THAT(seen, HasSubstr(" 3 -> " + m_document.string()));
  EXPECT_THAT(seen, Not(HasSubstr(" 4 -> ")));
}

TEST_F(ExtractorProcessTest, SaysThatTheProgramIsMissing) {
  ExtractorProcess process(m_scratch / "no-such-program");
  expectError(process.extract(m_scratch.write("a.txt", "Words."), {}), ErrorCode::kNotFound, "The document reader",
              "install Lectern again");
  EXPECT_EQ(process.selfTest().error().code, ErrorCode::kNotFound);
}

TEST_F(ExtractorProcessTest, LeaksNoDescriptors) {
  const auto open = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()); };
  const fs::path file = m_scratch.write("a.txt", "Words.");
  static_cast<void>(reader().extract(file, {}));
  const auto before = open();
  for (int i = 0; i < 10; ++i) static_cast<void>(reader().extract(file, {}));
  static_cast<void>(impostor("kill -SEGV $$").extract(m_document, {}));
  static_cast<void>(ExtractorProcess(m_scratch / "none").extract(file, {}));
  EXPECT_EQ(open(), before);
}

bool isRunning(const std::string& argument) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::ifstream stream(entry.path() / "cmdline", std::ios::binary);
    const std::string line(std::istreambuf_iterator<char>(stream), {});
    if (line.find(argument) != std::string::npos) return true;
  }
  return false;
}

TEST_F(ExtractorProcessTest, DiesWithItsParent) {
  const std::string name = "orphan-" + std::to_string(getpid()) + ".pdf";
  const fs::path file = m_scratch.write(name, bomb(9));
  const pid_t parent = fork();
  if (parent == 0) {
    static_cast<void>(reader().extract(file, {}));
    _exit(0);
  }
  for (int i = 0; i < 100 && !isRunning(name); ++i) std::this_thread::sleep_for(20ms);
  EXPECT_TRUE(isRunning(name));
  std::this_thread::sleep_for(100ms);
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  for (int i = 0; i < 100 && isRunning(name); ++i) std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(isRunning(name));
}

}  // namespace
}  // namespace lectern::app
