// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include "retrieval/result.h"

namespace lectern::app {

enum ExitCode : int {
  kExitOk = 0,
  kExitError = 1,
  kExitUsage = 2,
  kExitSomeFailed = 3,     // ingest: at least one item could not be read; the others are kept
  kExitNothingFound = 4,   // search, ask, rm: no such passage, document or library
  kExitLibraryClosed = 5,  // another process owns the library, or a newer version wrote it
  kExitInterrupted = 130,  // Ctrl+C, also while a model is being loaded; what was finished before is kept
  kExitPipeClosed = 141,   // the reader of the output went away
};

// The table above in words, for --help.
extern const char* const kExitCodeHelp;

ExitCode exitCodeOf(retrieval::ErrorCode code);

// "kNewerVersion" as "newer_version", for --json.
const char* errorName(retrieval::ErrorCode code);

}  // namespace lectern::app
