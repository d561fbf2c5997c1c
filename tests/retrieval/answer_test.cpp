// SPDX-License-Identifier: GPL-3.0-or-later
#include "retrieval/answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "answer/pack.h"
#include "support/fakes.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

using fakes::ScriptedGenerator;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class Recorder : public AskSink {
 public:
  void on_context(const ContextReport& report) override {
    context = report;
    text_before_context = !text.empty();
  }
  void on_prefill(std::int64_t done, std::int64_t, double) override { prefill = done; }
  void on_text(std::string_view piece) override {
    text += piece;
    if (on_piece) on_piece();
  }

  ContextReport context;
  std::string text;
  std::int64_t prefill = 0;
  bool text_before_context = false;
  std::function<void()> on_piece;
};

class AnswerTest : public testing::Test {
 protected:
  void SetUp() override { library = Library::open(scratch / "library").value(); }

  void add(const std::string& name, const ExtractedDocument& document) {
    extractor.prepared.emplace(name, document);
    IngestSink nobody;
    const std::filesystem::path file = scratch.write(name, name);
    const auto report = library->ingest(std::span(&file, 1), extractor, nullptr, nobody, {});
    ASSERT_TRUE(report);
    ASSERT_EQ(report->added, 1);
  }

  Result<Answer> ask(Generator& generator, const std::string& question, AskOptions options = {},
                     std::stop_token stop = {}) {
    return retrieval::ask(*library, generator, nullptr, profile, question, options, sink, stop);
  }

  // The number under which the last prompt holds `text`.
  static std::string mark_of(const std::vector<ChatMessage>& messages, const std::string& text) {
    const std::string& content = messages.back().content;
    const std::size_t at = content.rfind('[', content.find(text));
    return content.substr(at, content.find(']', at) + 1 - at);
  }

  test::Scratch scratch;
  fakes::MemoryExtractor extractor;
  std::unique_ptr<Library> library;
  PromptProfile profile;
  Recorder sink;
};

TEST_F(AnswerTest, AnswersWithAVerifiedCitation) {
  add("a.pdf", fakes::pdf_document({"The reef was mapped in 1912. It lies in the north."}));
  add("b.pdf", fakes::pdf_document({"Whales pass the reef in May. They sing at night."}));
  ScriptedGenerator generator([](const std::vector<ChatMessage>& messages) {
    return "Whales pass the reef in May. " + mark_of(messages, "Whales pass");
  });
  const auto answer = ask(generator, "When do whales pass the reef?");
  ASSERT_TRUE(answer) << answer.error().message;
  ASSERT_EQ(answer->citations.size(), 1U);
  EXPECT_TRUE(answer->citations[0].verified);
  EXPECT_EQ(answer->citations[0].quote, "Whales pass the reef in May.");
  EXPECT_EQ(answer->citations[0].path.filename(), "b.pdf");
  EXPECT_FALSE(answer->refused);
  EXPECT_THAT(answer->unknown_marks, IsEmpty());
  EXPECT_EQ(sink.text, answer->text);
  EXPECT_FALSE(sink.text_before_context);
  EXPECT_EQ(sink.context.passages.size(), 2U);
  EXPECT_EQ(sink.context.prompt_tokens, answer->generation.prompt_tokens);
  EXPECT_EQ(sink.prefill, sink.context.prompt_tokens);
}

TEST_F(AnswerTest, PromptHasPassagesInStableOrderAndTheQuestionLast) {
  add("a.pdf", fakes::pdf_document({"alpha beta.\nThe reef [12]  lies north."}));
  add("b.pdf", fakes::pdf_document({"The reef reef reef is nice."}));
  profile.system = "Be brief.";
  ScriptedGenerator generator("x");
  ASSERT_TRUE(ask(generator, "reef nice"));
  ASSERT_TRUE(ask(generator, "reef lies north"));
  ASSERT_EQ(generator.prompts.size(), 2U);
  EXPECT_EQ(generator.prompts[0][0].role, "system");
  EXPECT_EQ(generator.prompts[0][0].content, "Be brief.");
  EXPECT_EQ(generator.prompts[0][1].content,
            "[1] alpha beta. The reef (12) lies north.\n\n[2] The reef reef reef is nice.\n\nQuestion: reef nice");
  EXPECT_EQ(
      generator.prompts[1][1].content,
      "[1] alpha beta. The reef (12) lies north.\n\n[2] The reef reef reef is nice.\n\nQuestion: reef lies north");
}

