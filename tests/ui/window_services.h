// SPDX-License-Identifier: GPL-3.0-or-later
// A real library in a scratch directory, read in this process, with a model that follows a script.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "retrieval/extract.h"
#include "support/scratch.h"
#include "ui/services.h"

namespace lectern::ui::test {

class InProcessExtractor : public retrieval::Extractor {
 public:
  retrieval::Result<retrieval::ExtractedDocument> extract(const std::filesystem::path& file,
                                                          std::stop_token stop) override {
    return retrieval::extract_file(file, {}, stop);
  }
};

class BrokenEmbedder : public retrieval::Embedder {
 public:
  int dimension() const override { return 4; }
  std::string model_id() const override { return "broken"; }
  retrieval::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> /*texts*/,
                                                           std::stop_token /*stop*/) override {
    return retrieval::Error{retrieval::ErrorCode::kGenerator, "the embedder broke."};
  }
};

// Reads its prompt in steps and writes what `reply` makes of it word by word; stops between any two of them.
class PacedGenerator : public retrieval::Generator {
 public:
  using Reply = std::function<std::string(const std::string& prompt)>;

  explicit PacedGenerator(Reply reply) : m_reply(std::move(reply)) {}

  std::string model_name() const override { return "scripted"; }
  std::int64_t context_tokens() const override { return 8192; }

  retrieval::Result<std::int64_t> count_tokens(const std::vector<retrieval::ChatMessage>& messages) override {
    std::size_t bytes = 0;
    for (const auto& message : messages) bytes += message.content.size();
    return static_cast<std::int64_t>(bytes / 4 + 1);
  }

  retrieval::Result<retrieval::GeneratedText> generate(const std::vector<retrieval::ChatMessage>& messages,
                                                       const retrieval::GenerateOptions& /*options*/,
                                                       retrieval::GeneratorSink& sink, std::stop_token stop) override {
    retrieval::GeneratedText generated;
    generated.prompt_tokens = count_tokens(messages).value();
    generated.prefill_seconds = 0.001 * static_cast<double>(prefillSteps * stepMs);
    for (int step = 0; step < prefillSteps; ++step) {
      if (!rest(stop)) return cancelled(std::move(generated));
      sink.on_prefill(generated.prompt_tokens * (step + 1) / prefillSteps, generated.prompt_tokens,
                      0.001 * (step + 1) * stepMs);
    }
    std::istringstream words(m_reply(messages.back().content));
    for (std::string word; std::getline(words, word, ' ');) {
      if (!rest(stop)) return cancelled(std::move(generated));
      word += ' ';
      generated.text += word;
      ++generated.generated_tokens;
      generated.decode_seconds += 0.001 * stepMs;
      sink.on_text(word);
    }
    return generated;
  }

  std::atomic<int> prefillSteps = 4;
  std::atomic<int> stepMs = 2;

 private:
  bool rest(const std::stop_token& stop) const {
    std::this_thread::sleep_for(std::chrono::milliseconds(stepMs));
    return !stop.stop_requested();
  }

  static retrieval::GeneratedText cancelled(retrieval::GeneratedText generated) {
    generated.finish = retrieval::GenerateFinish::kCancelled;
    return generated;
  }

  Reply m_reply;
};

// Services as the program would fill them; `generator` stays reachable for the test.
struct WindowServices {
  explicit WindowServices(PacedGenerator::Reply reply, std::shared_ptr<retrieval::Embedder> embedder = nullptr)
      : generator(std::make_shared<PacedGenerator>(std::move(reply))) {
    services.library = retrieval::Library::open(scratch.path() / "library").value();
    services.extractor = std::make_shared<InProcessExtractor>();
    services.embedder = std::move(embedder);
    services.openModel = [generator = generator](const ModelChoice&, const LoadProgress&, std::stop_token) {
      return retrieval::Result<OpenedModel>(OpenedModel{generator, {}, QStringLiteral("follows a script")});
    };
    services.settingsFile = QString::fromStdString((scratch.path() / "window.ini").string());
  }

  lectern::test::Scratch scratch;
  std::shared_ptr<PacedGenerator> generator;
  Services services;
};

}  // namespace lectern::ui::test
