// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <algorithm>
#include <string>
#include <utility>

namespace lectern::engine {
namespace {

constexpr std::int64_t kLogitRows = 16;  // rows of the head computed at once: bounds the memory of large vocabularies

}  // namespace

Transformer::Transformer(ModelConfig config, ModelWeights weights, Backend& backend, std::int64_t chunk_tokens)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      backend_(backend),
      rotary_(make_rotary_table(config_)),
      chunk_tokens_(std::max<std::int64_t>(1, chunk_tokens)) {}

Result<std::unique_ptr<Transformer>> Transformer::load(const std::filesystem::path& directory, Backend& backend,
                                                       std::int64_t chunk_tokens) {
  ENGINE_TRY(ModelConfig config, read_config(directory));
  ENGINE_TRY(ModelWeights weights, load_weights(directory, config, backend));
  std::unique_ptr<Transformer> model(new Transformer(std::move(config), std::move(weights), backend, chunk_tokens));
  ENGINE_CHECK(model->make_scratch());
  return model;
}

Result<void> Transformer::make_scratch() {
  struct Part {
    Tensor Scratch::*tensor;
    std::int64_t width;
  };
  const std::int64_t d = config_.hidden_size;
  const Part parts[] = {
      {&Scratch::hidden, d},
      {&Scratch::normed, d},
      {&Scratch::mixed, d},
      {&Scratch::qkv, config_.conv_channels()},
      {&Scratch::qkv_conv, config_.conv_channels()},
      {&Scratch::z, config_.value_width()},
      {&Scratch::ba, 2 * config_.delta.value_heads},
      {&Scratch::query, config_.query_width()},
      {&Scratch::gate, config_.query_width()},
      {&Scratch::heads, std::max(config_.value_width(), config_.query_width())},
      {&Scratch::pair, 2 * d},
  };
  std::int64_t width = 0;
  for (const Part& part : parts) width += part.width;
  ENGINE_TRY(scratch_memory_, backend_.make_buffer(width * chunk_tokens_ + kLogitRows * config_.vocabulary));
  float* next = scratch_memory_->data();
  for (const Part& part : parts) {
    scratch_.*part.tensor = {next, chunk_tokens_, part.width};
    next += part.width * chunk_tokens_;
  }
  logits_ = {next, kLogitRows, config_.vocabulary};
  return {};
}

Transformer::Scratch Transformer::rows_of_scratch(std::int64_t rows) const {
  Scratch s;
  for (Tensor Scratch::*part :
       {&Scratch::hidden, &Scratch::normed, &Scratch::mixed, &Scratch::qkv, &Scratch::qkv_conv, &Scratch::z,
        &Scratch::ba, &Scratch::query, &Scratch::gate, &Scratch::heads, &Scratch::pair}) {
    s.*part = (scratch_.*part).first_rows(rows);
  }
  return s;
}

Result<SequenceState> Transformer::new_sequence() const { return SequenceState::create(config_, has_mtp(), backend_); }

Result<void> Transformer::check_call(std::span<const TokenId> tokens, std::int64_t before,
                                     const Outputs& outputs) const {
  if (tokens.empty()) return Error{ErrorCode::kInvalidArgument, "There is no token to read."};
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count > config_.context_tokens - before) {
    return Error{ErrorCode::kInvalidArgument, "The text needs " + std::to_string(before + count) +
                                                  " tokens, but the model reads at most " +
                                                  std::to_string(config_.context_tokens) + "."};
  }
  for (const TokenId token : tokens) {
    if (token < 0 || token >= config_.vocabulary) {
      return Error{ErrorCode::kInvalidArgument, "Token " + std::to_string(token) + " is outside the vocabulary of " +
                                                    std::to_string(config_.vocabulary) + "."};
    }
  }
  const auto fits = [&](std::span<float> span, std::int64_t width) {
    return span.empty() || span.size() == static_cast<std::size_t>(outputs.rows * width);
  };
  if (outputs.rows < 0 || outputs.rows > count || !fits(outputs.logits, config_.vocabulary) ||
      !fits(outputs.hidden, config_.hidden_size)) {
    return Error{ErrorCode::kInvalidArgument, "The outputs do not have the size of " + std::to_string(outputs.rows) +
                                                  " rows out of " + std::to_string(count) + "."};
  }
  return {};
}