// Another question may share the first passages: the generator is told where each ends.
TEST_F(AnswerTest, ThePromptSaysWherePassagesEnd) {
  add("a.pdf", fakes::pdf_document({"The reef lies north."}));
  add("b.pdf", fakes::pdf_document({"The reef reef reef is nice."}));
  profile.user = "{question}: {passages}\n\nNow answer. {passages}";
  ScriptedGenerator generator("x");
  ASSERT_TRUE(ask(generator, "reef {passages}"));
  const ChatMessage& message = generator.prompts[0].back();
  std::vector<std::string> beginnings;
  for (const std::int64_t end : message.boundaries) {
    beginnings.push_back(message.content.substr(0, static_cast<std::size_t>(end)));
  }
  const std::string first = "reef {passages}: [1] The reef lies north.";
  EXPECT_THAT(beginnings, ElementsAre(first, first + "\n\n[2] The reef reef reef is nice."));
}

TEST_F(AnswerTest, DocumentTextIsNotATemplate) {
  add("a.txt", fakes::text_document("The {question} and {passages} of the reef."));
  ScriptedGenerator generator("x");
  ASSERT_TRUE(ask(generator, "reef {passages}"));
  EXPECT_EQ(generator.prompts[0][0].content,
            "[1] The {question} and {passages} of the reef.\n\nQuestion: reef {passages}");
}

TEST_F(AnswerTest, CodeKeepsItsLinesAndNamesThem) {
  add("a.cpp", fakes::text_document("int reef() {\n  return depth[1];\n}\n", DocumentKind::kCode));
  ScriptedGenerator generator("x");
  ASSERT_TRUE(ask(generator, "reef"));
  EXPECT_THAT(generator.prompts[0][0].content, HasSubstr("[1] a.cpp lines 1-3"));
  EXPECT_THAT(generator.prompts[0][0].content, HasSubstr(":\nint reef() {\n  return depth[1];\n}"));
}

TEST_F(AnswerTest, PacksByExactTokenCountAndSaysWhatWasLeftOut) {
  for (int i = 0; i < 8; ++i) {
    std::string text = "The reef number " + std::to_string(i);
    for (int k = 0; k < 36; ++k) text += " w" + std::to_string(i * 1000 + k);
    add(std::to_string(i) + ".txt", fakes::text_document(text));
  }
  AskOptions options;
  options.generate.max_new_tokens = 20;
  for (const std::int64_t context : {70, 200, 300, 500}) {
    ScriptedGenerator generator("x", context);
    const auto answer = ask(generator, "reef number", options);
    ASSERT_TRUE(answer) << answer.error().message;
    const auto packed = static_cast<std::int64_t>(answer->context.passages.size());
    EXPECT_LE(answer->context.prompt_tokens + 20, context);
    EXPECT_EQ(answer->context.context_tokens, context);
    EXPECT_EQ(packed + answer->context.passages_left_out, 8);
    if (packed < 8) {
      EXPECT_GT(answer->context.prompt_tokens + 20 + 41, context) << "one more would have fit";
    }
    EXPECT_LE(generator.counts, 6);
  }
  ScriptedGenerator tiny("x", 30);
  const auto answer = ask(tiny, "reef number", options);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kTooLarge);
}

TEST_F(AnswerTest, RepeatedPassagesAreGivenOnce) {
  add("a.txt", fakes::text_document("The reef lies in the north of the bay and is shallow."));
  add("copy.txt", fakes::text_document("The reef lies in the north of the bay and is shallow. "));
  add("other.txt", fakes::text_document("The reef was mapped long ago by sailors from the south."));
  ScriptedGenerator generator("x");
  const auto answer = ask(generator, "reef");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->context.passages.size(), 2U);
  EXPECT_EQ(answer->context.passages_left_out, 0);
}

