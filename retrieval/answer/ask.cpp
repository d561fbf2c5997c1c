// SPDX-License-Identifier: GPL-3.0-or-later
#include <algorithm>
#include <string>
#include <utility>

#include "answer/marks.h"
#include "answer/matching.h"
#include "answer/pack.h"
#include "retrieval/answer.h"

namespace lectern::retrieval {
namespace {

class Relay : public GeneratorSink {
 public:
  explicit Relay(AskSink& sink) : sink_(sink) {}
  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    sink_.on_prefill(done, total, seconds);
  }
  void on_text(std::string_view piece) override { sink_.on_text(piece); }

 private:
  AskSink& sink_;
};

bool is_refusal(const std::string& answer, const std::string& refusal) {
  const FoldedText said(answer, false);
  const FoldedText expected(refusal, false);
  const std::string_view sentence = trimmed(expected.text());
  return !sentence.empty() && trimmed(said.text()).starts_with(sentence);
}

Answer cancelled_answer() {
  Answer answer;
  answer.finish = GenerateFinish::kCancelled;
  answer.generation.finish = GenerateFinish::kCancelled;
  return answer;
}

Result<std::vector<SearchHit>> find_passages(const Library& library, Embedder* embedder, const std::string& question,
                                             const AskOptions& options, int limit, const std::stop_token& stop) {
  SearchOptions search;
  search.limit = limit * 3;  // some of them will say the same
  search.documents = options.documents;
  RETRIEVAL_TRY(std::vector<SearchHit> hits, library.search(question, search, embedder, stop));
  if (!hits.empty()) return distinct(std::move(hits), static_cast<std::size_t>(limit));
  RETRIEVAL_TRY(const LibraryStatus status, library.status());
  if (status.chunks == 0) {
    return Error{ErrorCode::kNotFound, "The library holds no text yet; add documents first."};
  }
  return Error{ErrorCode::kNotFound,
               options.documents.empty()
                   ? "No passage in the library matches the question; use other words."
                   : "No passage in the chosen documents matches the question; use other words or more documents."};
}

Result<Answer> ask_unguarded(const Library& library, Generator& generator, Embedder* embedder,
                             const PromptProfile& profile, const std::string& question, const AskOptions& options,
                             AskSink& sink, const std::stop_token& stop) {
  const int limit = std::max(options.max_passages > 0 ? options.max_passages : profile.max_passages, 1);
  auto passages = find_passages(library, embedder, question, options, limit, stop);
  if (stop.stop_requested()) return cancelled_answer();
  if (!passages) return passages.error();

  RETRIEVAL_TRY(PackedPrompt packed,
                pack(library, generator, profile, *passages, question, options.generate.max_new_tokens));
  if (stop.stop_requested()) return cancelled_answer();
  sink.on_context(packed.context);

  Relay relay(sink);
  Answer answer;
  RETRIEVAL_TRY(answer.generation, generator.generate(packed.messages, options.generate, relay, stop));
  answer.text = answer.generation.text;
  answer.finish = answer.generation.finish;
  answer.context = std::move(packed.context);
  answer.refused = is_refusal(answer.text, profile.refusal);
  RETRIEVAL_TRY(answer.citations,
                resolve_citations(library, answer.context.passages, answer.text, answer.unknown_marks));
  return answer;
}

}  // namespace

Result<Answer> ask(const Library& library, Generator& generator, Embedder* embedder, const PromptProfile& profile,
                   const std::string& question, const AskOptions& options, AskSink& sink, std::stop_token stop) {
  try {
    if (question.find_first_not_of(" \t\r\n") == std::string::npos) {
      return Error{ErrorCode::kInvalidArgument, "The question is empty; type one."};
    }
    return ask_unguarded(library, generator, embedder, profile, question, options, sink, stop);
  } catch (const std::exception& error) {
    return Error{ErrorCode::kStorage, std::string("The question could not be answered: ") + error.what() + "."};
  }
}

}  // namespace lectern::retrieval
