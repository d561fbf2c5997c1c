// SPDX-License-Identifier: GPL-3.0-or-later
// lectern-extract: reads one untrusted document from descriptor 3 and writes its text to standard output as one message
// of retrieval/extract.h. It gives up its rights before it looks at the first byte.
//
//   lectern-extract --name report.pdf [--page-milliseconds 5000] 3<report.pdf | ...
//   lectern-extract --self-test
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "extractor_rescue.h"
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

// Of processor time. The slowest honest pages, maps drawn in a hundred thousand strokes, take about a second.
constexpr long kMillisecondsPerPage = 5000;

retrieval::Result<retrieval::ExtractedDocument> readDocument(const std::string& name, app::PageRescue& rescue) {
  const retrieval::ExtractLimits limits;
  RETRIEVAL_TRY(const std::string bytes, retrieval::read_document(kDocumentDescriptor, name, limits));
  return retrieval::extract_bytes(
      name, bytes, limits, {},
      [&](const retrieval::ExtractedPage& page, std::size_t count) { rescue.addPage(page, count); });
}

int extract(const std::string& name, long pageTime) {
  struct stat output {};
  if (fstat(STDOUT_FILENO, &output) != 0 || S_ISREG(output.st_mode)) {
    complain("lectern-extract: standard output must be a pipe, because this program may write no file.\n");
    return 2;
  }
  const retrieval::PreloadedExtraction preloaded = retrieval::preload_extraction();
  app::PageRescue rescue{std::chrono::milliseconds(pageTime)};
  app::confine(preloaded.data_directories);
  const std::string message = retrieval::encode_extraction(readDocument(name, rescue));
  rescue.finish();
  return writeAll(message) ? 0 : 1;
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
  const std::vector<std::string> given(arguments + 1, arguments + count);
  const bool timed = given.size() == 4 && given[2] == "--page-milliseconds";
  const long pageTime = timed ? std::strtol(given[3].c_str(), nullptr, 10) : kMillisecondsPerPage;
  int status = 2;
  if (given.size() == 1 && given[0] == "--self-test") {
    status = selfTest();
  } else if ((given.size() == 2 || timed) && given[0] == "--name" && pageTime >= 10 && pageTime <= 100'000) {
    status = extract(given[1], pageTime);
  } else {
    complain(
        "Usage: lectern-extract --name NAME [--page-milliseconds N] 3<DOCUMENT | READER\n"
        "       lectern-extract --self-test\n");
  }
  // Skips destructors of libraries that would want files again.
  _exit(status);
}
