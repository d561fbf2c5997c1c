// SPDX-License-Identifier: GPL-3.0-or-later
#include <cmath>
#include <set>
#include <string>
#include <utility>

#include "cli_commands.h"
#include "cli_json.h"
#include "cli_loading.h"
#include "cli_places.h"
#include "composition.h"

namespace lectern::app {
namespace {

using retrieval::Answer;
using retrieval::Citation;
using retrieval::ContextReport;

std::string rate(std::int64_t tokens, double seconds) {
  if (seconds <= 0) return "";
  return " (" + std::to_string(std::llround(static_cast<double>(tokens) / seconds)) + "/s)";
}

// Streams the answer to stdout; the context and the prefill progress go to stderr.
class AnswerPrinter final : public retrieval::AskSink {
 public:
  explicit AnswerPrinter(const CommandContext& context) : m_context(context) {}

  void on_context(const ContextReport& report) override {
    std::string line = "Reading " + counted(static_cast<long long>(report.passages.size()), "passage") + ", " +
                       std::to_string(report.prompt_tokens) + " of " + std::to_string(report.context_tokens) +
                       " tokens";
    if (report.passages_left_out > 0) {
      line += "; " + counted(report.passages_left_out, "passage") + " found but left out";
    }
    m_context.terminal.note(line + ".");
  }

  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    if (seconds <= 0) m_known = done;
    const std::int64_t read = done - m_known;
    std::string line =
        "Reading: " + std::to_string(done) + " of " + std::to_string(total) + " tokens" + rate(read, seconds);
    if (read > 0 && done < total) {
      const double left = seconds * static_cast<double>(total - done) / static_cast<double>(read);
      line += ", " + duration(left) + " left";
    }
    m_context.terminal.progress(line);
  }

  void on_text(std::string_view piece) override {
    if (m_context.options.json) return;
    m_begun = true;
    if (!m_context.terminal.write(printable(piece))) m_context.interrupt.stop();
  }

  // Closes a line that was begun.
  void finish() {
    m_context.terminal.endProgress();
    if (m_begun) m_context.terminal.write("\n");
  }

 private:
  bool m_begun = false;
  std::int64_t m_known = 0;  // tokens of the prompt, before anything was read
  const CommandContext& m_context;
};

std::string sourceLine(const Citation& citation) {
  std::string line = "[" + std::to_string(citation.mark) + "] " + placeOf(citation);
  if (!citation.quote.empty()) line += ": \"" + citation.quote + "\"";
  line += citation.verified ? " (verified)" : " (not verified: the source does not say this word for word)";
  return printableLine(line) + "\n";
}

// The same quotation may carry several marks in an answer; it is listed once.
std::string sources(const Answer& answer) {
  std::string text;
  std::set<std::string> seen;
  for (const Citation& citation : answer.citations) {
    const std::string line = sourceLine(citation);
    if (seen.insert(line).second) text += line;
  }
  for (const int mark : answer.unknown_marks) {
    const std::string line = "[" + std::to_string(mark) + "] names no passage that the model was given\n";
    if (seen.insert(line).second) text += line;
  }
  return text.empty() ? "" : "\nSources\n" + text;
}

void noteOutcome(const CommandContext& context, const Answer& answer) {
  const retrieval::GeneratedText& text = answer.generation;
  if (answer.finish == retrieval::GenerateFinish::kCancelled)
    context.terminal.note("Stopped; the answer is not complete.");
  if (answer.finish == retrieval::GenerateFinish::kLength) {
    context.terminal.note("The answer was cut at its length limit; --max-tokens raises it.");
  }
  if (!answer.refused && answer.citations.empty() && answer.finish == retrieval::GenerateFinish::kStop) {
    context.terminal.note("The answer cites nothing, so nothing in it could be checked.");
  }
  if (text.rope_factor > 1) {
    context.terminal.note("The text is longer than the model was trained for and was read with YaRN.");
  }
  const std::int64_t read = text.prompt_tokens - text.reused_tokens;
  context.terminal.note("Read " + std::to_string(read) + " tokens" + rate(read, text.prefill_seconds) +
                        (text.reused_tokens > 0 ? ", " + std::to_string(text.reused_tokens) + " known before" : "") +
                        ", wrote " + std::to_string(text.generated_tokens) +
                        rate(text.generated_tokens, text.decode_seconds) + ".");
}

void printAnswer(const CommandContext& context, const OpenedGenerator& model, const std::string& embedderNote,
                 const Answer& answer) {
  if (!context.options.json) {
    context.terminal.write(sources(answer));
    noteOutcome(context, answer);
    return;
  }
  Json json = {{"question", context.options.text}, {"model", model.generator->model_name()}};
  json.update(toJson(answer));
  json["notes"] = Json::array();
  for (const std::string& note : {model.note, embedderNote}) {
    if (!note.empty()) json["notes"].push_back(note);
  }
  context.terminal.write(dump(json));
}

retrieval::AskOptions askOptions(const CliOptions& cli, const retrieval::PromptProfile& profile) {
  retrieval::AskOptions options;
  options.generate.max_new_tokens = cli.maxTokens > 0 ? cli.maxTokens : profile.max_new_tokens;
  options.generate.temperature = static_cast<float>(cli.temperature);
  options.generate.seed = cli.seed;
  options.documents = cli.documents;
  return options;
}

}  // namespace

ExitCode runAsk(const CommandContext& context) {
  const CliOptions& cli = context.options;
  auto library = openLibrary(context.locations, cli.library, MissingLibrary::kRefuse);
  if (!library.ok()) return fail(context, library.error());
  auto model = loadGenerator(context);
  if (!model.ok()) return fail(context, model.error(), kExitError);
  OpenedEmbedder embedder;
  if (!cli.noEmbeddings) embedder = loadEmbedder(context);
  for (const std::string& note : {model->note, embedder.note}) {
    if (!note.empty()) context.terminal.note(note);
  }

  AnswerPrinter printer(context);
  auto answer = retrieval::ask(**library, *model->generator, embedder.embedder.get(), model->profile, cli.text,
                               askOptions(cli, model->profile), printer, context.interrupt.token());
  printer.finish();
  if (!answer.ok()) return fail(context, answer.error());
  printAnswer(context, *model, embedder.note, *answer);
  return answer->finish == retrieval::GenerateFinish::kCancelled ? kExitInterrupted : kExitOk;
}

}  // namespace lectern::app
