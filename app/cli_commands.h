// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "exit_codes.h"
#include "interrupt.h"
#include "locations.h"
#include "retrieval/result.h"
#include "retrieval/types.h"
#include "terminal.h"

namespace lectern::app {

struct CliOptions {
  std::filesystem::path library;  // empty: the default one
  std::string model;              // empty: the bundled one
  int threads = 0;                // 0: one per hardware thread
  bool json = false;
  bool quiet = false;
  bool noEmbeddings = false;
  std::uint64_t seed = 0;

  std::vector<std::string> paths;                // ingest; rm: paths or ids
  std::string text;                              // search and ask: the query or question
  std::vector<retrieval::DocumentId> documents;  // search and ask: only these; empty: all
  int limit = 10;                                // search
  double temperature = 0;                        // ask
  std::int64_t maxTokens = 0;                    // ask; 0: what the prompt profile says
};

struct CommandContext {
  const CliOptions& options;
  const Locations& locations;
  Terminal& terminal;
  Interrupt& interrupt;
};

ExitCode runIngest(const CommandContext& context);
ExitCode runList(const CommandContext& context);
ExitCode runRemove(const CommandContext& context);
ExitCode runSearch(const CommandContext& context);
ExitCode runAsk(const CommandContext& context);
ExitCode runDoctor(const CommandContext& context);

// Tells the error on stderr, and as an object on stdout with --json.
ExitCode fail(const CommandContext& context, const retrieval::Error& error);
ExitCode fail(const CommandContext& context, const retrieval::Error& error, ExitCode code);

}  // namespace lectern::app
