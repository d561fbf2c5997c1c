// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <stop_token>
#include <string>

#include "retrieval/extract.h"
#include "retrieval/ports.h"

namespace lectern::app {

struct ExtractorProcessLimits {
  std::chrono::milliseconds deadline{120'000};  // per document
  std::chrono::milliseconds pageTime{5000};     // of processor time; what was read before such a page is kept
  std::size_t answerBytes = 384U << 20;         // 64 MB of text with a rectangle for each word
  retrieval::ExtractLimits document;
};

// Reads each document in a fresh lectern-extract process, which gets nothing but the open document. Whatever happens to
// that process is one error for that document; no call leaves a process behind.
class ExtractorProcess : public retrieval::Extractor {
 public:
  explicit ExtractorProcess(std::filesystem::path program, ExtractorProcessLimits limits = {});

  // Errors: those of retrieval::extract_file, kUnreadable when the process crashed or was stopped by a limit,
  // kNotFound when the program is missing.
  retrieval::Result<retrieval::ExtractedDocument> extract(const std::filesystem::path& file,
                                                          std::stop_token stop) override;

  // Has the program try what it must not be able to do. Returns its report, one line for each layer of confinement.
  // Errors: kNotFound (no such program), kPermission (something forbidden was possible, or a layer is missing).
  retrieval::Result<std::string> selfTest();

 private:
  std::filesystem::path m_program;
  ExtractorProcessLimits m_limits;
};

}  // namespace lectern::app
