// SPDX-License-Identifier: GPL-3.0-or-later
// Opens the parts of the program and says honestly what is missing. The desktop and the terminal both start here.
#pragma once

#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>

#include "engine_adapters.h"
#include "engine_process.h"
#include "locations.h"
#include "retrieval/answer.h"
#include "retrieval/library.h"
#include "retrieval/ports.h"
#include "retrieval/result.h"

namespace lectern::app {

inline constexpr const char* kNanoModel = "nano";
inline constexpr const char* kEmbeddingModel = "all-MiniLM-L6-v2";

enum class MissingLibrary { kCreate, kRefuse };

// Opens the library at `directory`, or the default one when it is empty. A new one is readable by its owner only.
// Errors: kNotFound (missing, and not to be created), else those of Library::open.
retrieval::Result<std::unique_ptr<retrieval::Library>> openLibrary(const Locations& locations,
                                                                   const std::filesystem::path& directory,
                                                                   MissingLibrary missing);

// One sandboxed lectern-extract process per document.
std::unique_ptr<retrieval::Extractor> makeExtractor(const Locations& locations);

// Has lectern-extract try what it must not be able to do; returns its report, a line for each layer of confinement.
// Errors: kNotFound (no such program), kPermission (something forbidden was possible, or a layer is missing).
retrieval::Result<std::string> testSandbox(const Locations& locations);

// The directory of a model given by path or by the name of a folder in one of locations.modelDirectories; an empty
// name is the bundled nano model. Errors: kInvalidArgument, naming where was looked.
retrieval::Result<std::filesystem::path> findModel(const Locations& locations, const std::string& model);

struct OpenedGenerator {
  std::unique_ptr<EngineGenerator> generator;
  retrieval::PromptProfile profile;
  std::string note;  // for people; empty when there is nothing to say
};

// Loads a model and the way to put questions to it: its own lectern.json, else the general prompt.
// threads 0: one per hardware thread. Errors: kInvalidArgument (no such model), kGenerator, kCorrupt (a prompt file).
retrieval::Result<OpenedGenerator> openGenerator(const Locations& locations, const std::string& model,
                                                 const engine::EngineOptions& options,
                                                 const engine::LoadObserver& observer = {});

struct OpenedProcess {
  std::shared_ptr<EngineProcess> generator;
  retrieval::PromptProfile profile;
};

// The same in a process of its own, which keeps what it has read in locations.sessions() as well. Errors: also
// kCancelled.
retrieval::Result<OpenedProcess> openGeneratorProcess(const Locations& locations, const std::string& model,
                                                      engine::EngineOptions options, const LoadProgress& progress,
                                                      std::stop_token stop);

struct OpenedEmbedder {
  std::unique_ptr<EngineEmbedder> embedder;  // null: search works on words alone
  std::string note;                          // why it is null
};

OpenedEmbedder openEmbedder(const Locations& locations, int threads);

}  // namespace lectern::app
