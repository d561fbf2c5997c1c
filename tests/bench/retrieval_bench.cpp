// SPDX-License-Identifier: GPL-3.0-or-later
// Search latency and ingest rate, as one JSON object on stdout.
//   retrieval_bench [passages, default 10000] [directory of documents to ingest]
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "retrieval/extract.h"
#include "retrieval/library.h"
#include "support/fakes.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int kDimension = 384;  // all-MiniLM-L6-v2
constexpr int kPassageWords = 150;
constexpr int kQueries = 300;
constexpr int kPassagesPerDocument = 100;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// Of this thread: what the same work takes on a machine that does nothing else.
double processor_milliseconds() {
  timespec time = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

class InProcessExtractor : public Extractor {
 public:
  Result<ExtractedDocument> extract(const std::filesystem::path& file, std::stop_token stop) override {
    return extract_file(file, ExtractLimits(), std::move(stop));
  }
};

// Keeps how long each document took.
class Stopwatch : public IngestSink {
 public:
  void on_item(const IngestItem& item) override {
    if (item.outcome == IngestOutcome::kAdded) {
      documents.push_back(milliseconds_since(last_));
      pages += item.pages;
    } else if (item.outcome == IngestOutcome::kFailed) {
      std::cerr << item.message << '\n';
    }
    last_ = Clock::now();
  }
  std::vector<double> documents;
  std::int64_t pages = 0;

 private:
  Clock::time_point last_ = Clock::now();
};

Json percentiles(std::vector<double> values) {
  if (values.empty()) return nullptr;
  std::sort(values.begin(), values.end());
  const auto at = [&](double fraction) {
    return values[static_cast<std::size_t>(fraction * static_cast<double>(values.size() - 1))];
  };
  return {{"p50_ms", at(0.5)}, {"p99_ms", at(0.99)}, {"max_ms", values.back()}};
}

// Word frequencies as in natural language: the k-th word is about 1/k as frequent as the first.
class Prose {
 public:
  std::string words(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      const double rank = std::pow(20'000.0, uniform_(random_));
      text += word(static_cast<unsigned>(rank));
      text += i % 12 == 11 ? ". " : " ";
    }
    return text;
  }

 private:
  static std::string word(unsigned rank) {
    static constexpr const char* kSyllables[] = {"ka", "lo", "mi", "ne", "ru", "sta", "ve", "xo", "pri", "dan"};
    std::string word;
    for (unsigned rest = rank + 10; rest > 0; rest /= 10) word += kSyllables[rest % 10];
    return word;
  }
  std::mt19937 random_{17};
  std::uniform_real_distribution<double> uniform_;
};

Json bench_search(const Library& library, Prose& prose, Embedder* embedder, int words) {
  std::vector<double> elapsed;
  std::vector<double> processor;
  for (int i = 0; i < kQueries; ++i) {
    const std::string query = prose.words(words);
    const auto begin = Clock::now();
    const double processor_begin = processor_milliseconds();
    const auto hits = library.search(query, {}, embedder, {});
    processor.push_back(processor_milliseconds() - processor_begin);
    elapsed.push_back(milliseconds_since(begin));
    if (!hits) std::cerr << hits.error().message << '\n';
  }
  return {{"elapsed", percentiles(std::move(elapsed))}, {"processor", percentiles(std::move(processor))}};
}

Json bench_synthetic(int passages) {
  const test::Scratch scratch(std::filesystem::temp_directory_path());  // a disk: commits are part of the rate
  fakes::MemoryExtractor extractor;
  fakes::HashingEmbedder embedder(kDimension);
  Prose prose;
  for (int i = 0; i * kPassagesPerDocument < passages; ++i) {
    ExtractedDocument document;
    std::string text;
    for (int k = 0; k < kPassagesPerDocument; ++k) text += prose.words(kPassageWords) + "\n\n";
    const std::string name = std::to_string(i) + ".txt";
    scratch.write("d/" + name, name);
    extractor.prepared.emplace(name, fakes::text_document(text));
  }
  auto library = Library::open(scratch / "l").value();
  const std::vector<std::filesystem::path> tree = {scratch / "d"};
  Stopwatch sink;
  const auto report = library->ingest(tree, extractor, &embedder, sink, {});
  if (!report) return {{"error", report.error().message}};
  Json result = {{"passages", report->chunks}, {"store_and_embed_seconds", report->seconds}};
  result["store_document_of_100_passages"] = percentiles(sink.documents);

  library.reset();
  const auto begin = Clock::now();
  library = Library::open(scratch / "l").value();
  result["open_ms"] = milliseconds_since(begin);
  const auto first = Clock::now();
  if (!library->search("kalomi", {}, &embedder, {})) std::cerr << "the first search failed\n";
  result["first_search_ms"] = milliseconds_since(first);  // reads all vectors
  result["search_words_and_vectors"] = bench_search(*library, prose, &embedder, 8);
  result["search_words"] = bench_search(*library, prose, nullptr, 8);
  result["search_pasted_paragraph"] = bench_search(*library, prose, &embedder, 80);
  return result;
}

Json bench_documents(const std::filesystem::path& directory) {
  const test::Scratch scratch(std::filesystem::temp_directory_path());  // a disk: commits are part of the rate
  InProcessExtractor extractor;
  auto library = Library::open(scratch / "l").value();
  Stopwatch sink;
  const auto report = library->ingest(std::span(&directory, 1), extractor, nullptr, sink, {});
  if (!report) return {{"error", report.error().message}};
  return {{"documents", report->added},
          {"failed", report->failed},
          {"skipped", report->skipped},
          {"pages", sink.pages},
          {"passages", report->chunks},
          {"seconds", report->seconds},
          {"pages_per_second", static_cast<double>(sink.pages) / report->seconds},
          {"document", percentiles(sink.documents)}};
}

}  // namespace
}  // namespace lectern::retrieval

int main(int argc, char** argv) {
  using namespace lectern::retrieval;
  const int passages = argc > 1 ? std::atoi(argv[1]) : 10'000;
  Json result = {{"benchmark", "retrieval"}, {"threads", std::thread::hardware_concurrency()}};
  if (passages > 0) result["synthetic"] = bench_synthetic(passages);
  if (argc > 2) result["documents"] = bench_documents(argv[2]);
  std::cout << result.dump(2) << '\n';
}
