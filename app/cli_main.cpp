// SPDX-License-Identifier: GPL-3.0-or-later
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>
#include <string>

#include "cli_commands.h"
#include "cli_json.h"
#include "cli_loading.h"
#include "cli_measure.h"
#include "ruler.h"

namespace lectern::app {

ExitCode fail(const CommandContext& context, const retrieval::Error& error, ExitCode code) {
  context.terminal.error(error.message);
  if (context.options.json) context.terminal.write(dump(toJson(error)));
  return code;
}

ExitCode fail(const CommandContext& context, const retrieval::Error& error) {
  return fail(context, error, exitCodeOf(error.code));
}

namespace {

using Command = ExitCode (*)(const CommandContext&);

constexpr int kMostDrafts = 4;

class CommandLine {
 public:
  CommandLine() : m_app("Reads, searches and answers from your documents, on this machine.", "lectern-cli") {
    m_app.require_subcommand(1);
    m_app.set_version_flag("--version", "lectern-cli " LECTERN_VERSION);
    m_app.footer(kExitCodeHelp);
    addGlobals();
    addLibraryCommands();
    addQuestionCommands();
    addModelCommands();
    addMeasurements();
    addCommand("doctor", "Says what works on this machine and what does not", runDoctor);
  }

  // An exit code when there is nothing more to do.
  std::optional<ExitCode> parse(int argc, const char* const* argv) {
    try {
      m_app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return m_app.exit(error) == 0 ? kExitOk : kExitUsage;
    }
    return std::nullopt;
  }

  const CliOptions& options() const { return m_options; }
  Command command() const { return m_command; }

 private:
  CLI::App* addCommand(const std::string& name, const std::string& what, Command run) {
    return addCommand(m_app, name, what, run);
  }

  CLI::App* addCommand(CLI::App& to, const std::string& name, const std::string& what, Command run) {
    CLI::App* added = to.add_subcommand(name, what);
    added->fallthrough();  // global options are understood on either side of the command
    added->callback([this, run] { m_command = run; });
    return added;
  }

  CLI::App& addGroup(const std::string& name, const std::string& what) {
    CLI::App* group = m_app.add_subcommand(name, what);
    group->fallthrough();
    group->require_subcommand(1);
    return *group;
  }

  void addGlobals() {
    m_app.add_option("--library", m_options.library, "Folder of the library (default: the user's own)");
    m_app.add_option("--model", m_options.model,
                     "Folder, .gguf file or name of the model that answers (default: the bundled nano)");
    m_app.add_option("--threads", m_options.threads, "Threads for the models; 0: one per hardware thread")
        ->check(CLI::Range(0, 1024));
    m_app.add_option("--seed", m_options.seed, "Seed of the sampler, used when the temperature is not 0");
    m_app.add_flag("--json", m_options.json, "Print one JSON object instead of text");
    m_app.add_flag("--quiet", m_options.quiet, "No progress and no notes, only results and errors");
    m_app.add_flag("--no-embeddings", m_options.noEmbeddings, "Search by words alone");
  }

  void addLibraryCommands() {
    CLI::App* ingest = addCommand("ingest", "Reads files and folders into the library", runIngest);
    ingest->add_option("PATH", m_options.paths, "Files and folders")->required();
    addCommand("ls", "Lists the documents of the library", runList);
    CLI::App* remove = addCommand("rm", "Removes documents from the library, not from the disk", runRemove);
    remove->add_option("DOC", m_options.paths, "Number or path of a document, as 'ls' prints it")->required();
  }

  void addQuestionCommands() {
    CLI::App* search = addCommand("search", "Finds passages by words and meaning", runSearch);
    search->add_option("QUERY", m_options.text, "Words, or a question")->required();
    search->add_option("--limit", m_options.limit, "At most this many passages")
        ->capture_default_str()
        ->check(CLI::Range(1, 1000));
    addDocumentFilter(*search);
    CLI::App* ask = addCommand("ask", "Answers a question from the documents, with citations", runAsk);
    ask->add_option("QUESTION", m_options.text, "The question")->required();
    ask->add_option("--temperature", m_options.temperature, "0 always takes the likeliest word")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 2.0));
    ask->add_option("--max-tokens", m_options.maxTokens, "Length limit of the answer")
        ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
    ask->add_option(
        "--sessions", m_options.measure.sessions,
        "Folder that keeps what the model has read, so that long prompts which begin alike are not read again");
    addEngineOptions(*ask, kMostDrafts);
    addDocumentFilter(*ask);
  }

