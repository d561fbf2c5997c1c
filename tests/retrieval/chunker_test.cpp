// SPDX-License-Identifier: GPL-3.0-or-later
#include "documents/chunker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "retrieval/extract.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

const fs::path kDocuments = fs::path(TEST_DATA) / "documents";
const fs::path kSamples = fs::path(RESOURCES) / "samples";

ExtractedDocument extracted(const fs::path& file) {
  Result<ExtractedDocument> result = extract_file(file, ExtractLimits{}, {});
  EXPECT_TRUE(result.ok()) << result.error().message;
  return result.ok() ? *result : ExtractedDocument{};
}

ExtractedDocument document(const std::string& name, std::string_view text) {
  Result<ExtractedDocument> result = extract_bytes(name, text, ExtractLimits{}, {});
  EXPECT_TRUE(result.ok()) << result.error().message;
  return result.ok() ? *result : ExtractedDocument{};
}

std::size_t words_in(const std::string& text) {
  std::istringstream stream(text);
  return static_cast<std::size_t>(std::distance(std::istream_iterator<std::string>(stream), {}));
}

// Each byte of a chunk is a verbatim copy or joining white space; runs are ordered and never empty.
void expect_traceable(const ExtractedDocument& source, const Chunk& chunk) {
  ASSERT_FALSE(chunk.runs.empty());
  std::size_t done = 0;
  const auto expect_white = [&](std::size_t end) {
    ASSERT_EQ(chunk.text.substr(done, end - done).find_first_not_of(" \n"), std::string::npos) << chunk.text;
  };
  for (const TextRun& run : chunk.runs) {
    ASSERT_GT(run.length, 0U);
    ASSERT_LE(done, run.chunk_offset);
    ASSERT_LE(std::size_t{run.chunk_offset} + run.length, chunk.text.size());
    ASSERT_LT(run.page, source.pages.size());
    const std::string& page = source.pages[run.page].text;
    ASSERT_LE(std::size_t{run.page_offset} + run.length, page.size());
    ASSERT_EQ(chunk.text.substr(run.chunk_offset, run.length), page.substr(run.page_offset, run.length));
    expect_white(run.chunk_offset);
    done = std::size_t{run.chunk_offset} + run.length;
  }
  expect_white(chunk.text.size());
}

std::vector<Chunk> chunks_of(const ExtractedDocument& source, const ChunkOptions& options = {}) {
  std::vector<Chunk> chunks = chunk_document(source, options);
  for (const Chunk& chunk : chunks) expect_traceable(source, chunk);
  return chunks;
}

std::string joined(const std::vector<Chunk>& chunks) {
  std::string text;
  for (const Chunk& chunk : chunks) text += chunk.text + "\n";
  return text;
}

std::string sentences(int count, const std::string& subject) {
  std::string text;
  for (int i = 1; i <= count; ++i)
    text += subject + " number " + std::to_string(i) + " stands quietly by the cold sea. ";
  return text;
}

TEST(ChunkProse, StaysWithinItsSizes) {
  const auto source = document("a.txt", sentences(300, "The boat"));
  const std::vector<Chunk> chunks = chunks_of(source);
  for (const Chunk& chunk : chunks) {
    EXPECT_GE(words_in(chunk.text), 60U);
    EXPECT_LE(words_in(chunk.text), 180U);
    EXPECT_THAT(chunk.text, AllOf(StartsWith("The boat number"), testing::EndsWith("cold sea.")));
  }
  EXPECT_NEAR(static_cast<double>(chunks.size()), 300 * 10 / 140.0, 3);
}

TEST(ChunkProse, NeverCutsASentenceAndKeepsEveryWord) {
  const std::string text = sentences(57, "A gull");
  const std::vector<Chunk> chunks = chunks_of(document("a.txt", text));
  for (int i = 1; i <= 57; ++i) {
    const std::string sentence = "A gull number " + std::to_string(i) + " stands quietly by the cold sea.";
    EXPECT_EQ(std::count_if(chunks.begin(), chunks.end(),
                            [&](const Chunk& c) { return c.text.find(sentence) != std::string::npos; }),
              1)
        << sentence;
  }
}

TEST(ChunkProse, CutsASentenceThatIsTooLong) {
  std::string endless;
  for (int i = 0; i < 1000; ++i) endless += "word" + std::to_string(i) + " ";
  const std::vector<Chunk> chunks = chunks_of(document("a.txt", endless));
  EXPECT_GE(chunks.size(), 6U);
  for (const Chunk& chunk : chunks) EXPECT_LE(words_in(chunk.text), 180U);
  EXPECT_EQ(words_in(joined(chunks)), 1000U);
}

