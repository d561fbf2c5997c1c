// SPDX-License-Identifier: GPL-3.0-or-later
// eval ruler
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli_commands.h"
#include "cli_json.h"
#include "cli_loading.h"
#include "cli_measure.h"
#include "composition.h"
#include "engine/engine.h"
#include "ruler.h"

namespace lectern::app {
namespace {

using Messages = std::vector<engine::ChatMessage>;

Messages messagesOf(const std::string& prompt) { return {{"user", prompt}}; }

// One task at one length.
struct Cell {
  std::int64_t length = 0;
  RulerTask task = RulerTask::kNeedle;
  int samples = 0;
  double score = 0;  // sum over the samples
  std::int64_t promptTokens = 0;
  std::int64_t readTokens = 0;  // of these
  double prefillSeconds = 0;
  double decodeSeconds = 0;
  std::int64_t generatedTokens = 0;
};

// Progress of one sample among all.
class SampleSink final : public engine::GenerationSink {
 public:
  SampleSink(const CommandContext& context, std::string label) : m_context(context), m_label(std::move(label)) {}

  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    std::string line = m_label + ": read " + std::to_string(done) + " of " + std::to_string(total) + " tokens";
    if (seconds <= 0) m_known = done;
    if (done > m_known && done < total) {
      line +=
          ", " + duration(seconds * static_cast<double>(total - done) / static_cast<double>(done - m_known)) + " left";
    }
    m_context.terminal.progress(line);
  }

 private:
  const CommandContext& m_context;
  std::string m_label;
  std::int64_t m_known = 0;  // tokens of the sample, before anything was read
};

class RulerRun {
 public:
  RulerRun(const CommandContext& context, std::unique_ptr<engine::Engine> engine)
      : m_context(context), m_engine(std::move(engine)) {}

  // False when it was stopped or failed; the cells so far are kept.
  bool run(const std::vector<std::int64_t>& lengths, const std::vector<RulerTask>& tasks) {
    for (const std::int64_t length : lengths) {
      for (const RulerTask task : tasks) {
        Cell cell{.length = length, .task = task};
        const bool complete = runSamples(cell);
        if (cell.samples > 0) m_cells.push_back(cell);
        if (!complete) return false;
      }
    }
    return true;
  }

  const std::vector<Cell>& cells() const { return m_cells; }
  const engine::ModelInfo& info() const { return m_engine->info(); }
  const std::optional<engine::Error>& error() const { return m_error; }
  const std::vector<std::string>& notes() const { return m_notes; }

 private:
  bool runSamples(Cell& cell) {
    for (int sample = 0; sample < m_context.options.measure.samples; ++sample) {
      if (m_context.interrupt.token().stop_requested() || !runSample(cell, sample)) return false;
      if (cell.samples == 0) break;  // it does not fit
    }
    return true;
  }

  bool runSample(Cell& cell, int index) {
    const std::string label = std::string(name(cell.task)) + " at " + std::to_string(cell.length) + ", sample " +
                              std::to_string(index + 1) + " of " + std::to_string(m_context.options.measure.samples);
    m_context.terminal.progress(label + ": making the text");
    const auto count = [this](const std::string& prompt) -> std::optional<std::int64_t> {
      auto counted = m_engine->count_prompt_tokens(messagesOf(prompt), false);
      if (counted.ok()) return *counted;
      m_error = counted.error();
      return std::nullopt;
    };
    const std::uint64_t seed = m_context.options.seed * 1000 + static_cast<std::uint64_t>(index);
    std::optional<RulerSample> sample = makeRulerSample(cell.task, cell.length, seed, count);
    if (!sample && m_error) return false;
    if (!sample) {
      m_notes.push_back("The task " + std::string(name(cell.task)) + " does not fit into " +
                        std::to_string(cell.length) + " tokens and was left out; ask for longer texts.");
      return true;
    }
    engine::GenerationRequest request;
    request.messages = messagesOf(sample->prompt);
    request.max_new_tokens = sample->answerTokens;
    SampleSink sink(m_context, label);
    const auto result = m_engine->generate(request, sink, m_context.interrupt.token());
    if (!result.ok()) {
      m_error = result.error();
      return false;
    }
    if (result->finish == engine::FinishReason::kCancelled) return false;
    ++cell.samples;
    cell.score += rulerScore(result->text, sample->expected);
    cell.promptTokens += result->statistics.prompt_tokens;
    cell.readTokens += result->statistics.prompt_tokens - result->statistics.reused_tokens;
    cell.prefillSeconds += result->statistics.prefill_seconds;
    cell.decodeSeconds += result->statistics.decode_seconds;
    cell.generatedTokens += result->statistics.generated_tokens;
    return true;
  }

