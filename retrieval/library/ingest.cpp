// SPDX-License-Identifier: GPL-3.0-or-later
#include "library/ingest.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <utility>
#include <vector>

#include "documents/chunker.h"
#include "library/embedding.h"
#include "library/file_content.h"
#include "library/walk.h"
#include "retrieval/extract.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;

// Raised when the extractors read the same bytes differently.
constexpr int kExtractionVersion = 1;
constexpr int kPipeline = kExtractionVersion * 1000 + kChunkerVersion;
constexpr int kFailedPipeline = -kPipeline;  // read by this version, in vain

// Time stamps tick in steps of some milliseconds: a file changed just before it was read may change again unseen.
constexpr std::int64_t kSettledNs = 2'000'000'000;
constexpr std::int64_t kFileWeight = 16'384;  // cost of a file besides its bytes, in bytes

std::int64_t wall_clock_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

bool settled(const DocumentRecord& record) {
  return record.checked_ns - std::max(record.file.modified_ns, record.file.changed_ns) > kSettledNs;
}

class Ingest {
 public:
  explicit Ingest(const IngestTools& tools) : tools_(tools) {}

  Result<IngestReport> run(std::span<const fs::path> paths) {
    find_files(paths);
    for (const FoundFile& file : files_) {
      if (cancelled()) break;
      progress_.file = file.path;
      tell_progress();
      RETRIEVAL_CHECK(read_file(file));
      ++progress_.files_done;
      done_weight_ += weight(file);
    }
    progress_.file.clear();
    tell_progress();
    if (tools_.embedder != nullptr && !cancelled()) {
      RETRIEVAL_CHECK(embed_missing(tools_, progress_, report_));
    }
    report_.cancelled = cancelled();
    report_.seconds = seconds();
    return std::move(report_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool cancelled() const { return tools_.stop.stop_requested(); }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }
  static std::int64_t weight(const FoundFile& file) { return file.state.bytes + kFileWeight; }

  void tell_progress() {
    progress_.seconds = seconds();
    if (done_weight_ > 0) {
      const double reading = progress_.seconds - seconds_to_find_;
      progress_.seconds_left =
          reading * static_cast<double>(all_weight_ - done_weight_) / static_cast<double>(done_weight_);
    }
    tools_.sink.on_progress(progress_);
  }

  void tell(const IngestItem& item) {
    switch (item.outcome) {
      case IngestOutcome::kAdded:
        ++report_.added;
        break;
      case IngestOutcome::kUpdated:
        ++report_.updated;
        break;
      case IngestOutcome::kUnchanged:
        ++report_.unchanged;
        break;
      case IngestOutcome::kSkipped:
        ++report_.skipped;
        break;
      case IngestOutcome::kFailed:
        ++report_.failed;
        break;
    }
    tools_.sink.on_item(item);
  }

  void find_files(std::span<const fs::path> paths) {
    walk(
        paths,
        [&](const FoundFile& file) {
          if (!file.failure.empty()) return tell({file.path, IngestOutcome::kFailed, file.failure});
          std::string reason = file.skip_reason;
          // Directories of code are full of empty marker files; an empty file that was named is reported as failed.
          if (reason.empty() && !file.named && file.state.bytes == 0) reason = "empty";
          if (!reason.empty()) return tell({file.path, IngestOutcome::kSkipped, reason});
          files_.push_back(file);
          all_weight_ += weight(file);
          ++progress_.files_total;
          if (progress_.files_total % 256 == 0) tell_progress();
        },
        tools_.stop);
    seconds_to_find_ = seconds();
  }

  Result<void> read_file(const FoundFile& file) {
    if (file.state == FileState()) {
      tell({file.path, IngestOutcome::kFailed, file.path.string() + " does not exist or cannot be reached."});
      return {};
    }
    RETRIEVAL_TRY(const auto stored, tools_.store.find(file.path));
    // What failed before is tried again when it has changed, or when the user names it.
    const bool again = !stored || std::abs(stored->record.pipeline) != kPipeline ||
                       (stored->record.pipeline == kFailedPipeline && file.named);
    if (!again && stored->record.file == file.state && settled(stored->record)) return unchanged(file, *stored);

    DocumentRecord record;
    record.path = file.path;
    record.file = file.state;
    record.checked_ns = wall_clock_ns();
    if (file.state.bytes <= static_cast<std::int64_t>(ExtractLimits().file_bytes)) {
      auto content = hash_file(file.path, tools_.stop);
      if (!content && content.error().code == ErrorCode::kCancelled) return {};
      if (!content) return failed(std::move(record), content.error());
      record.content = *content;
    }
    if (!again && record.content && stored->record.content == record.content) {
      RETRIEVAL_CHECK(tools_.store.put_file_state(stored->id, record.file, record.checked_ns));
      return unchanged(file, *stored);
    }
    return extract(std::move(record), stored.has_value());
  }

  Result<void> extract(DocumentRecord record, bool known) {
    auto extracted = tools_.extractor.extract(record.path, tools_.stop);
    if (cancelled()) return {};
    if (extracted) extracted = checked(std::move(*extracted), record.path);
    if (!extracted) return failed(std::move(record), extracted.error());

    describe(*extracted, record);
    record.pipeline = kPipeline;
    const std::vector<Chunk> chunks = chunk_document(*extracted, {}, tools_.stop);
    if (cancelled()) return {};
    auto put = tools_.store.put(record, extracted->pages, chunks, tools_.stop);
    if (!put && put.error().code == ErrorCode::kCancelled) return {};
    if (!put) return put.error();
    tools_.vectors.removed(put->removed_chunks);

    IngestItem item{record.path, known ? IngestOutcome::kUpdated : IngestOutcome::kAdded, record.note, put->document};
    item.pages = static_cast<std::int64_t>(extracted->pages.size());
    item.chunks = static_cast<std::int64_t>(chunks.size());
    report_.pages += item.pages;
    report_.chunks += item.chunks;
    progress_.pages_done += item.pages;
    tell(item);
    return {};
  }

  Result<void> unchanged(const FoundFile& file, const StoredDocument& stored) {
    IngestItem item{file.path, IngestOutcome::kUnchanged, stored.record.note, stored.id};
    item.pages = stored.pages;
    item.chunks = stored.chunks;
    tell(item);
    return {};
  }

  Result<void> failed(DocumentRecord record, const Error& error) {
    record.title = shown_title("", record.path);
    record.kind = kind_by_name(record.path);
    record.state = DocumentState::kFailed;
    record.note = error.message;
    record.pipeline = kFailedPipeline;
    RETRIEVAL_TRY(const DocumentId document, tools_.store.put_failure(record));
    tell({record.path, IngestOutcome::kFailed, error.message, document});
    return {};
  }

  const IngestTools& tools_;
  const Clock::time_point begin_ = Clock::now();
  std::vector<FoundFile> files_;
  std::int64_t all_weight_ = 0;
  std::int64_t done_weight_ = 0;
  double seconds_to_find_ = 0;
  IngestProgress progress_;
  IngestReport report_;
};

}  // namespace

Result<IngestReport> ingest(std::span<const fs::path> paths, const IngestTools& tools) {
  return Ingest(tools).run(paths);
}

}  // namespace lectern::retrieval
