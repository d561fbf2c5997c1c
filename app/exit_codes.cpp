// SPDX-License-Identifier: GPL-3.0-or-later
#include "exit_codes.h"

namespace lectern::app {

using retrieval::ErrorCode;

const char* const kExitCodeHelp =
    "Exit codes:\n"
    "  0    done\n"
    "  1    an error, told in one sentence on stderr\n"
    "  2    the command line is wrong\n"
    "  3    some items could not be read; all others were kept\n"
    "  4    nothing was found\n"
    "  5    the library is in use by another process, or was written by a newer version\n"
    "  130  stopped with Ctrl+C, also while a model was being loaded; what was finished before is kept\n"
    "  141  the reader of the output went away";

ExitCode exitCodeOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kNotFound:
      return kExitNothingFound;
    case ErrorCode::kBusy:
    case ErrorCode::kNewerVersion:
      return kExitLibraryClosed;
    case ErrorCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitError;
  }
}

const char* errorName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kPermission:
      return "permission";
    case ErrorCode::kUnreadable:
      return "unreadable";
    case ErrorCode::kEncrypted:
      return "encrypted";
    case ErrorCode::kTooLarge:
      return "too_large";
    case ErrorCode::kNewerVersion:
      return "newer_version";
    case ErrorCode::kCorrupt:
      return "corrupt";
    case ErrorCode::kBusy:
      return "busy";
    case ErrorCode::kStorage:
      return "storage";
    case ErrorCode::kGenerator:
      return "generator";
    case ErrorCode::kCancelled:
      return "cancelled";
  }
  return "error";
}

}  // namespace lectern::app
