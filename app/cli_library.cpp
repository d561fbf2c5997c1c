// SPDX-License-Identifier: GPL-3.0-or-later
// ingest, ls, rm
#include <charconv>
#include <cmath>
#include <memory>
#include <system_error>
#include <utility>

#include "cli_commands.h"
#include "cli_json.h"
#include "cli_loading.h"
#include "composition.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using retrieval::DocumentInfo;
using retrieval::IngestItem;
using retrieval::IngestOutcome;
using retrieval::IngestProgress;
using retrieval::IngestReport;

fs::path absolutePath(const std::string& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  return (error ? fs::path(path) : absolute).lexically_normal();
}

std::string progressLine(const IngestProgress& progress) {
  const bool allRead = progress.file.empty() && progress.files_done > 0;  // now passages get their vectors
  std::string line = allRead ? "Embedding, after " : "Reading ";
  line += std::to_string(progress.files_done) + " of " + counted(progress.files_total, "file");
  if (progress.pages_done > 0) line += ", " + counted(progress.pages_done, "page");
  if (progress.seconds >= 1 && progress.pages_done > 0) {
    line += " (" + std::to_string(std::llround(static_cast<double>(progress.pages_done) / progress.seconds)) + "/s)";
  }
  if (progress.seconds_left >= 0) line += ", " + duration(progress.seconds_left) + " left";
  return progress.file.empty() ? line : line + ": " + progress.file.filename().string();
}

std::string itemLine(const IngestItem& item) {
  std::string line = std::string(name(item.outcome)) + "  " + printableLine(item.file.string());
  if (item.outcome == IngestOutcome::kAdded || item.outcome == IngestOutcome::kUpdated) {
    line += "  " + counted(item.pages, "page") + ", " + counted(item.chunks, "passage");
  }
  if (!item.message.empty()) line += ": " + printableLine(item.message);
  return line + "\n";
}

// Prints items as they come; unchanged ones are only counted. With JSON everything is kept for the end.
class IngestPrinter final : public retrieval::IngestSink {
 public:
  explicit IngestPrinter(const CommandContext& context) : m_context(context) {}

  void on_progress(const IngestProgress& progress) override { m_context.terminal.progress(progressLine(progress)); }

  void on_item(const IngestItem& item) override {
    if (m_context.options.json) {
      m_items.push_back(toJson(item));
    } else if (item.outcome != IngestOutcome::kUnchanged && !m_context.terminal.write(itemLine(item))) {
      m_context.interrupt.stop();
    }
  }

  Json takeItems() { return std::move(m_items); }

 private:
  const CommandContext& m_context;
  Json m_items = Json::array();
};

std::string summary(const IngestReport& report) {
  std::string line = report.cancelled ? "Stopped; kept: " : "Done: ";
  line += std::to_string(report.added) + " added, " + std::to_string(report.updated) + " updated, " +
          std::to_string(report.unchanged) + " unchanged, " + std::to_string(report.skipped) + " skipped, " +
          std::to_string(report.failed) + " failed; " + counted(report.pages, "page") + ", " +
          counted(report.chunks, "passage") + ", " + std::to_string(report.embedded) + " embedded";
  const std::string time = duration(report.seconds);
  return line + (time.empty() ? "" : " in " + time) + ".\n";
}

// A document by its number or its path.
const DocumentInfo* findDocument(const std::vector<DocumentInfo>& documents, const std::string& reference) {
  const fs::path path = absolutePath(reference);
  for (const DocumentInfo& document : documents) {
    if (document.path == path) return &document;
  }
  retrieval::DocumentId id = 0;
  const auto parsed = std::from_chars(reference.data(), reference.data() + reference.size(), id);
  if (parsed.ec != std::errc() || parsed.ptr != reference.data() + reference.size()) return nullptr;
  for (const DocumentInfo& document : documents) {
    if (document.id == id) return &document;
  }
  return nullptr;
}

