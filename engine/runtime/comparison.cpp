// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/measure.h"
#include "model/model_files.h"
#include "runtime/memory_plan.h"
#include "runtime/no_exceptions.h"
#include "runtime/opened_model.h"
#include "runtime/sample_texts.h"
#include "runtime/spread.h"
#include "runtime/task_clock.h"
#include "runtime/type_shares.h"

namespace lectern::engine {
namespace {

constexpr std::size_t kBeginningBytes = 60;
constexpr std::int64_t kMostTokensAlone = 128;  // of a text, when all logits of a model wait for the other one

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What a model made of one text.
struct TextRun {
  std::vector<float> logits;     // [tokens, vocabulary]
  std::vector<TokenId> decoded;  // greedily after the text
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

// One of the two models, and its speeds so far.
class Side {
 public:
  Side(OpenedModel model, const CompareOptions& options, const std::stop_token& stop)
      : model_(std::move(model)), options_(options), stop_(stop) {}

  std::vector<std::vector<TokenId>> encode(std::span<const std::string> texts, std::int64_t most) const {
    std::vector<std::vector<TokenId>> encoded;
    for (const std::string& text : texts) {
      encoded.push_back(model_.tokenizer->encode(text, Tokenizer::SpecialTokens::kIgnore));
      if (static_cast<std::int64_t>(encoded.back().size()) > most)
        encoded.back().resize(static_cast<std::size_t>(most));
    }
    return encoded;
  }

  Result<TextRun> read(std::span<const TokenId> tokens) {
    const auto count = static_cast<std::int64_t>(tokens.size());
    const auto width = static_cast<std::size_t>(model_.vocabulary());
    ENGINE_TRY(SequenceState state, model_.transformer->new_sequence(model_.sequence_options(count, false)));
    TextRun run;
    run.logits.resize(tokens.size() * width);
    auto start = std::chrono::steady_clock::now();
    ENGINE_CHECK(model_.transformer->forward(state, tokens, {count, run.logits, {}}, stop_));
    run.prefill_seconds = seconds_since(start);
    std::vector<float> logits(run.logits.end() - static_cast<std::ptrdiff_t>(width), run.logits.end());
    start = std::chrono::steady_clock::now();
    for (std::int64_t i = 0; i < options_.decode_tokens; ++i) {
      run.decoded.push_back(most_likely_token(logits));
      ENGINE_CHECK(model_.transformer->forward(state, std::span(run.decoded).last(1), {1, logits, {}}, stop_));
    }
    run.decode_seconds = seconds_since(start);
    prefills_.push_back(static_cast<double>(count) / run.prefill_seconds);
    decodes_.push_back(static_cast<double>(options_.decode_tokens) / run.decode_seconds);
    return run;
  }

  ComparedModel describe() const {
    ComparedModel described;
    TypeShares shares;
    const ModelWeights& weights = model_.transformer->weights();
    for (const auto& [name, tensor] : weights.files.tensors()) {
      shares.add(tensor.dtype, 0, static_cast<std::int64_t>(tensor.bytes.size()));
    }
    for (const TypeShare& share : shares.list()) {
      described.quantisation += (described.quantisation.empty() ? "" : ", ") + share.type;
    }
    described.name = model_.name;
    described.weight_bytes = weights.bytes;
    described.load_seconds = model_.load_seconds;
    described.prefill_tokens_per_second = spread_of(prefills_);
    if (options_.decode_tokens > 0) described.decode_tokens_per_second = spread_of(decodes_);
    return described;
  }

