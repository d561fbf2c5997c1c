// SPDX-License-Identifier: GPL-3.0-or-later
#include <sys/utsname.h>

#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cli_commands.h"
#include "cli_json.h"
#include "cli_loading.h"
#include "composition.h"
#include "engine/engine.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;

enum class State { kWorks, kMissing, kBroken };  // missing: the program does without

struct Finding {
  std::string topic;
  State state = State::kWorks;
  std::string text;
  Json details = Json::object();
};

const char* name(State state) {
  switch (state) {
    case State::kMissing:
      return "missing";
    case State::kBroken:
      return "broken";
    case State::kWorks:
      break;
  }
  return "ok";
}

Finding versionFinding() {
  utsname system{};
  uname(&system);
  Finding finding{"version", State::kWorks, "Lectern " LECTERN_VERSION ", ", {}};
  finding.text += std::string(system.sysname) + " " + system.release + " on " + system.machine;
  finding.details = {{"lectern", LECTERN_VERSION}, {"compiler", __VERSION__}, {"system", system.release}};
  return finding;
}

Finding deviceFinding(const engine::DeviceInfo& device) {
  const bool isCpu = device.kind == engine::DeviceKind::kCpu;
  Finding finding{"device", device.usable ? State::kWorks : State::kMissing, device.name, {}};
  if (device.memory_bytes > 0) finding.text += ", " + byteCount(static_cast<double>(device.memory_bytes));
  if (isCpu) finding.text += ", " + counted(std::thread::hardware_concurrency(), "thread");
  if (!device.reason.empty()) finding.text += ": " + device.reason;
  finding.details = {{"kind", isCpu ? "cpu" : "cuda"},
                     {"name", device.name},
                     {"memory_bytes", device.memory_bytes},
                     {"usable", device.usable},
                     {"reason", device.reason}};
  return finding;
}

Finding modelFinding(const CommandContext& context) {
  auto model = loadGenerator(context);
  if (!model.ok()) return {"model", State::kBroken, model.error().message, toJson(model.error())};
  const engine::ModelInfo& info = model->generator->info();
  Finding finding{"model", State::kWorks, info.name + " (" + info.architecture + ")", {}};
  finding.text += ", " + std::to_string(info.parameters) + " parameters, " +
                  byteCount(static_cast<double>(info.weight_bytes)) + ", context of " +
                  std::to_string(info.context_tokens) + " tokens";
  finding.details = {{"name", info.name},
                     {"architecture", info.architecture},
                     {"parameters", info.parameters},
                     {"weight_bytes", info.weight_bytes},
                     {"context_tokens", info.context_tokens},
                     {"layers", info.layers},
                     {"multi_token_prediction", info.has_mtp},
                     {"note", model->note}};
  return finding;
}

Finding embedderFinding(const CommandContext& context) {
  const OpenedEmbedder opened = loadEmbedder(context);
  Finding finding{"embedding model", State::kMissing, opened.note, {{"note", opened.note}}};
  if (opened.embedder == nullptr) return finding;
  finding.state = State::kWorks;
  finding.text = opened.embedder->model_id() + ", " + std::to_string(opened.embedder->dimension()) + " dimensions";
  finding.details = {{"id", opened.embedder->model_id()}, {"dimension", opened.embedder->dimension()}};
  return finding;
}

Finding sandboxFinding(const CommandContext& context) {
  auto report = testSandbox(context.locations);
  if (!report.ok()) return {"sandbox", State::kBroken, report.error().message, toJson(report.error())};
  return {"sandbox", State::kWorks, *report, {{"report", *report}}};
}

Finding libraryFinding(const CommandContext& context, const fs::path& directory) {
  const fs::path path = directory / "library.sqlite";
  Finding finding{"library", State::kMissing, "none yet in " + directory.string(), {{"path", directory.string()}}};
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return finding;
  auto library = openLibrary(context.locations, directory, MissingLibrary::kRefuse);
  auto status = library.ok() ? (*library)->status() : library.error();
  finding.state = State::kBroken;
  if (!status.ok()) {
    finding.text = status.error().message;
    finding.details.update(toJson(status.error()));
    return finding;
  }
  finding.details.update(toJson(*status));
  if (status->read_only_reason.empty()) finding.state = State::kWorks;
  finding.text = directory.string() + ": " + counted(status->documents, "document") + ", " +
                 counted(status->chunks, "passage") + ", " + std::to_string(status->embedded_chunks) + " embedded";
  if (!status->read_only_reason.empty()) finding.text += "; read-only: " + status->read_only_reason;
  return finding;
}

// Of the nearest folder that exists.
Finding diskFinding(fs::path directory) {
  std::error_code error;
  while (!fs::exists(directory, error) && directory.has_relative_path()) directory = directory.parent_path();
  const fs::space_info space = fs::space(directory, error);
  if (error) return {"disk", State::kBroken, "The free space of " + directory.string() + " is unknown.", {}};
  constexpr std::uintmax_t kLittle = 1'000'000'000;
  Finding finding{"disk", State::kWorks, byteCount(static_cast<double>(space.available)) + " free", {}};
  if (space.available < kLittle) {
    finding.state = State::kBroken;
    finding.text += "; make room before adding documents";
  }
  finding.details = {{"path", directory.string()}, {"free_bytes", space.available}};
  return finding;
}

void print(const CommandContext& context, const std::vector<Finding>& findings, bool healthy) {
  if (!context.options.json) {
    for (const Finding& finding : findings) {
      context.terminal.write(std::string(name(finding.state)) + "\t" + finding.topic + ": " +
                             printableLine(finding.text) + "\n");
    }
    return;
  }
  Json json = {{"healthy", healthy}, {"findings", Json::array()}};
  for (const Finding& finding : findings) {
    json["findings"].push_back({{"topic", finding.topic},
                                {"state", name(finding.state)},
                                {"text", finding.text},
                                {"details", finding.details}});
  }
  context.terminal.write(dump(json));
}

}  // namespace

ExitCode runDoctor(const CommandContext& context) {
  const fs::path given = context.options.library;
  const fs::path library = given.empty() ? context.locations.defaultLibrary() : fs::absolute(given);
  std::vector<Finding> findings = {versionFinding()};
  for (const engine::DeviceInfo& device : engine::list_devices()) findings.push_back(deviceFinding(device));
  findings.push_back(modelFinding(context));
  findings.push_back(embedderFinding(context));
  findings.push_back(sandboxFinding(context));
  findings.push_back(libraryFinding(context, library));
  findings.push_back(diskFinding(library));
  bool healthy = true;
  for (const Finding& finding : findings) healthy = healthy && finding.state != State::kBroken;
  print(context, findings, healthy);
  return healthy ? kExitOk : kExitError;
}

}  // namespace lectern::app