TEST(ChunkProse, CutsTextWithoutSpaces) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "海";
  const std::vector<Chunk> chunks = chunks_of(document("a.txt", text));
  EXPECT_GT(chunks.size(), 3U);
  std::string all;
  for (const Chunk& chunk : chunks) all += chunk.text;
  EXPECT_EQ(all, text);
}

// One word, however long, and pieces of it must not be joined again.
TEST(ChunkProse, BoundsTheBytesOfAChunk) {
  for (const DocumentKind kind : {DocumentKind::kText, DocumentKind::kMarkdown}) {
    ExtractedDocument source;
    source.kind = kind;
    source.pages.emplace_back().text = std::string(1'000'000, 'a');
    const std::vector<Chunk> chunks = chunks_of(source);
    EXPECT_GT(chunks.size(), 200U);
    for (const Chunk& chunk : chunks) EXPECT_LE(chunk.text.size(), 180U * 24 + 1);
  }
}

TEST(ChunkProse, DoesNotCrossHeadings) {
  const auto source = document(
      "a.txt", "1 First part\n\n" + sentences(3, "A cat") + "\n\n2 Second part\n\n" + sentences(3, "A dog") + "\n");
  const std::vector<Chunk> chunks = chunks_of(source);
  ASSERT_EQ(chunks.size(), 2U);
  EXPECT_EQ(chunks[0].heading, "1 First part");
  EXPECT_THAT(chunks[0].text, Not(HasSubstr("dog")));
  EXPECT_EQ(chunks[1].heading, "2 Second part");
  EXPECT_EQ(chunks[1].first_line, 7U);
}

TEST(ChunkProse, JoinsLinesAndRepairsHyphens) {
  const auto source = document("a.txt", "The light-\nhouse is   white\tand\ntall. A well-known well-\nknown place.\n");
  const std::vector<Chunk> chunks = chunks_of(source);
  ASSERT_EQ(chunks.size(), 1U);
  EXPECT_EQ(chunks[0].text, "The lighthouse is white and tall. A well-known well-known place.");
  EXPECT_EQ(chunks[0].first_line, 1U);
  EXPECT_EQ(chunks[0].last_line, 4U);
}

TEST(ChunkProse, KeepsListItemsOnTheirLines) {
  const std::vector<Chunk> chunks = chunks_of(document("a.txt", "Bring these:\n- a rope\n- a lamp that\n  is full\n"));
  ASSERT_EQ(chunks.size(), 1U);
  EXPECT_EQ(chunks[0].text, "Bring these:\n- a rope\n- a lamp that is full");
}

TEST(ChunkProse, LosesNoHeadingWithoutText) {
  const auto source = document("a.md", "# Slide one\n# Slide two\n## Deeper\nSome text.\n# Last\n");
  const std::string all = joined(chunks_of(source));
  EXPECT_THAT(all, AllOf(HasSubstr("Slide one"), HasSubstr("Some text."), HasSubstr("Last")));
}

TEST(ChunkMarkdown, FollowsHeadingsAndKeepsCodeWhole) {
  std::string code = "```cpp\n";
  for (int i = 0; i < 50; ++i)
    code += "int value" + std::to_string(i) + " = compute(" + std::to_string(i) + ");  // a b c\n";
  code += "```";
  const auto source = document("a.md", "# Top\n\nIntro text here.\n\n## Code\n\nSee:\n\n" + code + "\n\nAfter it.\n");
  const std::vector<Chunk> chunks = chunks_of(source);
  EXPECT_EQ(chunks.front().heading, "Top");
  const auto holder = std::find_if(chunks.begin(), chunks.end(),
                                   [](const Chunk& c) { return c.text.find("value0") != std::string::npos; });
  ASSERT_NE(holder, chunks.end());
  EXPECT_THAT(holder->text, HasSubstr(code));
  EXPECT_EQ(holder->heading, "Code");
}

// A heading is stored with each chunk below it.
TEST(ChunkMarkdown, ReadsAnEndlessHeadingAsText) {
  const std::string endless = sentences(200, "A heading");
  for (const std::string& start : {"# " + endless, endless + "\n==="}) {
    const std::vector<Chunk> chunks = chunks_of(document("a.md", start + "\n\n" + sentences(20, "The text")));
    EXPECT_THAT(joined(chunks),
                AllOf(HasSubstr("A heading number 200 stands"), HasSubstr("The text number 20 stands")));
    for (const Chunk& chunk : chunks) EXPECT_LE(chunk.heading.size(), 300U);
  }
}

TEST(ChunkMarkdown, DropsQuoteMarksAndRules) {
  const std::vector<Chunk> chunks = chunks_of(document("a.md", "> quoted line\n> goes on\n\n---\n\nplain\n"));
  ASSERT_EQ(chunks.size(), 1U);
  EXPECT_EQ(chunks[0].text, "quoted line goes on\nplain");
}

