// SPDX-License-Identifier: GPL-3.0-or-later
// Stand-ins for what the host program supplies, small enough to reason about in a test.
#pragma once

#include <atomic>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "retrieval/ports.h"

namespace lectern::retrieval::fakes {

// Words hashed into a fixed number of dimensions: texts that share words are near.
class HashingEmbedder : public Embedder {
 public:
  explicit HashingEmbedder(int dimension = 64, std::string model = "hashing-v1")
      : dimension_(dimension), model_(std::move(model)) {}

  int dimension() const override { return dimension_; }
  std::string model_id() const override { return model_; }

  Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts, std::stop_token stop) override {
    ++calls;
    texts_embedded += static_cast<int>(texts.size());
    if (on_embed) on_embed();
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "stopped"};
    if (calls > fail_after_calls) return Error{ErrorCode::kGenerator, "the embedder broke"};
    std::vector<std::vector<float>> vectors;
    for (const std::string& text : texts) vectors.push_back(vector_of(text));
    return vectors;
  }

  int calls = 0;
  int texts_embedded = 0;
  int fail_after_calls = 1'000'000;
  std::function<void()> on_embed;

 private:
  std::vector<float> vector_of(const std::string& text) const {
    std::vector<float> vector(static_cast<std::size_t>(dimension_), 0.0F);
    std::string word;
    for (const char c : text + " ") {
      if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
        word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      } else if (!word.empty()) {
        vector[std::hash<std::string>()(word) % vector.size()] += 1.0F;
        word.clear();
      }
    }
    float square = 1e-9F;
    for (const float x : vector) square += x * x;
    for (float& x : vector) x /= std::sqrt(square);
    return vector;
  }

  int dimension_;
  std::string model_;
};

// Answers with what `reply` makes of the messages; a token is a run of non-space bytes.
class ScriptedGenerator : public Generator {
 public:
  using Reply = std::function<std::string(const std::vector<ChatMessage>&)>;

  explicit ScriptedGenerator(Reply reply, std::int64_t context = 4096) : reply_(std::move(reply)), context_(context) {}
  explicit ScriptedGenerator(std::string text, std::int64_t context = 4096)
      : ScriptedGenerator([text](const auto&) { return text; }, context) {}

  std::string model_name() const override { return "scripted"; }
  std::int64_t context_tokens() const override { return context_; }

  Result<std::int64_t> count_tokens(const std::vector<ChatMessage>& messages) override {
    ++counts;
    std::int64_t tokens = 0;
    for (const ChatMessage& message : messages) {
      std::istringstream words(message.content);
      tokens += std::distance(std::istream_iterator<std::string>(words), std::istream_iterator<std::string>());
    }
    return tokens;
  }

  Result<GeneratedText> generate(const std::vector<ChatMessage>& messages, const GenerateOptions& options,
                                 GeneratorSink& sink, std::stop_token stop) override {
    prompts.push_back(messages);
    used = options;
    if (fail) return Error{ErrorCode::kGenerator, "the model broke"};
    GeneratedText generated;
    generated.prompt_tokens = *count_tokens(messages);
    sink.on_prefill(generated.prompt_tokens, generated.prompt_tokens, 0.0);
    std::istringstream pieces(reply_(messages));
    for (std::string piece; std::getline(pieces, piece, ' ');) {
      if (stop.stop_requested()) {
        generated.finish = GenerateFinish::kCancelled;
        break;
      }
      if (!generated.text.empty()) piece.insert(0, " ");
      generated.text += piece;
      ++generated.generated_tokens;
      sink.on_text(piece);
    }
    return generated;
  }

  int counts = 0;
  bool fail = false;
  GenerateOptions used;
  std::vector<std::vector<ChatMessage>> prompts;

 private:
  Reply reply_;
  std::int64_t context_;
};

// A page whose words stand on lines of `words_per_line`, in a grid over the whole page.
inline ExtractedPage grid_page(const std::string& text, int words_per_line = 8) {
  ExtractedPage page;
  page.width_points = 595;
  page.height_points = 842;
  std::istringstream words(text);
  int count = 0;
  for (std::string word; words >> word; ++count) {
    const int column = count % words_per_line;
    const int line = count / words_per_line;
    if (count > 0) page.text += column == 0 ? '\n' : ' ';
    const auto begin = static_cast<std::uint32_t>(page.text.size());
    page.text += word;
    const float width = 0.9F / static_cast<float>(words_per_line);
    const float left = 0.05F + width * static_cast<float>(column);
    const float top = 0.05F + 0.02F * static_cast<float>(line);
    page.words.push_back(
        {begin, static_cast<std::uint32_t>(page.text.size()), {left, top, left + width * 0.9F, top + 0.015F}});
  }
  return page;
}

inline ExtractedDocument pdf_document(const std::vector<std::string>& pages, const std::string& title = "") {
  ExtractedDocument document;
  document.kind = DocumentKind::kPdf;
  document.title = title;
  for (const std::string& page : pages) document.pages.push_back(grid_page(page));
  return document;
}

inline ExtractedDocument text_document(const std::string& text, DocumentKind kind = DocumentKind::kText) {
  ExtractedDocument document;
  document.kind = kind;
  if (kind == DocumentKind::kCode) document.language = "cpp";
  document.pages.push_back({text, 0, 0, {}});
  return document;
}

// What was prepared for a file name; any other file is read as text.
class MemoryExtractor : public Extractor {
 public:
  Result<ExtractedDocument> extract(const std::filesystem::path& file, std::stop_token stop) override {
    ++calls;
    if (on_extract) on_extract(file);
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "stopped"};
    const auto found = prepared.find(file.filename().string());
    if (found != prepared.end()) return found->second;
    std::ifstream stream(file, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(stream)), {});
    if (text.empty()) return Error{ErrorCode::kUnreadable, file.filename().string() + " is empty."};
    const std::string suffix = file.extension().string();
    return text_document(text, suffix == ".cpp" || suffix == ".py" ? DocumentKind::kCode : DocumentKind::kText);
  }

  std::map<std::string, Result<ExtractedDocument>> prepared;
  std::atomic<int> calls = 0;
  std::function<void(const std::filesystem::path&)> on_extract;
};

}  // namespace lectern::retrieval::fakes