  void addModelCommands() {
    CLI::App& group = addGroup("model", "Looks at, checks, converts and compares models");
    CLI::App* info = addCommand(group, "info", "Says what a model is and what memory it takes", runModelInfo);
    addModelPath(*info);
    info->add_flag("--tensors", m_options.tensors, "Also list every tensor");
    addEngineOptions(*info, 0);
    info->get_option("--device")->description("Also where the model would be on cpu, cuda or cuda:N, and how fast");
    info->preparse_callback([this](std::size_t) {
      m_options.measure.device.clear();  // not asked for
      m_options.measure.draftTokens = 0;
    });
    addModelPath(*addCommand(group, "verify", "Reads every number of a model and tests its tokenizer", runModelVerify));
    addConversion(*addCommand(group, "convert", "Writes a model as one GGUF file (BF16 unless --mix says otherwise)",
                              runModelConvert),
                  "BF16");
    addConversion(*addCommand(group, "quantize", "Writes a smaller GGUF file of a model (Q4_K_M unless --mix ...)",
                              runModelConvert),
                  "Q4_K_M");
    CLI::App* compare = addCommand(
        group, "compare", "Says how far two models agree on the same texts, and how fast each is", runModelCompare);
    addPath(*compare, "A", "Folder, .gguf file or name of the reference");
    addPath(*compare, "B", "The same of the other");
    compare->add_option("--texts", m_options.measure.texts,
                        "File of texts with empty lines between (default: built in)");
    addCount<std::int64_t>(*compare, "--decode", m_options.measure.decodeTokens, 0, 4096,
                           "Tokens to write after each text");
    addEngineOptions(*compare, 0);
  }

  void addModelPath(CLI::App& command) {
    command.add_option("MODEL", m_options.paths, "Folder, .gguf file or name of the model")->required()->expected(1);
  }

  // One of several, in their order.
  void addPath(CLI::App& command, const std::string& name, const std::string& help) {
    command
        .add_option_function<std::string>(
            name, [this](const std::string& path) { m_options.paths.push_back(path); }, help)
        ->required();
  }

  void addConversion(CLI::App& command, const std::string& usualMix) {
    addPath(command, "SOURCE", "The model");
    addPath(command, "DESTINATION", "The .gguf file to write");
    command.add_option("--mix", m_options.convert.mix, mixHelp() + " (default: " + usualMix + ")");
    command.add_flag("--no-mtp", m_options.convert.noMtp, "Leave out the module that guesses tokens ahead");
    command.add_flag("--force", m_options.convert.force, "Replace the destination if it exists");
    command.preparse_callback([this, usualMix](std::size_t) { m_options.convert.mix = usualMix; });
  }

  void addMeasurements() {
    CLI::App* bench = addCommand("bench", "Measures a model beside what the machine can do", runBench);
    MeasureOptions& measure = m_options.measure;
    addCount<std::int64_t>(*bench, "--prefill", measure.prefillTokens, 1, 1 << 24, "Tokens to read");
    addCount<std::int64_t>(*bench, "--decode", measure.decodeTokens, 1, 1 << 24, "Tokens to write");
    addCount<std::int64_t>(*bench, "--depth", measure.depthTokens, 0, 1 << 24,
                           "Tokens that are in the context already");
    bench->add_flag("--synthetic-depth", measure.syntheticDepth,
                    "Do not read these, but take random keys and values for them");
    addCount(*bench, "--batch", measure.batch, 1, 256, "Sequences that are written together");
    addCount(*bench, "--repeat", measure.repeat, 1, 1000, "Runs, of which the median counts");
    addEngineOptions(*bench, 0);

    CLI::App& eval = addGroup("eval", "Tests what a model can do");
    CLI::App* ruler =
        addCommand(eval, "ruler", "Finds, follows and counts things in long generated texts", runEvalRuler);
    ruler->add_option("--lengths", measure.lengths, "Lengths in tokens, prompt and answer together")
        ->delimiter(',')
        ->capture_default_str()
        ->check(CLI::Range(std::int64_t{512}, std::int64_t{1} << 24));
    ruler->add_option("--tasks", measure.tasks, "Of " + rulerTaskNames() + " (default: all)")->delimiter(',');
    addCount(*ruler, "--samples", measure.samples, 1, 10000, "Of each task at each length");
    addEngineOptions(*ruler, 0);
  }