// The part of `outputs`, which are for the last of `count` tokens, that tokens first .. first + rows - 1 give.
Transformer::Outputs Transformer::outputs_of_chunk(const Outputs& outputs, std::int64_t count, std::int64_t first,
                                                   std::int64_t rows) const {
  const std::int64_t first_wanted = count - outputs.rows;
  const std::int64_t begin = std::max(first, first_wanted);
  Outputs part;
  part.rows = std::max<std::int64_t>(0, first + rows - begin);
  const auto cut = [&](std::span<float> span, std::int64_t width) {
    if (span.empty() || part.rows == 0) return std::span<float>();
    return span.subspan(static_cast<std::size_t>((begin - first_wanted) * width),
                        static_cast<std::size_t>(part.rows * width));
  };
  part.logits = cut(outputs.logits, config_.vocabulary);
  part.hidden = cut(outputs.hidden, config_.hidden_size);
  return part;
}

Result<void> Transformer::forward(SequenceState& state, std::span<const TokenId> tokens, const Outputs& outputs,
                                  const std::stop_token& stop) {
  if (!state.consistent()) {
    return Error{ErrorCode::kInvalidArgument, "The sequence was interrupted in the middle of a pass; begin a new one."};
  }
  ENGINE_CHECK(check_call(tokens, state.length(), outputs));
  const auto count = static_cast<std::int64_t>(tokens.size());
  ENGINE_CHECK(state.reserve(count, backend_));
  for (std::int64_t first = 0; first < count; first += chunk_tokens_) {
    const std::int64_t rows = std::min(chunk_tokens_, count - first);
    const auto chunk = tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    ENGINE_CHECK(forward_chunk(state, chunk, outputs_of_chunk(outputs, count, first, rows), stop));
  }
  return {};
}

Result<void> Transformer::forward_chunk(SequenceState& state, std::span<const TokenId> tokens, const Outputs& outputs,
                                        const std::stop_token& stop) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  const Scratch s = rows_of_scratch(rows);
  state.begin();
  backend_.embed(*weights_.embedding, tokens, s.hidden);
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "The computation was stopped."};
    layer(weights_.layers[i], &state.delta(i), &state.cache(i), s);
  }
  state.end(rows);
  emit(s.hidden, *weights_.norm, outputs, s);
  return {};
}

// h += mixer(norm(h)); h += experts(norm(h))
void Transformer::layer(const LayerWeights& w, DeltaNetState* delta, KvCache* cache, const Scratch& s) {
  const std::int64_t d = config_.hidden_size;
  backend_.rms_norm(s.hidden, w.input_norm->data(), d, config_.norm_epsilon, s.normed);
  if (w.delta) {
    delta_net(*w.delta, *delta, s);
  } else {
    gated_attention(*w.attention, *cache, s);
  }
  backend_.rms_norm(s.hidden, w.post_norm->data(), d, config_.norm_epsilon, s.normed);
  backend_.mixture_of_experts(s.normed, w.experts, s.hidden);
}

void Transformer::delta_net(const DeltaNetWeights& w, DeltaNetState& state, const Scratch& s) {
  const Tensor heads = {s.heads.data, s.heads.rows, config_.value_width()};
  backend_.linear(s.normed, *w.qkv, false, s.qkv);
  backend_.linear(s.normed, *w.z, false, s.z);
  backend_.linear(s.normed, *w.ba, false, s.ba);
  backend_.causal_conv(s.qkv, w.conv->data(), config_.conv_taps, state.conv->data(), s.qkv_conv);
  backend_.delta_rule(s.qkv_conv, s.ba, w.a_log->data(), w.dt_bias->data(), config_.delta, state.recurrent->data(),
                      heads);
  backend_.gated_rms_norm(s.z, w.norm->data(), config_.delta.value_dim, config_.norm_epsilon, heads);
  backend_.linear(heads, *w.out, true, s.hidden);
}

