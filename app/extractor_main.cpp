// SPDX-License-Identifier: GPL-3.0-or-later
// lectern-extract: reads one untrusted document from descriptor 3 and writes its text to standard output as one message
// of retrieval/extract.h. It gives up its rights before it looks at the first byte.
//
//   lectern-extract --name report.pdf 3<report.pdf | ...
//   lectern-extract --self-test
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "extractor_sandbox.h"
#include "retrieval/extract.h"

namespace {

using namespace lectern;

constexpr int kDocumentDescriptor = 3;

bool writeAll(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

void complain(std::string_view text) { static_cast<void>(!write(STDERR_FILENO, text.data(), text.size())); }

retrieval::Result<retrieval::ExtractedDocument> readDocument(const std::string& name) {
  const retrieval::ExtractLimits limits;
  RETRIEVAL_TRY(const std::string bytes, retrieval::read_document(kDocumentDescriptor, name, limits));
  return retrieval::extract_bytes(name, bytes, limits, {});
}

int extract(const std::string& name) {
  struct stat output {};
  if (fstat(STDOUT_FILENO, &output) != 0 || S_ISREG(output.st_mode)) {
    complain("lectern-extract: standard output must be a pipe, because this program may write no file.\n");
    return 2;
  }
  const retrieval::PreloadedExtraction preloaded = retrieval::preload_extraction();
  lectern::app::confine(preloaded.data_directories);
  return writeAll(retrieval::encode_extraction(readDocument(name))) ? 0 : 1;
}

int selfTest() {
  const retrieval::PreloadedExtraction preloaded = retrieval::preload_extraction();
  const app::EscapeReport escapes = app::tryToEscape(preloaded.data_directories);
  const app::Confinement confinement = app::confine(preloaded.data_directories);
  std::string report = app::describe(confinement) + "; " +
                       std::to_string(escapes.attempts - static_cast<int>(escapes.succeeded.size())) + " of " +
                       std::to_string(escapes.attempts) + " forbidden actions were denied";
  for (const std::string& action : escapes.succeeded) report += ", could " + action;
  writeAll(report + ".\n");
  return confinement.complete() && escapes.succeeded.empty() ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  // The parent's death ends this process too.
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  const std::string_view first = count > 1 ? arguments[1] : "";
  int status = 2;
  if (first == "--self-test" && count == 2) {
    status = selfTest();
  } else if (first == "--name" && count == 3) {
    status = extract(arguments[2]);
  } else {
    complain("Usage: lectern-extract --name NAME 3<DOCUMENT | READER\n       lectern-extract --self-test\n");
  }
  // Skips destructors of libraries that would want files again.
  _exit(status);
}
