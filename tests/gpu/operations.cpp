// SPDX-License-Identifier: GPL-3.0-or-later
#include "operations.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "random_bits.h"

namespace lectern::engine::bench {
namespace {

using Mode = ObservedBackend::Mode;

constexpr std::int64_t kSmallPasses = 8;
constexpr std::size_t kMostListed = 24;

std::string hexadecimal(std::uint64_t number) {
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

// FNV-1a over the bits.
std::string fingerprint(std::span<const float> numbers) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const std::byte byte : std::as_bytes(numbers)) {
    hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3U;
  }
  return hexadecimal(hash);
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

Result<void> repeat_pass(Subject& subject, SequenceState& state, const OperationsCase& wanted, std::int64_t passes) {
  std::vector<float> logits(static_cast<std::size_t>(subject.model.config().vocabulary));
  for (std::int64_t i = 0; i < passes; ++i) {
    const std::vector<TokenId> tokens = random_tokens(subject, wanted.rows, 900 + static_cast<std::uint64_t>(i));
    const Reading reading = {&state, tokens, {1, logits, {}}};
    ENGINE_CHECK(subject.model.advance({&reading, 1}));
  }
  return {};
}

// Logits of the last tokens of a text: of all together, read tentatively, or of one after the other.
Result<std::vector<float>> last_logits(Subject& subject, std::int64_t rows, bool together) {
  constexpr std::int64_t kText = 40;
  const std::vector<TokenId> text = random_tokens(subject, kText, 7);
  const auto vocabulary = static_cast<std::size_t>(subject.model.config().vocabulary);
  const auto first = static_cast<std::size_t>(kText - rows);
  std::vector<float> logits(static_cast<std::size_t>(rows) * vocabulary);
  ENGINE_TRY(SequenceState state, subject.model.new_sequence({.kv = KvType::kBF16}));
  ENGINE_CHECK(subject.model.forward(state, std::span(text).first(first), {}));
  if (together) {
    const Reading reading = {&state, std::span(text).subspan(first), {rows, logits, {}}, true};
    ENGINE_CHECK(subject.model.advance({&reading, 1}));
    return logits;
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(rows); ++i) {
    const Outputs outputs = {1, std::span(logits).subspan(i * vocabulary, vocabulary), {}};
    ENGINE_CHECK(subject.model.forward(state, std::span(text).subspan(first + i, 1), outputs));
  }
  return logits;
}

// Deviation of a product with rows of variance 1 / columns: near 1 if the backend reads what WeightMaker wrote.
Result<double> product_deviation(Subject& subject, const Weight& w) {
  std::vector<float> x(static_cast<std::size_t>(w.cols()));
  std::vector<float> y(static_cast<std::size_t>(w.rows()));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = random_normal(i);
  ENGINE_TRY(const std::unique_ptr<Buffer> buffer, subject.backend.make_buffer(w.cols() + w.rows(), MemoryUse::kState));
  subject.backend.upload(x, buffer->data());
  const Tensor result = {buffer->data() + w.cols(), 1, w.rows()};
  subject.backend.linear({buffer->data(), 1, w.cols()}, w, false, result);
  subject.backend.download(result.data, y);
  ENGINE_CHECK(subject.backend.status());
  double square = 0;
  for (const float number : y) square += double{number} * number;
  return std::sqrt(square / static_cast<double>(y.size()));
}

Result<bool> add_products(Subject& subject, Json& json) {
  const ModelWeights& weights = subject.model.weights();
  const LayerWeights& layer = weights.layers.front();
  const std::pair<const char*, const Weight*> products[] = {{"head", weights.head.get()},
                                                            {"qkv", layer.delta->qkv.get()},
                                                            {"out", layer.delta->out.get()},
                                                            {"expert_gate", layer.experts->gate[0].get()},
                                                            {"expert_down", layer.experts->down[0].get()}};
  bool plausible = true;
  Json list;
  for (const auto& [name, weight] : products) {
    ENGINE_TRY(const double deviation, product_deviation(subject, *weight));
    plausible = plausible && deviation > 0.8 && deviation < 1.25;
    list.add(name, deviation);
  }
  json.add("product_deviations", list);
  return plausible;
}

}  // namespace

Result<Json> measure_operations(Subject& subject, const OperationsCase& wanted) {
  const bool is_small = wanted.rows <= kSmallBatchRows;
  const std::int64_t held = std::max<std::int64_t>(1, wanted.context - (is_small ? 0 : wanted.rows));
  ENGINE_TRY(SequenceState state, synthetic_sequence(subject, held, wanted.kv, false));
  if (is_small) {
    subject.backend.set_mode(Mode::kRouting);
    ENGINE_CHECK(repeat_pass(subject, state, wanted, 1));
    const RoutingCounts& routing = subject.backend.routing();
    if (routing.blocks > 0) {
      subject.backend.set_experts_touched(static_cast<double>(routing.distinct) / static_cast<double>(routing.blocks));
    }
    subject.backend.set_mode(wanted.mode);
    ENGINE_CHECK(repeat_pass(subject, state, wanted, 1));  // warm-up; in a graph, its capture
  }
  subject.backend.set_mode(wanted.mode);
  ENGINE_CHECK(repeat_pass(subject, state, wanted, is_small ? kSmallPasses : 1));
  const auto passes = static_cast<double>(std::max<std::int64_t>(1, subject.backend.timed_passes()));
  const std::vector<OperationTime> times = subject.backend.operation_times();
  subject.backend.set_mode(Mode::kOff);

  double total = 0;
  for (const OperationTime& time : times) total += time.seconds / passes;
  Json list = Json::list();
  for (std::size_t i = 0; i < std::min(times.size(), kMostListed); ++i) {
    const OperationTime& time = times[i];
    Json entry;
    entry.add("operation", time.name).add("calls", static_cast<double>(time.calls) / passes);
    entry.add("microseconds", 1e6 * time.seconds / passes).add("share", time.seconds / passes / total);
    if (time.bytes > 0) {
      entry.add("bytes", time.bytes / passes);
      entry.add("share_of_bandwidth", time.bytes / time.seconds / subject.best_bandwidth());
    }
    list.append(entry);
  }
  Json json;
  json.add("context", wanted.context).add("rows", wanted.rows).add("kv", name_of(wanted.kv));
  json.add("how", wanted.mode == Mode::kTimedInGraph ? "in the graph" : "queued one by one");
  json.add("milliseconds_of_a_pass", 1000 * total).add("operations", list);
  return json;
}

Result<Json> check_model(Subject& subject) {
  constexpr std::int64_t kRows = 4;
  ENGINE_TRY(const std::vector<float> first, last_logits(subject, kRows, true));
  ENGINE_TRY(const std::vector<float> second, last_logits(subject, kRows, true));
  ENGINE_TRY(const std::vector<float> single, last_logits(subject, kRows, false));
  double square = 0;
  bool finite = true;
  for (const float logit : first) {
    square += double{logit} * logit;
    finite = finite && std::isfinite(logit);
  }
  const double deviation = std::sqrt(square / static_cast<double>(first.size()));
  Json json;
  json.add("logits_fingerprint", fingerprint(first)).add("logits_deviation", deviation);
  // Hidden states of length 1 per number meet rows of variance 1 / columns: anything far from 1 is no model.
  ENGINE_TRY(const bool products, add_products(subject, json));
  json.add("finite", finite).add("plausible", finite && products && deviation > 0.5 && deviation < 2);
  json.add("repeatable", same_bits(first, second)).add("rows_alone_and_together_agree", same_bits(first, single));
  return json;
}

}  // namespace lectern::engine::bench