void Transformer::gated_attention(const AttentionWeights& w, KvCache& cache, const Scratch& s) {
  const AttentionShape& shape = config_.attention;
  const Tensor heads = {s.heads.data, s.heads.rows, config_.query_width()};
  const std::int64_t width = config_.kv_width();
  const std::int64_t first = cache.length;
  const Tensor keys = {cache.keys->data() + first * width, s.hidden.rows, width};
  const Tensor values = {cache.values->data() + first * width, s.hidden.rows, width};
  backend_.linear(s.normed, *w.query, false, s.query);
  backend_.linear(s.normed, *w.gate, false, s.gate);
  backend_.linear(s.normed, *w.key, false, keys);
  backend_.linear(s.normed, *w.value, false, values);
  backend_.rms_norm(s.query, w.q_norm->data(), shape.head_dim, config_.norm_epsilon, s.query);
  backend_.rms_norm(keys, w.k_norm->data(), shape.head_dim, config_.norm_epsilon, keys);
  backend_.rotate(rotary_, first, shape.head_dim, s.query);
  backend_.rotate(rotary_, first, shape.head_dim, keys);
  cache.length += s.hidden.rows;
  backend_.attend(s.query, cache, shape, heads);
  backend_.sigmoid_gate(s.gate, heads);
  backend_.linear(heads, *w.out, true, s.hidden);
}

// Final norm and head for the last rows of x.
void Transformer::emit(const Tensor& x, const Buffer& norm, const Outputs& outputs, const Scratch& s) {
  if (outputs.rows == 0) return;
  const Tensor normed = s.normed.last_rows(outputs.rows);
  backend_.rms_norm(x.last_rows(outputs.rows), norm.data(), config_.hidden_size, config_.norm_epsilon, normed);
  if (!outputs.hidden.empty()) {
    backend_.download(normed.data, outputs.hidden.first(static_cast<std::size_t>(outputs.rows * normed.cols)));
  }
  if (outputs.logits.empty()) return;
  for (std::int64_t first = 0; first < outputs.rows; first += kLogitRows) {
    const std::int64_t rows = std::min(kLogitRows, outputs.rows - first);
    const Tensor logits = {logits_.data, rows, config_.vocabulary};
    backend_.linear({normed.row(first), rows, normed.cols}, weights_.head_matrix(), false, logits);
    backend_.download(logits.data, outputs.logits.subspan(static_cast<std::size_t>(first * logits.cols),
                                                          static_cast<std::size_t>(rows * logits.cols)));
  }
}

Result<void> Transformer::draft(SequenceState& state, std::span<const TokenId> tokens, std::span<const float> hidden,
                                const Outputs& outputs) {
  if (!has_mtp()) return Error{ErrorCode::kUnsupported, "The model has no multi-token-prediction module."};
  ENGINE_CHECK(check_call(tokens, state.mtp_cache().length, outputs));
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (hidden.size() != static_cast<std::size_t>(count * config_.hidden_size)) {
    return Error{ErrorCode::kInvalidArgument, "A draft pass takes one hidden row per token."};
  }
  ENGINE_CHECK(state.reserve_mtp(count, backend_));
  for (std::int64_t first = 0; first < count; first += chunk_tokens_) {
    const std::int64_t rows = std::min(chunk_tokens_, count - first);
    draft_chunk(state, tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)),
                hidden.subspan(static_cast<std::size_t>(first * config_.hidden_size),
                               static_cast<std::size_t>(rows * config_.hidden_size)),
                outputs_of_chunk(outputs, count, first, rows));
  }
  return {};
}

// u = fc [norm(E[x]) | norm(y)], then one attention layer.
void Transformer::draft_chunk(SequenceState& state, std::span<const TokenId> tokens, std::span<const float> hidden,
                              const Outputs& outputs) {
  const MtpWeights& mtp = *weights_.mtp;
  const std::int64_t d = config_.hidden_size;
  const Scratch s = rows_of_scratch(static_cast<std::int64_t>(tokens.size()));
  backend_.embed(*weights_.embedding, tokens, s.mixed);
  backend_.rms_norm(s.mixed, mtp.embedding_norm->data(), d, config_.norm_epsilon, s.normed);
  backend_.upload(hidden, s.hidden.data);
  backend_.rms_norm(s.hidden, mtp.hidden_norm->data(), d, config_.norm_epsilon, s.mixed);
  for (std::int64_t row = 0; row < s.pair.rows; ++row) {
    backend_.copy(s.normed.row(row), s.pair.row(row), d);
    backend_.copy(s.mixed.row(row), s.pair.row(row) + d, d);
  }
  backend_.linear(s.pair, *mtp.fc, false, s.hidden);
  layer(mtp.layer, nullptr, &state.mtp_cache(), s);
  emit(s.hidden, *mtp.norm, outputs, s);
}

}  // namespace lectern::engine