 private:
  OpenedModel model_;
  const CompareOptions& options_;
  const std::stop_token& stop_;
  std::vector<double> prefills_;
  std::vector<double> decodes_;
};

std::vector<double> log_softmax(std::span<const float> logits) {
  const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  std::vector<double> logs;
  logs.reserve(logits.size());
  for (const float logit : logits) logs.push_back(static_cast<double>(logit) - largest - std::log(sum));
  return logs;
}

// Sums over positions.
class AgreementSum {
 public:
  // `next`: the text's own token after these logits, if it goes on.
  void add(std::span<const float> a, std::span<const float> b, std::optional<TokenId> next) {
    const std::vector<double> logs_a = log_softmax(a);
    const std::vector<double> logs_b = log_softmax(b);
    double divergence = 0;
    for (std::size_t i = 0; i < logs_a.size(); ++i) divergence += std::exp(logs_a[i]) * (logs_a[i] - logs_b[i]);
    divergence = std::max(0.0, divergence);  // rounding may leave it a hair below
    ++positions_;
    same_ += most_likely_token(a) == most_likely_token(b) ? 1 : 0;
    divergence_ += divergence;
    largest_ = std::max(largest_, divergence);
    if (!next) return;
    ++continued_;
    log_a_ += logs_a[static_cast<std::size_t>(*next)];
    log_b_ += logs_b[static_cast<std::size_t>(*next)];
  }

  void add(const AgreementSum& other) {
    positions_ += other.positions_;
    continued_ += other.continued_;
    same_ += other.same_;
    divergence_ += other.divergence_;
    largest_ = std::max(largest_, other.largest_);
    log_a_ += other.log_a_;
    log_b_ += other.log_b_;
  }

  Agreement result() const {
    const auto positions = static_cast<double>(std::max<std::int64_t>(1, positions_));
    const auto continued = static_cast<double>(std::max<std::int64_t>(1, continued_));
    return {positions_,
            static_cast<double>(same_) / positions,
            divergence_ / positions,
            largest_,
            (log_a_ - log_b_) / continued,
            std::exp(-log_a_ / continued),
            std::exp(-log_b_ / continued)};
  }

 private:
  std::int64_t positions_ = 0;
  std::int64_t continued_ = 0;
  std::int64_t same_ = 0;
  double divergence_ = 0;
  double largest_ = 0;
  double log_a_ = 0;
  double log_b_ = 0;
};

// The first line, cut between characters.
std::string beginning_of(const std::string& text) {
  std::size_t end = std::min(text.find('\n'), text.size());
  if (end > kBeginningBytes) end = kBeginningBytes;
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return text.substr(0, end);
}

class Comparison {
 public:
  Comparison(const CompareOptions& options, const TaskSink& progress, std::stop_token stop)
      : options_(options), clock_(progress), stop_(std::move(stop)), texts_(options.texts) {
    if (texts_.empty()) texts_.assign(kSampleTexts.begin(), kSampleTexts.end());
  }

  Result<CompareReport> run(const std::filesystem::path& path_a, const std::filesystem::path& path_b) {
    ENGINE_TRY(report_.alternated, fit_together(path_a, path_b));
    most_tokens_ =
        report_.alternated ? options_.most_text_tokens : std::min(options_.most_text_tokens, kMostTokensAlone);
    tell("opening the models");
    ENGINE_TRY(std::optional<Side> a, open(path_a));
    const auto encoded = a->encode(texts_, most_tokens_);
    if (!report_.alternated) {
      ENGINE_TRY(const std::vector<TextRun> runs, read_all(*a, encoded));
      report_.a = a->describe();
      a.reset();
      ENGINE_TRY(std::optional<Side> b, open(path_b));
      ENGINE_CHECK(check_tokens(encoded, *b));
      for (std::size_t i = 0; i < encoded.size(); ++i) {
        if (encoded[i].size() < 2) continue;
        ENGINE_CHECK(compare_text(i, encoded[i], runs[i], *b));
      }
      report_.b = b->describe();
    } else {
      ENGINE_TRY(std::optional<Side> b, open(path_b));
      ENGINE_CHECK(check_tokens(encoded, *b));
      for (std::size_t i = 0; i < encoded.size(); ++i) {
        if (encoded[i].size() < 2) continue;
        tell("A: " + beginning_of(texts_[i]));
        ENGINE_TRY(const TextRun run, a->read(encoded[i]));
        ++steps_;
        ENGINE_CHECK(compare_text(i, encoded[i], run, *b));
      }
      report_.a = a->describe();
      report_.b = b->describe();
    }
    if (report_.texts.empty()) {
      return Error{ErrorCode::kInvalidArgument,
                   "No text has the two tokens that a comparison takes; give longer ones."};
    }
    report_.agreement = all_.result();
    return std::move(report_);
  }

 private:
  void tell(const std::string& item) const { clock_.tell(item, steps_, 2 * static_cast<std::int64_t>(texts_.size())); }

