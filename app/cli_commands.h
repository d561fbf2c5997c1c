// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <sys/types.h>

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

// Of the commands that measure a model.
struct MeasureOptions {
  std::string sessions;            // folder; empty: nothing is kept on disk
  std::string device = "cpu";      // cpu, cuda, cuda:N or cuda:N,M,...
  std::string weights = "auto";    // where they are read: auto, map or copy
  std::string kv = "bf16";         // how keys and values are kept: f32, bf16 or q8
  std::int64_t contextTokens = 0;  // 0: as many as the task needs
  std::int64_t gpuExperts = -1;    // of each block; -1: as many as fit
  int draftTokens = 0;             // guessed ahead with the model's MTP module
  double ropeFactor = 0;           // YaRN beyond the trained context
  std::int64_t chunkTokens = 0;    // 0: chosen for the model

  std::int64_t prefillTokens = 512;  // bench
  std::int64_t decodeTokens = 64;    // bench; compare: greedily after each text
  std::int64_t depthTokens = 0;      // bench
  bool syntheticDepth = false;       // bench
  int batch = 1;                     // bench
  int repeat = 3;                    // bench

  std::string texts;  // compare: a file with one text for every paragraph

  std::vector<std::int64_t> lengths = {4096};  // eval
  std::vector<std::string> tasks;              // eval; empty: all
  int samples = 5;                             // eval: of each task at each length
};

// Of the commands that write a model.
struct ConvertOptions {
  std::string mix;  // empty: the command's usual one
  bool noMtp = false;
  bool force = false;
};

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

  bool tensors = false;  // model info: also list every tensor
  ConvertOptions convert;
  MeasureOptions measure;
};

struct CommandContext {
  const CliOptions& options;
  const Locations& locations;
  Terminal& terminal;
  Interrupt& interrupt;
  mode_t usersMask = 0;  // umask of whoever started the program
};

ExitCode runIngest(const CommandContext& context);
ExitCode runList(const CommandContext& context);
ExitCode runRemove(const CommandContext& context);
ExitCode runSearch(const CommandContext& context);
ExitCode runAsk(const CommandContext& context);
ExitCode runDoctor(const CommandContext& context);
ExitCode runModelInfo(const CommandContext& context);
ExitCode runModelVerify(const CommandContext& context);
ExitCode runModelConvert(const CommandContext& context);
ExitCode runModelCompare(const CommandContext& context);
ExitCode runBench(const CommandContext& context);
ExitCode runEvalRuler(const CommandContext& context);

// Tells the error on stderr, and as an object on stdout with --json.
ExitCode fail(const CommandContext& context, const retrieval::Error& error);
ExitCode fail(const CommandContext& context, const retrieval::Error& error, ExitCode code);

}  // namespace lectern::app