  // `drafts`: tokens guessed ahead when nothing is said.
  void addEngineOptions(CLI::App& command, int drafts) {
    MeasureOptions& measure = m_options.measure;
    command.preparse_callback([&measure, drafts](std::size_t) { measure.draftTokens = drafts; });
    command
        .add_option("--device", measure.device,
                    "What computes: cpu, cuda (as many GPUs as the model needs), cuda:N or cuda:N,M,...")
        ->check(CLI::Validator(checkDevice, "DEVICE"))
        ->capture_default_str();
    command
        .add_option("--weights", measure.weights,
                    "On the CPU, where weights are read: mapped file, copy in memory, or as there is room")
        ->check(CLI::IsMember({"auto", "map", "copy"}))
        ->capture_default_str();
    command.add_option("--kv", measure.kv, "How keys and values are kept")
        ->capture_default_str()
        ->check(CLI::IsMember({"f32", "bf16", "q8"}));
    addCount<std::int64_t>(command, "--context", measure.contextTokens, 0, 1 << 28,
                           "Tokens of the context; 0: as many as needed");
    addCount<std::int64_t>(command, "--chunk", measure.chunkTokens, 0, 16384,
                           "Tokens that are read together; 0: chosen");
    addCount(command, "--draft", measure.draftTokens, 0, kMostDrafts, "Tokens to guess ahead where the model can")
        ->default_str(std::to_string(drafts));
    addCount<std::int64_t>(command, "--gpu-experts", measure.gpuExperts, -1, 1 << 20,
                           "Experts of each block on the GPU, the others in the computer's memory; -1: as many as fit");
    command.add_option("--rope-factor", measure.ropeFactor, "Stretches the trained context with YaRN; 0: not")
        ->check(CLI::Range(0.0, 1024.0));
  }

  template <class Number>
  static CLI::Option* addCount(CLI::App& command, const std::string& name, Number& value, Number low, Number high,
                               const std::string& what) {
    return command.add_option(name, value, what)->capture_default_str()->check(CLI::Range(low, high));
  }

  void addDocumentFilter(CLI::App& command) {
    command.add_option("--document", m_options.documents, "Only this document; may be repeated")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }

  CLI::App m_app;
  CliOptions m_options;
  Command m_command = nullptr;
};

// Models are read where they lie in their files, so that a file cut short by somebody else is noticed here.
void endOnLostFile(int /*signal*/) {
  constexpr char kSentence[] =
      "lectern-cli: A part of a file in use, most likely of the model, could not be read any more; "
      "fetch it again if it was changed or its disk is failing.\n";
  static_cast<void>(!write(STDERR_FILENO, kSentence, sizeof kSentence - 1));
  _exit(kExitError);
}

ExitCode runUnlessAbandoned(Command command, const CommandContext& context) {
  try {
    return command(context);
  } catch (const LoadingAbandoned& abandoned) {
    // The library is closed by now and every write of Terminal is complete.
    context.terminal.endProgress();
    std::_Exit(fail(context, {retrieval::ErrorCode::kCancelled, abandoned.what}));
  }
}

ExitCode runCommand(const CommandLine& line, mode_t usersMask) {
  Interrupt interrupt;
  Terminal terminal(line.options().quiet ? Terminal::Talk::kErrorsOnly : Terminal::Talk::kAll);
  auto locations = findLocations();
  if (!locations.ok()) {
    terminal.error(locations.error().message);
    return kExitError;
  }
  const CommandContext context{line.options(), *locations, terminal, interrupt, usersMask};
  const ExitCode code = runUnlessAbandoned(line.command(), context);
  if (terminal.outputClosed()) return kExitPipeClosed;
  if (terminal.outputFailed()) {
    terminal.error("The output could not be written; make room where it goes and try again.");
    return kExitError;
  }
  return code;
}

}  // namespace
}  // namespace lectern::app

int main(int argc, char** argv) {
  try {
    const mode_t usersMask = umask(S_IRWXG | S_IRWXO);  // a library is nobody else's business
    signal(SIGBUS, lectern::app::endOnLostFile);
    lectern::app::CommandLine line;
    if (const auto code = line.parse(argc, argv)) return *code;
    return lectern::app::runCommand(line, usersMask);
  } catch (const std::bad_alloc&) {
    std::fputs("lectern-cli: The memory of this machine does not suffice; close other programs or use --threads 1.\n",
               stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lectern-cli: Something unexpected failed: %s.\n", error.what());
  }
  return lectern::app::kExitError;
}
