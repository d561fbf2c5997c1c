// SPDX-License-Identifier: GPL-3.0-or-later
#include "composition.h"

#include <system_error>
#include <utility>

#include "extractor_process.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using retrieval::Error;
using retrieval::ErrorCode;
using retrieval::Result;

bool isDirectory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool isFile(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool isGgufFile(const fs::path& path) { return path.extension() == ".gguf" && isFile(path); }

bool isModel(const fs::path& path) { return isDirectory(path) || isGgufFile(path); }

// Creates what is missing of `directory`, closed to other users.
Result<void> createPrivately(const fs::path& directory) {
  std::error_code error;
  if (fs::is_directory(directory, error)) return {};
  fs::create_directories(directory, error);
  if (!error) fs::permissions(directory, fs::perms::owner_all, error);
  if (error) {
    return Error{ErrorCode::kPermission, "The library folder " + directory.string() + " cannot be created: " +
                                             error.message() + "; choose another one with --library."};
  }
  return {};
}

Result<retrieval::PromptProfile> loadProfile(const Locations& locations, const fs::path& model) {
  const bool isFolder = isDirectory(model);
  const fs::path own =
      isFolder ? model / "lectern.json" : model.parent_path() / (model.stem().string() + ".lectern.json");
  return retrieval::load_prompt_profile(isFile(own) ? own : locations.resources / "prompts" / "answer.json");
}

std::string searchedFolders(const Locations& locations) {
  std::string list;
  for (const fs::path& directory : locations.modelDirectories) {
    list += (list.empty() ? "" : ", ") + directory.string();
  }
  return list;
}

}  // namespace

Result<std::unique_ptr<retrieval::Library>> openLibrary(const Locations& locations, const fs::path& directory,
                                                        MissingLibrary missing) {
  const fs::path place = directory.empty() ? locations.defaultLibrary() : directory;
  if (missing == MissingLibrary::kCreate) {
    RETRIEVAL_CHECK(createPrivately(place));
  } else if (!isFile(place / "library.sqlite")) {
    return Error{ErrorCode::kNotFound,
                 "There is no library in " + place.string() + "; add documents first with 'lectern-cli ingest'."};
  }
  return retrieval::Library::open(place);
}

std::unique_ptr<retrieval::Extractor> makeExtractor(const Locations& locations) {
  return std::make_unique<ExtractorProcess>(locations.extractor);
}

Result<std::string> testSandbox(const Locations& locations) { return ExtractorProcess(locations.extractor).selfTest(); }

Result<fs::path> findModel(const Locations& locations, const std::string& model) {
  const std::string name = model.empty() ? kNanoModel : model;
  const bool isPath = name.find('/') != std::string::npos || name == "." || name == "..";
  if (isPath) {
    if (isModel(name)) return fs::path(name);
    return Error{ErrorCode::kInvalidArgument, "There is no model folder or GGUF file " + name +
                                                  "; give a folder that holds config.json, or a .gguf file."};
  }
  for (const fs::path& directory : locations.modelDirectories) {
    if (isFile(directory / name / "config.json") || isGgufFile(directory / name)) return directory / name;
    if (isGgufFile(directory / (name + ".gguf"))) return directory / (name + ".gguf");
  }
  if (isModel(name)) return fs::path(name);
  return Error{ErrorCode::kInvalidArgument, "There is no model named " + name + " in " + searchedFolders(locations) +
                                                "; give the path of its folder or .gguf file."};
}

Result<OpenedGenerator> openGenerator(const Locations& locations, const std::string& model,
                                      const engine::EngineOptions& options, const engine::LoadObserver& observer) {
  RETRIEVAL_TRY(const fs::path directory, findModel(locations, model));
  RETRIEVAL_TRY(retrieval::PromptProfile profile, loadProfile(locations, directory));
  engine::Result<std::unique_ptr<engine::Engine>> engine = engine::Engine::open(directory, options, observer);
  if (!engine.ok()) return generatorError(engine.error());
  OpenedGenerator opened;
  opened.generator = std::make_unique<EngineGenerator>(std::move(engine).value());
  opened.profile = std::move(profile);
  if (opened.generator->info().name == kNanoModel) {
    opened.note =
        "The bundled nano model only finds the sentence that answers and repeats it; it is not a chat model. Use "
        "--model with a Qwen3-Next or Qwen3 model, a folder or a .gguf file, for a real one.";
  }
  return opened;
}

Result<OpenedProcess> openGeneratorProcess(const Locations& locations, const std::string& model,
                                           engine::EngineOptions options, const LoadProgress& progress,
                                           std::stop_token stop) {
  RETRIEVAL_TRY(const fs::path path, findModel(locations, model));
  OpenedProcess opened;
  RETRIEVAL_TRY(opened.profile, loadProfile(locations, path));
  options.sessions.directory = locations.sessions();
  RETRIEVAL_TRY(opened.generator, EngineProcess::open(locations.engine, path, options, std::move(stop), {}, progress));
  return opened;
}

OpenedEmbedder openEmbedder(const Locations& locations, int threads) {
  OpenedEmbedder opened;
  Result<fs::path> directory = findModel(locations, kEmbeddingModel);
  if (!directory.ok()) {
    opened.note = "Search works on words alone; get the embedding model with ./run, or put its folder " +
                  std::string(kEmbeddingModel) + " into " + locations.modelDirectories.front().string() + ".";
    return opened;
  }
  engine::Result<std::unique_ptr<engine::Embedder>> embedder = engine::Embedder::open(*directory, threads);
  if (!embedder.ok()) {
    opened.note = "Search works on words alone: " + embedder.error().message;
    return opened;
  }
  opened.embedder = std::make_unique<EngineEmbedder>(std::move(embedder).value());
  return opened;
}

}  // namespace lectern::app
