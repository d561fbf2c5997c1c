// SPDX-License-Identifier: GPL-3.0-or-later
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <functional>
#include <optional>
#include <string>

#include "cli_commands.h"
#include "cli_json.h"

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

class CommandLine {
 public:
  CommandLine() : m_app("Reads, searches and answers from your documents, on this machine.", "lectern-cli") {
    m_app.require_subcommand(1);
    m_app.set_version_flag("--version", "lectern-cli " LECTERN_VERSION);
    m_app.footer(kExitCodeHelp);
    addGlobals();
    addLibraryCommands();
    addQuestionCommands();
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
    CLI::App* added = m_app.add_subcommand(name, what);
    added->fallthrough();  // global options are understood on either side of the command
    added->callback([this, run] { m_command = run; });
    return added;
  }

  void addGlobals() {
    m_app.add_option("--library", m_options.library, "Folder of the library (default: the user's own)");
    m_app.add_option("--model", m_options.model,
                     "Folder or name of the model that answers (default: the bundled nano)");
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
    addDocumentFilter(*ask);
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

ExitCode runCommand(const CommandLine& line) {
  Interrupt interrupt;
  Terminal terminal(line.options().quiet ? Terminal::Talk::kErrorsOnly : Terminal::Talk::kAll);
  auto locations = findLocations();
  if (!locations.ok()) {
    terminal.error(locations.error().message);
    return kExitError;
  }
  const CommandContext context{line.options(), *locations, terminal, interrupt};
  const ExitCode code = line.command()(context);
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
    umask(S_IRWXG | S_IRWXO);  // a library is nobody else's business
    lectern::app::CommandLine line;
    if (const auto code = line.parse(argc, argv)) return *code;
    return lectern::app::runCommand(line);
  } catch (const std::bad_alloc&) {
    std::fputs("lectern-cli: The memory of this machine does not suffice; close other programs or use --threads 1.\n",
               stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lectern-cli: Something unexpected failed: %s.\n", error.what());
  }
  return lectern::app::kExitError;
}
