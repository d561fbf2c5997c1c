// SPDX-License-Identifier: GPL-3.0-or-later
#include "subject.h"

#include <algorithm>
#include <numeric>

#include "random_bits.h"

namespace lectern::engine::bench {
namespace {

constexpr std::int64_t kReadTokens = 32;
constexpr std::int64_t kRowsAtOnce = 1024;

Result<void> append_random(Backend& backend, const Tensor& k, const Tensor& v, std::int64_t rows, KvCache& cache) {
  ENGINE_CHECK(backend.reserve_kv(cache, rows));
  for (std::int64_t first = 0; first < rows; first += kRowsAtOnce) {
    const std::int64_t count = std::min(kRowsAtOnce, rows - first);
    backend.append_kv(k.first_rows(count), v.first_rows(count), cache);
  }
  return {};
}

// Keys of length 1 per number, as norms leave them: scores then deviate by about 1.
Result<void> append_random(Subject& subject, SequenceState& state, std::int64_t rows) {
  const ModelConfig& config = subject.model.config();
  const std::int64_t width = config.kv_width();
  std::vector<float> numbers(static_cast<std::size_t>(2 * kRowsAtOnce * width));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = random_normal(i);
  ENGINE_TRY(const std::unique_ptr<Buffer> buffer,
             subject.backend.make_buffer(static_cast<std::int64_t>(numbers.size()), MemoryUse::kState));
  subject.backend.upload(numbers, buffer->data());
  const Tensor k = {buffer->data(), kRowsAtOnce, width};
  const Tensor v = {buffer->data() + kRowsAtOnce * width, kRowsAtOnce, width};
  state.begin();
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    if (config.layers[i] != LayerKind::kAttention) continue;
    ENGINE_CHECK(append_random(subject.backend, k, v, rows, state.cache(i)));
  }
  state.end(rows);
  if (state.has_mtp()) {  // the last token has no successor yet
    ENGINE_CHECK(
        append_random(subject.backend, k, v, state.length() - 1 - state.mtp_cache().length(), state.mtp_cache()));
  }
  return subject.backend.status();
}

}  // namespace

std::vector<TokenId> random_tokens(const Subject& subject, std::int64_t count, std::uint64_t seed) {
  const auto vocabulary = static_cast<std::uint64_t>(subject.model.config().vocabulary);
  std::vector<TokenId> tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<TokenId>(random_bits(random_bits(seed) + static_cast<std::uint64_t>(i)) % vocabulary));
  }
  return tokens;
}

Result<SequenceState> synthetic_sequence(Subject& subject, std::int64_t tokens, KvType kv, bool with_mtp) {
  SequenceOptions options;
  options.kv = kv;
  options.with_mtp = with_mtp;
  ENGINE_TRY(SequenceState state, subject.model.new_sequence(options));
  const std::int64_t read = std::min(tokens, kReadTokens);
  ENGINE_CHECK(subject.model.forward(state, random_tokens(subject, read, 1), {}));
  ENGINE_CHECK(append_random(subject, state, tokens - read));
  return state;
}

std::string name_of(KvType kv) { return kv == KvType::kF32 ? "f32" : kv == KvType::kBF16 ? "bf16" : "q8"; }

void add_times(Json& json, std::vector<double> seconds) {
  if (seconds.empty()) return;
  std::sort(seconds.begin(), seconds.end());
  const std::size_t last = seconds.size() - 1;
  json.add("milliseconds_median", 1000 * seconds[last / 2]);
  json.add("milliseconds_p99", 1000 * seconds[last - last / 100]);
  json.add("milliseconds_mean", 1000 * std::reduce(seconds.begin(), seconds.end()) / static_cast<double>(last + 1));
}

}  // namespace lectern::engine::bench