TEST(ChunkMarkdown, KeepsTableRows) {
  const std::vector<Chunk> chunks = chunks_of(document("a.md", "| a | b |\n|---|---|\n| 1 | 2 |\n\nText.\n"));
  ASSERT_EQ(chunks.size(), 1U);
  EXPECT_EQ(chunks[0].text, "| a | b |\n|---|---|\n| 1 | 2 |\nText.");
}

TEST(ChunkCode, CutsAtSymbols) {
  std::string code;
  for (int i = 0; i < 4; ++i) {
    code += "# Comment of f" + std::to_string(i) + "\ndef f" + std::to_string(i) + "(x):\n";
    for (int line = 0; line < 20; ++line) code += "    x += " + std::to_string(line) + "\n";
    code += "    return x\n\n\n";
  }
  const std::vector<Chunk> chunks = chunks_of(document("a.py", code));
  ASSERT_EQ(chunks.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    const std::string name = "f" + std::to_string(i);
    EXPECT_EQ(chunks[i].heading, name);
    EXPECT_THAT(chunks[i].text,
                AllOf(StartsWith("# Comment of " + name + "\ndef " + name), testing::EndsWith("return x")));
    EXPECT_EQ(chunks[i].first_line, 25 * i + 1);
    EXPECT_EQ(chunks[i].last_line, 25 * i + 23);
  }
}

TEST(ChunkCode, NamesMethodsByTheirClass) {
  std::string code = "class Tide:\n    def rise(self):\n";
  for (int line = 0; line < 30; ++line) code += "        self.a()\n";
  code += "\n    def fall(self):\n";
  for (int line = 0; line < 40; ++line) code += "        self.b()\n";
  code += "\n\ndef free():\n";
  for (int line = 0; line < 30; ++line) code += "    c()\n";
  const std::vector<Chunk> chunks = chunks_of(document("a.py", code));
  ASSERT_GE(chunks.size(), 3U);
  EXPECT_EQ(chunks[0].heading, "Tide");
  EXPECT_EQ(chunks[1].heading, "Tide.fall");
  EXPECT_EQ(chunks.back().heading, "free");
}

TEST(ChunkCode, LimitsLinesAndKeepsThemAll) {
  std::string code;
  for (int i = 1; i <= 1000; ++i) code += "call(" + std::to_string(i) + ");\n";
  const std::vector<Chunk> chunks = chunks_of(document("a.c", code));
  std::uint32_t next = 1;
  for (const Chunk& chunk : chunks) {
    EXPECT_EQ(chunk.first_line, next);
    EXPECT_LE(chunk.last_line - chunk.first_line + 1, 60U);
    next = chunk.last_line + 1;
  }
  EXPECT_EQ(next, 1001U);
}

