// SPDX-License-Identifier: GPL-3.0-or-later
// A prompt that is read on from the end of a passage: the logits after it are, bit for bit, those of the same prompt
// read anew, whether the checkpoint was in memory or on the disk.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/model_tools.h"
#include "ops/backend.h"
#include "runtime/generation.h"
#include "runtime/session_cache.h"
#include "runtime/session_directory.h"
#include "support/backend_kind.h"
#include "support/load_transformer.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kChunk = 64;
constexpr std::int64_t kCheckpoint = 128;

// One sequence, and all logits that it gave.
class Recorder final : public SequenceModel {
 public:
  explicit Recorder(TransformerSequence& sequence) : sequence_(sequence) {}

  std::int64_t length() const override { return sequence_.length(); }
  Result<std::span<const float>> append(std::span<const TokenId> tokens, bool want_logits,
                                        const std::stop_token& stop) override {
    auto logits = sequence_.append(tokens, want_logits, stop);
    if (logits.ok() && want_logits) rows.emplace_back(logits->begin(), logits->end());
    return logits;
  }
  DraftCounts drafts() const override { return sequence_.drafts(); }
  void at_boundary() override { sequence_.at_boundary(); }

  std::vector<std::vector<float>> rows;

 private:
  TransformerSequence& sequence_;
};

struct Prompt {
  std::vector<TokenId> tokens;
  std::vector<std::int64_t> boundaries;
};

struct Reading {
  std::int64_t reused = 0;
  std::vector<std::vector<float>> logits;  // after the prompt, then after each token of the reply
};

void expect_same_bits(const Reading& got, const Reading& expected) {
  ASSERT_EQ(got.logits.size(), expected.logits.size());
  for (std::size_t row = 0; row < got.logits.size(); ++row) {
    const std::vector<float>& a = got.logits[row];
    const std::vector<float>& b = expected.logits[row];
    ASSERT_EQ(a.size(), b.size());
    ASSERT_TRUE(std::isfinite(a[0]));
    EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(float))) << "after token " << row << " of the reply";
  }
}

struct Case {
  bool quantised = false;  // Q8_0: few rows and many are then multiplied in different forms
  KvType kv = KvType::kBF16;
  int drafts = 0;

  friend std::ostream& operator<<(std::ostream& out, const Case& test) {
    return out << (test.quantised ? "q8" : "f32") << "_kv" << static_cast<int>(test.kv) << "_drafts" << test.drafts;
  }
};

// The tiny model as a directory and as a Q8_0 file.
class Models {
 public:
  Models() {
    support::write_tiny_model(directory_.path());
    const auto converted =
        convert_model(directory_.path(), file_ / "model.gguf", {.mix = "Q8_0", .threads = 1}, {}, {});
    EXPECT_TRUE(converted.ok()) << (converted.ok() ? "" : converted.error().message);
  }
  fs::path path(bool quantised) const { return quantised ? file_ / "model.gguf" : directory_.path(); }

 private:
  test::Scratch directory_;
  test::Scratch file_;
};

// Does for a request what the engine does, with the logits in sight.
class Reader {
 public:
  Reader(const fs::path& model, const Case& test, const SessionOptions& sessions)
      : case_(test),
        keeps_(sessions.memory_bytes > 0),
        transformer_(support::load_transformer(model, *backend_, kChunk).value()),
        cache_(scheduler_, "model", sessions) {}

  Reading read(const Prompt& prompt) {
    TransformerSequence sequence = begin(prompt.tokens);
    if (keeps_) sequence.on_boundary([this](SequenceSnapshot at) { cache_.store(std::move(at)); });
    Recorder recorder(sequence);
    Reading reading = {sequence.length(), {}};
    const GenerationLimits limits = {support::kTinyContext, kChunk, prompt.boundaries, {}};
    GenerationRequest request;
    request.sampling = {.temperature = 1.0F, .seed = 5};
    request.max_new_tokens = 8;
    GenerationSink sink;
    const auto result = generate_reply(recorder, *tokenizer_, limits, prompt.tokens, request, sink, {});
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
    reading.logits = std::move(recorder.rows);
    return reading;
  }