  const CommandContext& m_context;
  std::unique_ptr<engine::Engine> m_engine;
  std::vector<Cell> m_cells;
  std::optional<engine::Error> m_error;
  std::vector<std::string> m_notes;
};

double meanScore(const Cell& cell) { return cell.score / cell.samples; }

double perSecond(std::int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

// The mean over the tasks of one length.
double scoreAt(const std::vector<Cell>& cells, std::int64_t length) {
  double sum = 0;
  int count = 0;
  for (const Cell& cell : cells) {
    if (cell.length != length) continue;
    sum += meanScore(cell);
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

std::vector<std::int64_t> lengthsOf(const std::vector<Cell>& cells) {
  std::vector<std::int64_t> lengths;
  for (const Cell& cell : cells) {
    if (lengths.empty() || lengths.back() != cell.length) lengths.push_back(cell.length);
  }
  return lengths;
}

Json resultJson(const RulerRun& run, bool complete) {
  Json json = {{"model", run.info().name},
               {"complete", complete},
               {"context_tokens", run.info().context_tokens},
               {"results", Json::array()},
               {"scores", Json::array()}};
  for (const Cell& cell : run.cells()) {
    json["results"].push_back({{"length", cell.length},
                               {"task", name(cell.task)},
                               {"samples", cell.samples},
                               {"score", meanScore(cell)},
                               {"mean_prompt_tokens", cell.promptTokens / cell.samples},
                               {"prefill_tokens_per_second", perSecond(cell.readTokens, cell.prefillSeconds)},
                               {"decode_tokens_per_second", perSecond(cell.generatedTokens, cell.decodeSeconds)}});
  }
  for (const std::int64_t length : lengthsOf(run.cells())) {
    json["scores"].push_back({{"length", length}, {"score", scoreAt(run.cells(), length)}});
  }
  json["notes"] = run.notes();
  if (run.error()) json["notes"].push_back(run.error()->message);
  return json;
}

std::string resultText(const RulerRun& run) {
  std::string text;
  for (const std::int64_t length : lengthsOf(run.cells())) {
    text += std::to_string(length) + " tokens: " + percent(scoreAt(run.cells(), length)) + "\n";
    for (const Cell& cell : run.cells()) {
      if (cell.length != length) continue;
      const std::string task = name(cell.task);
      text += "  " + task + std::string(18 - std::min<std::size_t>(17, task.size()), ' ') + percent(meanScore(cell)) +
              " of " + counted(cell.samples, "sample") + ", read at " +
              threeDigits(perSecond(cell.readTokens, cell.prefillSeconds)) + " tokens/s\n";
    }
  }
  return text;
}

std::optional<std::vector<RulerTask>> chosenTasks(const CommandContext& context) {
  if (context.options.measure.tasks.empty()) return allRulerTasks();
  std::vector<RulerTask> tasks;
  for (const std::string& wanted : context.options.measure.tasks) {
    const std::optional<RulerTask> task = rulerTaskNamed(wanted);
    if (!task) {
      fail(context, retrieval::Error{retrieval::ErrorCode::kInvalidArgument,
                                     "There is no task " + wanted + "; there are " + rulerTaskNames() + "."});
      return std::nullopt;
    }
    tasks.push_back(*task);
  }
  return tasks;
}

}  // namespace

ExitCode runEvalRuler(const CommandContext& context) {
  const auto tasks = chosenTasks(context);
  if (!tasks) return kExitUsage;
  const auto model = findModel(context.locations, context.options.model);
  if (!model.ok()) return fail(context, model.error());
  std::vector<std::int64_t> lengths = context.options.measure.lengths;
  std::sort(lengths.begin(), lengths.end());
  engine::EngineOptions options = engineOptions(context.options);
  options.sessions.memory_bytes = 0;  // every text is another one
  if (options.context_tokens == 0) options.context_tokens = lengths.back();
  auto engine = loadUnlessStopped(context, [path = *model, options](const engine::LoadObserver& observer) {
    return engine::Engine::open(path, options, observer);
  });
  if (!engine.ok()) return fail(context, engine.error());
  const std::int64_t held = (*engine)->info().context_tokens;
  if (held < lengths.back()) {
    return fail(context, engine::Error{engine::ErrorCode::kInvalidArgument,
                                       "The model holds " + std::to_string(held) +
                                           " tokens; ask for shorter texts, or for a --rope-factor."});
  }
  RulerRun run(context, std::move(engine).value());
  const bool complete = run.run(lengths, *tasks);
  context.terminal.endProgress();
  if (run.error() && run.cells().empty()) return fail(context, *run.error());
  for (const std::string& note : run.notes()) context.terminal.note(note);
  context.terminal.write(context.options.json ? dump(resultJson(run, complete)) : resultText(run));
  if (complete) return kExitOk;
  if (run.error()) context.terminal.error(run.error()->message);
  if (!run.error()) context.terminal.note("Stopped; what was finished before is shown.");
  return run.error() ? kExitError : kExitInterrupted;
}

}  // namespace lectern::app
