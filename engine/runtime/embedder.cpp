// SPDX-License-Identifier: Apache-2.0
#include "engine/embedder.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <numeric>
#include <utility>

#include "core/json.h"
#include "model/encoder.h"
#include "ops/backend.h"
#include "text/wordpiece.h"

namespace lectern::engine {
namespace {

// Tokens of one batch, unless a single text is longer.
constexpr std::size_t kBatchTokens = 512;

Error out_of_memory() {
  return {ErrorCode::kOutOfMemory, "The embedding model ran out of memory; close other programs or use a smaller one."};
}

// What sentence-transformers says about the model: the longest text in tokens.
Result<std::int64_t> read_limit(const std::filesystem::path& directory, std::int64_t positions) {
  const std::filesystem::path file = directory / "sentence_bert_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return positions;
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(file));
  ENGINE_TRY(const std::int64_t limit, document.root().integer_or("max_seq_length", positions));
  if (limit < 2 || limit > positions) {
    return document.root().error("max_seq_length is " + std::to_string(limit) + ", expected 2 to " +
                                 std::to_string(positions));
  }
  return limit;
}

// Only models that average their token vectors are computed here.
Result<void> check_pooling(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "1_Pooling" / "config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return {};
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(file));
  ENGINE_TRY(const bool mean, document.root().boolean_or("pooling_mode_mean_tokens", true));
  if (!mean) {
    return Error{ErrorCode::kUnsupported,
                 "1_Pooling/config.json: only pooling_mode_mean_tokens is supported; use a model that averages."};
  }
  return {};
}

std::string directory_name(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory.lexically_normal();
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

std::string hexadecimal(std::uint64_t value) {
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[value >> shift & 15];
  return text;
}

class BertEmbedder final : public Embedder {
 public:
  BertEmbedder(std::unique_ptr<Backend> backend, std::unique_ptr<Encoder> encoder, WordPiece vocabulary,
               std::int64_t limit, std::string model_id)
      : backend_(std::move(backend)),
        encoder_(std::move(encoder)),
        vocabulary_(std::move(vocabulary)),
        limit_(limit),
        model_id_(std::move(model_id)) {}

  int dimension() const override { return static_cast<int>(encoder_->config().hidden_size); }
  std::string model_id() const override { return model_id_; }
  int max_tokens() const override { return static_cast<int>(limit_); }

  Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts, std::stop_token stop) override {
    try {
      const std::lock_guard lock(mutex_);
      return embed_all(texts, stop);
    } catch (const std::bad_alloc&) {
      return out_of_memory();
    } catch (const std::exception& failure) {
      return Error{ErrorCode::kDevice, std::string("The embedding model failed: ") + failure.what() + "."};
    }
  }

 private:
  // Texts of similar length share a batch; batches are packed, without padding.
  Result<std::vector<std::vector<float>>> embed_all(std::span<const std::string> texts, const std::stop_token& stop) {
    std::vector<std::vector<TokenId>> ids;
    for (const std::string& text : texts) {
      if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "Embedding was cancelled."};
      ids.push_back(vocabulary_.encode(text, static_cast<std::size_t>(limit_)));
    }
    std::vector<std::size_t> order(texts.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&ids](std::size_t a, std::size_t b) { return ids[a].size() > ids[b].size(); });

    std::vector<std::vector<float>> vectors(texts.size());
    for (std::span<const std::size_t> rest(order); !rest.empty();) {
      std::size_t count = 1;
      std::size_t tokens = ids[rest[0]].size();
      while (count < rest.size() && tokens + ids[rest[count]].size() <= kBatchTokens)
        tokens += ids[rest[count++]].size();
      ENGINE_CHECK(embed_batch(rest.first(count), ids, stop, vectors));
      rest = rest.subspan(count);
    }
    return vectors;
  }

  Result<void> embed_batch(std::span<const std::size_t> batch, const std::vector<std::vector<TokenId>>& ids,
                           const std::stop_token& stop, std::vector<std::vector<float>>& vectors) {
    std::vector<TokenId> tokens;
    std::vector<std::int64_t> starts = {0};
    for (const std::size_t text : batch) {
      tokens.insert(tokens.end(), ids[text].begin(), ids[text].end());
      starts.push_back(static_cast<std::int64_t>(tokens.size()));
    }
    const auto width = static_cast<std::size_t>(dimension());
    std::vector<float> rows(batch.size() * width);
    ENGINE_CHECK(encoder_->encode(tokens, starts, stop, rows));
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const auto first = rows.begin() + static_cast<std::ptrdiff_t>(i * width);
      vectors[batch[i]].assign(first, first + static_cast<std::ptrdiff_t>(width));
    }
    return {};
  }

  std::mutex mutex_;
  std::unique_ptr<Backend> backend_;  // outlives the encoder, whose weights it holds
  std::unique_ptr<Encoder> encoder_;
  WordPiece vocabulary_;
  std::int64_t limit_;
  std::string model_id_;
};

Result<std::unique_ptr<Embedder>> open_bert(const std::filesystem::path& directory, int threads) {
  std::unique_ptr<Backend> backend = make_cpu_backend(threads);
  ENGINE_TRY(std::unique_ptr<Encoder> encoder, Encoder::load(directory, *backend));
  ENGINE_CHECK(check_pooling(directory));
  ENGINE_TRY(const std::int64_t limit, read_limit(directory, encoder->config().positions));
  ENGINE_TRY(WordPiece vocabulary, WordPiece::load(directory));
  if (vocabulary.size() > encoder->config().vocabulary) {
    return Error{ErrorCode::kCorrupt, "The vocabulary has " + std::to_string(vocabulary.size()) +
                                          " tokens, but vocab_size in config.json is " +
                                          std::to_string(encoder->config().vocabulary) + "; fetch the model again."};
  }
  ENGINE_TRY(const std::string config, read_text_file(directory / "config.json", std::size_t{1} << 20));
  std::uint64_t hash = encoder->fingerprint();
  for (const char byte : config + std::to_string(limit)) {
    hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3U;
  }
  return std::unique_ptr<Embedder>(std::make_unique<BertEmbedder>(std::move(backend), std::move(encoder),
                                                                  std::move(vocabulary), limit,
                                                                  directory_name(directory) + "-" + hexadecimal(hash)));
}

}  // namespace

Result<std::unique_ptr<Embedder>> Embedder::open(const std::filesystem::path& model_directory, int threads) {
  try {
    return open_bert(model_directory, threads);
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const std::exception& failure) {
    return Error{ErrorCode::kIo, "The embedding model in " + directory_name(model_directory) +
                                     " could not be opened: " + failure.what() + "."};
  }
}

}  // namespace lectern::engine