TEST_F(AnswerTest, LimitsComeFromOptionsAndProfile) {
  for (int i = 0; i < 6; ++i) {
    add(std::to_string(i) + ".txt",
        fakes::text_document("The reef of year " + std::to_string(i) + " and sea " + std::to_string(i * 7)));
  }
  profile.max_passages = 4;
  ScriptedGenerator generator("x");
  EXPECT_EQ(ask(generator, "reef")->context.passages.size(), 4U);
  AskOptions options;
  options.max_passages = 2;
  options.generate.max_new_tokens = 16;
  EXPECT_EQ(ask(generator, "reef", options)->context.passages.size(), 2U);
  EXPECT_EQ(generator.used.max_new_tokens, 16);
}

TEST_F(AnswerTest, ChosenDocumentsOnly) {
  add("a.txt", fakes::text_document("The reef is here."));
  add("b.txt", fakes::text_document("Another reef is there."));
  AskOptions options;
  options.documents = {library->documents()->back().id};
  ScriptedGenerator generator("x");
  const auto answer = ask(generator, "reef", options);
  ASSERT_EQ(answer->context.passages.size(), 1U);
  EXPECT_EQ(answer->context.passages[0].path.filename(), "b.txt");
}

TEST_F(AnswerTest, RefusalIsRecognised) {
  add("a.txt", fakes::text_document("The reef is here."));
  ScriptedGenerator generator("The passages do not  answer this question.");
  const auto answer = ask(generator, "What does the reef cost?");
  EXPECT_TRUE(answer->refused);
  EXPECT_THAT(answer->citations, IsEmpty());
}

TEST_F(AnswerTest, FailuresAreSaid) {
  ScriptedGenerator generator("x");
  EXPECT_EQ(ask(generator, "reef").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(ask(generator, "  \n").error().code, ErrorCode::kInvalidArgument);
  add("a.txt", fakes::text_document("The reef is here."));
  EXPECT_EQ(ask(generator, "xylophone").error().code, ErrorCode::kNotFound);
  generator.fail = true;
  const auto failed = ask(generator, "reef");
  EXPECT_EQ(failed.error().code, ErrorCode::kGenerator);
  EXPECT_EQ(failed.error().message, "the model broke");
}

TEST_F(AnswerTest, CancellingKeepsTheTextSoFar) {
  add("a.txt", fakes::text_document("The reef is here. It is old."));
  ScriptedGenerator generator("The reef is here. [1] It is old. [1]");
  std::stop_source source;
  sink.on_piece = [&] {
    if (sink.text.ends_with("[1]")) source.request_stop();
  };
  const auto answer = ask(generator, "reef", {}, source.get_token());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->finish, GenerateFinish::kCancelled);
  EXPECT_EQ(answer->text, "The reef is here. [1]");
  EXPECT_EQ(answer->citations.size(), 1U);

  const auto nothing = ask(generator, "reef", {}, source.get_token());
  ASSERT_TRUE(nothing);
  EXPECT_EQ(nothing->finish, GenerateFinish::kCancelled);
  EXPECT_EQ(nothing->text, "");
}

TEST(PromptProfile, OurOwnIsValid) {
  const auto profile = load_prompt_profile(RESOURCES "/prompts/answer.json");
  ASSERT_TRUE(profile) << profile.error().message;
  EXPECT_THAT(profile->system, HasSubstr(profile->refusal));
}

TEST(PromptProfile, MissingKeysHaveDefaultsAndWrongOnesAreNamed) {
  const test::Scratch scratch;
  const auto nano = load_prompt_profile(
      scratch.write("lectern.json", R"({"prompt": "{passages}\n\nQuestion: {question}", "max_passages": 4})"));
  ASSERT_TRUE(nano);
  EXPECT_EQ(nano->max_passages, 4);
  EXPECT_EQ(nano->system, "");
  EXPECT_EQ(nano->refusal, PromptProfile().refusal);
  EXPECT_EQ(load_prompt_profile(scratch / "none.json").error().code, ErrorCode::kNotFound);
  for (const char* bad : {"", "[]", "{", R"({"prompt": 3})", R"({"prompt": "{passages}"})", R"({"max_passages": 0})",
                          R"({"max_passages": "many"})", R"({"max_new_tokens": -1})"}) {
    const auto profile = load_prompt_profile(scratch.write("bad.json", bad));
    ASSERT_FALSE(profile) << bad;
    EXPECT_EQ(profile.error().code, ErrorCode::kCorrupt) << bad;
    EXPECT_THAT(profile.error().message, HasSubstr("bad.json"));
  }
}

}  // namespace
}  // namespace lectern::retrieval
