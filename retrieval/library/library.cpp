// SPDX-License-Identifier: GPL-3.0-or-later
#include "retrieval/library.h"

#include <mutex>
#include <string>
#include <utility>

#include "library/ingest.h"
#include "search/search.h"
#include "search/vectors.h"
#include "store/store.h"

namespace lectern::retrieval {
namespace {

// The module's border: what still throws (memory, file system) becomes an Error.
template <class Function>
auto guarded(const Store& store, Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& error) {
    return Error{ErrorCode::kStorage, "The library " + store.directory().string() + " failed: " + error.what() + "."};
  }
}

DocumentInfo info_of(StoredDocument stored) {
  DocumentInfo info;
  info.id = stored.id;
  info.path = std::move(stored.record.path);
  info.title = std::move(stored.record.title);
  info.kind = stored.record.kind;
  info.state = stored.record.state;
  info.note = std::move(stored.record.note);
  info.pages = stored.pages;
  info.chunks = stored.chunks;
  info.bytes = stored.record.file.bytes;
  return info;
}

class SqliteLibrary : public Library {
 public:
  explicit SqliteLibrary(std::unique_ptr<Store> store) : store_(std::move(store)), vectors_(*store_) {}

  Result<IngestReport> ingest(std::span<const std::filesystem::path> paths, Extractor& extractor, Embedder* embedder,
                              IngestSink& sink, std::stop_token stop) override {
    std::unique_lock turn(ingest_mutex_, std::defer_lock);
    while (!turn.try_lock_for(std::chrono::milliseconds(50))) {
      if (!stop.stop_requested()) continue;
      IngestReport report;
      report.cancelled = true;
      return report;
    }
    return guarded(*store_, [&] {
      return retrieval::ingest(paths, {*store_, vectors_, extractor, embedder, sink, std::move(stop)});
    });
  }

  Result<void> remove(DocumentId document) override {
    return guarded(*store_, [&]() -> Result<void> {
      RETRIEVAL_TRY(const std::vector<ChunkId> removed, store_->remove(document));
      vectors_.removed(removed);
      return {};
    });
  }

  Result<std::vector<DocumentInfo>> documents() const override {
    return guarded(*store_, [&]() -> Result<std::vector<DocumentInfo>> {
      RETRIEVAL_TRY(std::vector<StoredDocument> stored, store_->documents());
      std::vector<DocumentInfo> infos;
      infos.reserve(stored.size());
      for (StoredDocument& document : stored) infos.push_back(info_of(std::move(document)));
      return infos;
    });
  }

  Result<DocumentInfo> document(DocumentId document) const override {
    return guarded(*store_, [&]() -> Result<DocumentInfo> {
      RETRIEVAL_TRY(StoredDocument stored, store_->document(document));
      return info_of(std::move(stored));
    });
  }

  Result<ExtractedPage> page(DocumentId document, std::uint32_t page_index) const override {
    return guarded(*store_, [&] { return store_->page(document, page_index); });
  }

  Result<Chunk> chunk(ChunkId chunk) const override {
    return guarded(*store_, [&]() -> Result<Chunk> {
      RETRIEVAL_TRY(auto found, store_->chunks(std::span(&chunk, 1)));
      if (found.empty()) {
        return Error{ErrorCode::kNotFound, "Passage " + std::to_string(chunk) + " is not in this library any more."};
      }
      return std::move(found.front().second.chunk);
    });
  }

  Result<LibraryStatus> status() const override {
    return guarded(*store_, [&] { return store_->status(); });
  }

  Result<std::vector<SearchHit>> search(const std::string& query, const SearchOptions& options, Embedder* embedder,
                                        std::stop_token stop) const override {
    return guarded(*store_, [&] { return search_library(*store_, vectors_, query, options, embedder, stop); });
  }

 private:
  const std::unique_ptr<Store> store_;
  mutable Vectors vectors_;
  std::timed_mutex ingest_mutex_;  // one ingest at a time; guards no data
};

}  // namespace

Result<std::unique_ptr<Library>> Library::open(const std::filesystem::path& directory) {
  try {
    RETRIEVAL_TRY(std::unique_ptr<Store> store, Store::open(std::filesystem::absolute(directory).lexically_normal()));
    return std::unique_ptr<Library>(std::make_unique<SqliteLibrary>(std::move(store)));
  } catch (const std::exception& error) {
    return Error{ErrorCode::kStorage, "The library " + directory.string() + " cannot be opened: " + error.what() + "."};
  }
}

}  // namespace lectern::retrieval