 private:
  TransformerSequence begin(std::span<const TokenId> prompt) {
    const SequenceOptions options = {.kv = case_.kv, .with_mtp = case_.drafts > 0};
    if (std::optional<SequenceSnapshot> known = cache_.find(prompt, options)) {
      return {scheduler_, std::move(*known), case_.drafts};
    }
    return {scheduler_, transformer_->new_sequence(options).value(), case_.drafts};
  }

  const Case case_;
  const bool keeps_;
  const std::unique_ptr<Tokenizer> tokenizer_ = support::load_toy_tokenizer();
  std::unique_ptr<Backend> backend_ = support::test_backend();
  std::unique_ptr<Transformer> transformer_;
  PassScheduler scheduler_{*transformer_};
  SessionCache cache_;
};

class PassageSession : public testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() { models_ = new Models; }
  static void TearDownTestSuite() { delete models_; }

  static fs::path model() { return models_->path(GetParam().quantised); }
  static std::unique_ptr<Reader> reader(const SessionOptions& sessions) {
    return std::make_unique<Reader>(model(), GetParam(), sessions);
  }
  SessionOptions on_disk() const {
    return {.checkpoint_tokens = kCheckpoint, .directory = place_ / "sessions", .disk_bytes = std::int64_t{1} << 30};
  }

  static TokenId token(std::int64_t document, std::int64_t at) {
    return static_cast<TokenId>((7 * at * at + 3 * at + 5 + 31 * document) % 256);
  }

  // The first prompt: no passage ends where a chunk of the engine's or of the delta rule does.
  static Prompt first() {
    Prompt prompt = {{}, {100, 230, 300, 350}};
    for (std::int64_t t = 0; t < 380; ++t) prompt.tokens.push_back(token(0, t));
    return prompt;
  }

  // Begins like the first up to the boundary `shared`, then differs, with a passage of its own where there is room.
  static Prompt another(std::int64_t document, std::int64_t shared, std::int64_t more) {
    Prompt prompt = first();
    prompt.tokens.resize(static_cast<std::size_t>(shared));
    for (std::int64_t t = 0; t < more; ++t) prompt.tokens.push_back(token(document, shared + t));
    std::erase_if(prompt.boundaries, [shared](std::int64_t at) { return at > shared; });
    if (more > 50) prompt.boundaries.push_back(shared + 45);
    return prompt;
  }

  const test::Scratch place_;
  static Models* models_;
};

Models* PassageSession::models_ = nullptr;

INSTANTIATE_TEST_SUITE_P(Cases, PassageSession,
                         testing::Values(Case{false, KvType::kF32, 0}, Case{false, KvType::kBF16, 2},
                                         Case{true, KvType::kBF16, 0}, Case{true, KvType::kBF16, 2},
                                         Case{true, KvType::kQ8, 2}),
                         testing::PrintToStringParamName());

// One token more, as many as a small pass has, one more than that, and more than a chunk.
constexpr std::int64_t kLengths[] = {1, kSmallBatchRows, kSmallBatchRows + 1, kChunk + 26};

TEST_P(PassageSession, FromMemoryTheNextLogitsAreTheBitsOfACleanReading) {
  const auto cold = reader({.memory_bytes = 0});
  const auto warm = reader({.checkpoint_tokens = kCheckpoint});
  EXPECT_EQ(warm->read(first()).reused, 0);
  std::int64_t document = 0;
  for (const std::int64_t shared : {100, 230, 300}) {
    for (const std::int64_t more : kLengths) {
      SCOPED_TRACE(std::to_string(shared) + " + " + std::to_string(more));
      const Prompt prompt = another(++document, shared, more);
      const Reading anew = cold->read(prompt);
      const Reading again = warm->read(prompt);
      EXPECT_EQ(anew.reused, 0);
      EXPECT_EQ(again.reused, shared);
      expect_same_bits(again, anew);
    }
  }
}

TEST_P(PassageSession, FromTheDiskTheNextLogitsAreTheBitsOfACleanReading) {
  const auto cold = reader({.memory_bytes = 0});
  EXPECT_EQ(reader(on_disk())->read(first()).reused, 0);
  std::int64_t document = 0;
  for (const std::int64_t more : kLengths) {
    SCOPED_TRACE(more);
    constexpr std::int64_t kOnDisk = 300;  // the first in the last step of checkpoints
    const Prompt prompt = another(++document, kOnDisk, more);
    const Reading again = reader(on_disk())->read(prompt);
    EXPECT_EQ(again.reused, kOnDisk);
    expect_same_bits(again, cold->read(prompt));
  }
}

