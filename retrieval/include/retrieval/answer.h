// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "retrieval/library.h"
#include "retrieval/ports.h"
#include "retrieval/result.h"
#include "retrieval/types.h"

namespace lectern::retrieval {

// How passages and a question become chat messages. Each passage is written as "[n] text" (n from 1), passages are
// separated by an empty line (code: the file and its lines, then the lines themselves); "{passages}" and "{question}"
// are replaced in `user`.
struct PromptProfile {
  std::string system;  // empty: no system message
  std::string user = "{passages}\n\nQuestion: {question}";
  std::string refusal = "The passages do not answer this question.";
  int max_passages = 12;
  std::int64_t max_new_tokens = 512;  // for AskOptions::generate when the user has no wish
};

// Reads a profile from JSON ("system", "prompt", "refusal", "max_passages", "max_new_tokens"), such as a model
// directory's lectern.json. Errors: kNotFound, kCorrupt.
Result<PromptProfile> load_prompt_profile(const std::filesystem::path& file);

struct AskOptions {
  GenerateOptions generate;
  std::vector<DocumentId> documents;  // empty: all
  int max_passages = 0;               // 0: the profile's
};

// What the model is really given: shown before generation begins.
struct ContextReport {
  std::vector<SearchHit> passages;     // in prompt order: passages[i] has mark i + 1
  std::int64_t passages_left_out = 0;  // found, but did not fit
  std::int64_t prompt_tokens = 0;
  std::int64_t context_tokens = 0;
};

// Called on the asking thread.
class AskSink {
 public:
  virtual ~AskSink() = default;
  virtual void on_context(const ContextReport& /*context*/) {}
  virtual void on_prefill(std::int64_t /*done*/, std::int64_t /*total*/, double /*seconds*/) {}
  virtual void on_text(std::string_view /*piece*/) {}
};

struct Answer {
  std::string text;                 // as generated, marks included
  std::vector<Citation> citations;  // one per mark occurrence, in text order
  std::vector<int> unknown_marks;   // marks in the text that name no passage
  bool refused = false;             // the model said that the passages do not answer
  GenerateFinish finish = GenerateFinish::kStop;
  ContextReport context;
  GeneratedText generation;
};

// retrieve -> pack by exact token count -> generate -> resolve citations -> verify quotations.
// Errors: kInvalidArgument for an empty question, kNotFound when the library is empty or nothing matches, kTooLarge
// when not even one passage fits the model's context, kGenerator, kStorage. Cancelling is not an error.
Result<Answer> ask(const Library& library, Generator& generator, Embedder* embedder, const PromptProfile& profile,
                   const std::string& question, const AskOptions& options, AskSink& sink, std::stop_token stop);

// Resolves the citations of `text` against packed passages; used by ask() and for stored answers.
Result<std::vector<Citation>> resolve_citations(const Library& library, const std::vector<SearchHit>& passages,
                                                const std::string& text, std::vector<int>& unknown_marks);

}  // namespace lectern::retrieval