std::string listLine(const DocumentInfo& document) {
  std::string line = std::to_string(document.id) + "  " + printableLine(document.title) + "  (" + name(document.kind);
  line += ", " + counted(document.pages, "page") + ", " + counted(document.chunks, "passage") + ")  " +
          document.path.string();
  if (document.state != retrieval::DocumentState::kReady) line += std::string("  ") + name(document.state);
  if (!document.note.empty()) line += ": " + printableLine(document.note);
  return line + "\n";
}

}  // namespace

ExitCode runIngest(const CommandContext& context) {
  auto library = openLibrary(context.locations, context.options.library, MissingLibrary::kCreate);
  if (!library.ok()) return fail(context, library.error());
  OpenedEmbedder embedder;
  if (!context.options.noEmbeddings) embedder = loadEmbedder(context);
  if (!embedder.note.empty()) context.terminal.note(embedder.note);
  const std::unique_ptr<retrieval::Extractor> extractor = makeExtractor(context.locations);

  std::vector<fs::path> paths;
  for (const std::string& path : context.options.paths) paths.push_back(absolutePath(path));
  IngestPrinter printer(context);
  auto report = (*library)->ingest(paths, *extractor, embedder.embedder.get(), printer, context.interrupt.token());
  if (!report.ok()) return fail(context, report.error());

  if (context.options.json) {
    Json json = {{"items", printer.takeItems()}, {"report", toJson(*report)}};
    if (!embedder.note.empty()) json["notes"] = {embedder.note};
    context.terminal.write(dump(json));
  } else {
    context.terminal.write(summary(*report));
  }
  if (!report->embedding_error.empty()) {
    context.terminal.note("Search finds some passages by words alone until 'ingest' runs again: " +
                          report->embedding_error);
  }
  if (report->cancelled) return kExitInterrupted;
  return report->failed > 0 ? kExitSomeFailed : kExitOk;
}

ExitCode runList(const CommandContext& context) {
  auto library = openLibrary(context.locations, context.options.library, MissingLibrary::kRefuse);
  if (!library.ok()) return fail(context, library.error());
  auto documents = (*library)->documents();
  if (!documents.ok()) return fail(context, documents.error());
  if (context.options.json) {
    Json json = {{"documents", Json::array()}};
    for (const DocumentInfo& document : *documents) json["documents"].push_back(toJson(document));
    context.terminal.write(dump(json));
    return kExitOk;
  }
  for (const DocumentInfo& document : *documents) {
    if (!context.terminal.write(listLine(document))) break;
  }
  if (documents->empty()) context.terminal.note("The library is empty; add documents with 'lectern-cli ingest'.");
  return kExitOk;
}

ExitCode runRemove(const CommandContext& context) {
  auto library = openLibrary(context.locations, context.options.library, MissingLibrary::kRefuse);
  if (!library.ok()) return fail(context, library.error());
  auto documents = (*library)->documents();
  if (!documents.ok()) return fail(context, documents.error());

  std::vector<const DocumentInfo*> chosen;  // all are found before any is removed
  for (const std::string& reference : context.options.paths) {
    const DocumentInfo* document = findDocument(*documents, reference);
    if (document == nullptr) {
      return fail(context, {retrieval::ErrorCode::kNotFound, "No document of the library has the number or path " +
                                                                 reference + "; 'lectern-cli ls' lists them."});
    }
    chosen.push_back(document);
  }
  Json removed = Json::array();
  for (const DocumentInfo* document : chosen) {
    auto result = (*library)->remove(document->id);
    if (!result.ok()) return fail(context, result.error());
    removed.push_back(toJson(*document));
    if (!context.options.json) context.terminal.write("removed  " + printableLine(document->path.string()) + "\n");
  }
  if (context.options.json) context.terminal.write(dump({{"removed", std::move(removed)}}));
  return kExitOk;
}

}  // namespace lectern::app