// The first prompt itself once more: from its last boundary, or from a checkpoint behind it.
TEST_P(PassageSession, TheSamePromptAgainGivesTheSameBits) {
  const Reading anew = reader({.memory_bytes = 0})->read(first());
  const auto warm = reader({.checkpoint_tokens = kCheckpoint});
  expect_same_bits(warm->read(first()), anew);
  const Reading again = warm->read(first());
  EXPECT_EQ(again.reused, 350);
  expect_same_bits(again, anew);
}

// Through the engine, which chooses the boundaries itself and gives no logits: what it stores of a sequence on the disk
// is all that later logits are made of.
class PassageEngine : public PassageSession {
 protected:
  std::unique_ptr<Engine> open(const std::string& sessions) const {
    EngineOptions options;
    options.threads = 1;
    options.kv_type = GetParam().kv;
    options.draft_tokens = GetParam().drafts;
    options.prefill_chunk_tokens = kChunk;
    options.sessions.checkpoint_tokens = 512;
    options.sessions.directory = place_ / sessions;
    auto engine = Engine::open(model(), options);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
    return std::move(engine).value();
  }

  static std::string passage(char name, int lines) {
    std::string text;
    for (int line = 0; line < lines; ++line) text += std::string(1, name) + std::to_string(line) + " hello world; ";
    return text;
  }

  static GenerationResult ask(Engine& engine, const std::vector<std::string>& passages) {
    ChatMessage message = {"user", ""};
    for (const std::string& passage : passages) {
      message.content += passage;
      message.boundaries.push_back(static_cast<std::int64_t>(message.content.size()));
      message.content += "\n\n";
    }
    message.content += "why?";
    GenerationRequest request;
    request.messages = {std::move(message)};
    request.max_new_tokens = 1;
    GenerationSink sink;
    auto result = engine.generate(request, sink, {});
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
    return result.ok() ? *result : GenerationResult();
  }

  // The stored sequences of exactly these tokens, by file name.
  std::map<std::string, std::string> stored(const std::string& sessions, std::int64_t tokens) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(place_ / sessions)) {
      const auto name = SessionName::parse(entry.path().filename().string());
      if (!name || name->tokens != tokens) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      files[entry.path().filename().string()] = {std::istreambuf_iterator<char>(file), {}};
    }
    return files;
  }
};

INSTANTIATE_TEST_SUITE_P(Cases, PassageEngine,
                         testing::Values(Case{false, KvType::kBF16, 2}, Case{true, KvType::kBF16, 0},
                                         Case{true, KvType::kQ8, 2}),
                         testing::PrintToStringParamName());

TEST_P(PassageEngine, WhatIsStoredOfAPromptReadOnIsWhatIsStoredOfItReadAnew) {
  const std::vector<std::string> first = {passage('a', 12), passage('b', 15), passage('c', 13)};
  const int lines = GetParam().quantised ? 1 : 60;  // rounded, a difference is soon forgotten
  const std::vector<std::string> other = {first[0], first[1], passage('d', 9), passage('e', lines)};
  const auto anew = open("anew");
  const GenerationResult expected = ask(*anew, other);
  EXPECT_EQ(expected.statistics.reused_tokens, 0);
  const auto files = stored("anew", expected.statistics.prompt_tokens);
  ASSERT_EQ(files.size(), 1U);
  constexpr std::int64_t kAfterIt = 13;  // <|im_end|>\n<|im_start|>assistant\n
  const std::int64_t shared = *anew->count_prompt_tokens({{"user", first[0] + "\n\n" + first[1]}}, false) - kAfterIt;

  const auto keeping = open("memory");
  static_cast<void>(ask(*keeping, first));
  for (const auto& entry : fs::directory_iterator(place_ / "memory")) fs::remove(entry.path());
  EXPECT_EQ(ask(*keeping, other).statistics.reused_tokens, shared);
  EXPECT_TRUE(stored("memory", expected.statistics.prompt_tokens) == files);

  static_cast<void>(ask(*open("disk"), first));
  EXPECT_EQ(ask(*open("disk"), other).statistics.reused_tokens, shared);
  EXPECT_TRUE(stored("disk", expected.statistics.prompt_tokens) == files);
}

}  // namespace
}  // namespace lectern::engine