  std::int64_t needed_tokens() const { return options_.most_text_tokens + options_.decode_tokens + 1; }

  Result<bool> fit_together(const std::filesystem::path& path_a, const std::filesystem::path& path_b) const {
    std::int64_t needed = 0;
    for (const auto& path : {path_a, path_b}) {
      ENGINE_TRY(const ModelFiles files, ModelFiles::open(path));
      for (const auto& [name, tensor] : files.tensors()) needed += static_cast<std::int64_t>(tensor.bytes.size());
    }
    const std::int64_t limit = options_.engine.memory_limit_bytes;
    return needed <= (limit > 0 ? limit : available_memory()) / 10 * 9;
  }

  Result<std::optional<Side>> open(const std::filesystem::path& path) const {
    EngineOptions engine = options_.engine;
    engine.draft_tokens = 0;
    ENGINE_TRY(OpenedModel model, OpenedModel::open(path, engine, needed_tokens(), stop_));
    return std::optional<Side>(std::in_place, std::move(model), options_, stop_);
  }

  // Both models must see the same tokens.
  Result<void> check_tokens(const std::vector<std::vector<TokenId>>& encoded, const Side& b) {
    if (b.encode(texts_, most_tokens_) == encoded) return {};
    return Error{ErrorCode::kInvalidArgument,
                 "The two models divide texts into different tokens, so that they cannot be compared token by token; "
                 "choose two of the same family."};
  }

  Result<std::vector<TextRun>> read_all(Side& side, const std::vector<std::vector<TokenId>>& encoded) {
    std::vector<TextRun> runs(encoded.size());
    for (std::size_t i = 0; i < encoded.size(); ++i) {
      if (encoded[i].size() < 2) continue;
      tell("A: " + beginning_of(texts_[i]));
      ENGINE_TRY(runs[i], side.read(encoded[i]));
      ++steps_;
    }
    return runs;
  }

  Result<void> compare_text(std::size_t index, std::span<const TokenId> tokens, const TextRun& a, Side& side_b) {
    tell("B: " + beginning_of(texts_[index]));
    ENGINE_TRY(const TextRun b, side_b.read(tokens));
    ++steps_;
    if (a.logits.size() != b.logits.size()) {
      return Error{ErrorCode::kInvalidArgument,
                   "The two models have vocabularies of different sizes, so that they cannot be compared."};
    }
    const std::size_t width = a.logits.size() / tokens.size();
    AgreementSum sum;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const auto row = [&](const TextRun& run) { return std::span(run.logits).subspan(i * width, width); };
      sum.add(row(a), row(b), i + 1 < tokens.size() ? std::optional(tokens[i + 1]) : std::nullopt);
    }
    all_.add(sum);
    const auto parted = std::mismatch(a.decoded.begin(), a.decoded.end(), b.decoded.begin()).first;
    report_.texts.push_back({beginning_of(texts_[index]), sum.result(), static_cast<std::int64_t>(a.decoded.size()),
                             parted - a.decoded.begin()});
    return {};
  }

  const CompareOptions& options_;
  TaskClock clock_;
  std::stop_token stop_;
  std::vector<std::string> texts_;
  std::int64_t most_tokens_ = 0;
  std::int64_t steps_ = 0;
  AgreementSum all_;
  CompareReport report_;
};

Result<void> check(const CompareOptions& options) {
  constexpr std::int64_t kMost = 4096;
  const bool fits = options.most_text_tokens >= 2 && options.most_text_tokens <= kMost && options.decode_tokens >= 0 &&
                    options.decode_tokens <= kMost;
  if (fits) return {};
  return Error{ErrorCode::kInvalidArgument, "Texts are compared over 2 to 4096 tokens, and continued by at most 4096."};
}

}  // namespace

Result<CompareReport> compare_models(const std::filesystem::path& a, const std::filesystem::path& b,
                                     const CompareOptions& options, const TaskSink& progress, std::stop_token stop) {
  return without_exceptions([&]() -> Result<CompareReport> {
    ENGINE_CHECK(check(options));
    return Comparison(options, progress, std::move(stop)).run(a, b);
  });
}

}  // namespace lectern::engine