TEST(ChunkCode, CutsMinifiedLines) {
  const std::string line(100'000, 'x');
  const std::vector<Chunk> chunks = chunks_of(document("a.js", line + "\n"));
  std::string all;
  for (const Chunk& chunk : chunks) {
    EXPECT_LE(chunk.text.size(), 10'000U);
    all += chunk.text;
  }
  EXPECT_EQ(all, line);
}

TEST(ChunkPdf, DropsHeadersAndJoinsPages) {
  const std::vector<Chunk> chunks = chunks_of(extracted(kDocuments / "headers.pdf"));
  const std::string all = joined(chunks);
  EXPECT_THAT(all, Not(HasSubstr("Bulletin")));
  EXPECT_THAT(all, HasSubstr("Part 3 tells of ship number 3 and the story of part 3 ends here."));
}

TEST(ChunkPdf, RepairsHyphens) {
  const std::vector<Chunk> chunks = chunks_of(extracted(kDocuments / "hyphens.pdf"));
  ASSERT_EQ(chunks.size(), 1U);
  EXPECT_EQ(
      chunks[0].text,
      "The lighthouse keeper looks after the lamp every night and records the weather. His well-known notebook is "
      "a well-known book of the self-taught observer.");
}

TEST(ChunkPdf, StructuresTheSampleHandbook) {
  const ExtractedDocument source = extracted(kSamples / "skerry_point_handbook.pdf");
  const std::vector<Chunk> chunks = chunks_of(source);
  const std::string all = joined(chunks);
  EXPECT_THAT(all, Not(HasSubstr("Annual Report 2024 and Handbook\nPage")));
  EXPECT_THAT(all, Not(HasSubstr("Page 3")));
  const auto heading_of = [&](const std::string& part) {
    const auto found = std::find_if(chunks.begin(), chunks.end(),
                                    [&](const Chunk& c) { return c.text.find(part) != std::string::npos; });
    return found == chunks.end() ? std::string("missing") : found->heading;
  };
  EXPECT_EQ(heading_of("43 metres tall"), "1 Skerry Point at a glance");
  EXPECT_EQ(heading_of("64,300 euros"), "2.1 Repairs in 2024");
  EXPECT_EQ(heading_of("the mean of both counts"), "6 Birds");
  EXPECT_EQ(heading_of("after nineteen years of service"), "2 The tower");  // runs over a page break
  for (const Chunk& chunk : chunks) EXPECT_LE(words_in(chunk.text), 185U);
}

// The sample questions are a promise: each answer stands, unbroken, in one chunk of the named place.
TEST(ChunkSamples, HoldEveryAnswerInOneChunk) {
  std::ifstream file(kSamples / "questions.json");
  const nlohmann::json questions = nlohmann::json::parse(file);
  EXPECT_EQ(questions.size(), 20U);
  for (const auto& question : questions) {
    if (question["sentence"].is_null()) continue;
    const std::string sentence = question["sentence"];
    const std::vector<Chunk> chunks = chunks_of(extracted(kSamples / question["file"].get<std::string>()));
    const auto chunk = std::find_if(chunks.begin(), chunks.end(),
                                    [&](const Chunk& c) { return c.text.find(sentence) != std::string::npos; });
    ASSERT_NE(chunk, chunks.end()) << sentence;
    if (question.contains("first_line")) {
      EXPECT_LE(chunk->first_line, question["first_line"].get<std::uint32_t>());
      EXPECT_GE(chunk->last_line, question["last_line"].get<std::uint32_t>());
    } else {
      const std::size_t at = chunk->text.find(sentence);
      const auto run = std::find_if(chunk->runs.begin(), chunk->runs.end(),
                                    [&](const TextRun& r) { return std::size_t{r.chunk_offset} + r.length > at; });
      EXPECT_EQ(run->page + 1, question["page"].get<std::uint32_t>()) << sentence;
    }
  }
}

TEST(Chunks, AreNotCutOnceStopped) {
  std::stop_source source;
  source.request_stop();
  for (const DocumentKind kind :
       {DocumentKind::kPdf, DocumentKind::kText, DocumentKind::kMarkdown, DocumentKind::kCode}) {
    ExtractedDocument text;
    text.kind = kind;
    text.language = "cpp";
    text.pages.emplace_back().text = sentences(300, "The boat");
    EXPECT_TRUE(chunk_document(text, {}, source.get_token()).empty());
    EXPECT_FALSE(chunk_document(text, {}, {}).empty());
  }
}

TEST(Chunks, AcceptDegenerateDocuments) {
  EXPECT_TRUE(chunks_of(ExtractedDocument{}).empty());
  for (const DocumentKind kind :
       {DocumentKind::kPdf, DocumentKind::kText, DocumentKind::kMarkdown, DocumentKind::kCode}) {
    ExtractedDocument odd;
    odd.kind = kind;
    odd.language = "cpp";
    odd.pages.resize(3);
    EXPECT_TRUE(chunks_of(odd).empty());
    odd.pages[1].text = "\n\n \n\t\n";
    EXPECT_TRUE(chunks_of(odd).empty());
    odd.pages[2].text = "-\n#\n```\n|\n>\n1.\n\xC2\xAD\n";
    chunks_of(odd);
    chunks_of(odd, {0, 0, 0, 0});
    chunks_of(odd, {1000, 1, 1, 1});
  }
}

// Any text of any kind, cut with any sizes, stays traceable.
TEST(Chunks, StayTraceableOnRandomText) {
  static const std::vector<std::string> kPieces = {
      "word",   "Word.", " ",          "  ",          "\n", "\n\n", "\t",    "-",
      "-\n",    "# ",    "```\n",      "| a | b |\n", "> ", "1. ",  "• ",    "\xC2\xAD",
      "é",      "海。",  "def f():\n", "    ",        "}",  "{\n",  "===\n", "\xE2\x80\x90\n",
      "A. B. ", "[1] ",  "// x\n",     "class A {\n"};
  std::uint32_t state = 3;
  const auto random = [&](std::size_t below) {
    state = state * 1664525U + 1013904223U;
    return (state >> 10) % below;
  };
  for (int round = 0; round < 1500; ++round) {
    ExtractedDocument source;
    source.kind = static_cast<DocumentKind>(round % 4);
    source.language = random(2) == 0 ? "cpp" : "python";
    source.pages.resize(1 + random(3));
    for (ExtractedPage& page : source.pages) {
      for (std::size_t i = random(120); i > 0; --i) page.text += kPieces[random(kPieces.size())];
    }
    const auto size = static_cast<std::uint32_t>(1 + random(40));
    chunks_of(source, {size / 2, size, size + 5, 1 + size / 4});
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
}

}  // namespace
}  // namespace lectern::retrieval
