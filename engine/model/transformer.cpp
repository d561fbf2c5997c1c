// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>
#include <vector>

namespace lectern::engine {
namespace {

// Rows of the head computed at once: bounds the memory of large vocabularies.
constexpr std::int64_t kLogitRows = kSmallBatchRows;

Tensor rows_of(const Tensor& all, std::int64_t first, std::int64_t rows) { return {all.row(first), rows, all.cols}; }

// A pass that is dropped unless it ends.
class Pass {
 public:
  Pass(Backend& backend, std::span<const std::uint64_t> key) : backend_(backend) { backend_.begin_pass(key); }
  ~Pass() {
    if (!ended_) backend_.drop_pass();
  }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  Result<void> end() {
    ended_ = true;
    return backend_.end_pass();
  }

 private:
  Backend& backend_;
  bool ended_ = false;
};

std::uint64_t address_bits(const void* address) { return std::bit_cast<std::uintptr_t>(address); }

}  // namespace

Transformer::Transformer(ModelWeights weights, const ModelConfig& config, Backend& backend, std::int64_t chunk_tokens)
    : weights_(std::move(weights)),
      config_(config),
      backend_(backend),
      chunk_tokens_(std::max<std::int64_t>(1, chunk_tokens)) {}

Result<std::unique_ptr<Transformer>> Transformer::load(ModelFiles files, Backend& backend, std::int64_t chunk_tokens,
                                                       const LoadObserver& observer) {
  const ModelConfig config = files.config();
  ENGINE_TRY(ModelWeights weights, load_weights(std::move(files), backend, observer));
  return assemble(std::move(weights), config, backend, chunk_tokens);
}

Result<std::unique_ptr<Transformer>> Transformer::assemble(ModelWeights weights, const ModelConfig& config,
                                                           Backend& backend, std::int64_t chunk_tokens) {
  std::unique_ptr<Transformer> model(new Transformer(std::move(weights), config, backend, chunk_tokens));
  ENGINE_CHECK(model->make_scratch());
  ENGINE_CHECK(backend.status());
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
      {&Scratch::gate, config_.output_gate ? config_.query_width() : 0},
      {&Scratch::key, config_.kv_width()},
      {&Scratch::value, config_.kv_width()},
      {&Scratch::heads, std::max(config_.value_width(), config_.query_width())},
      {&Scratch::pair, has_mtp() ? 2 * d : 0},
      {&Scratch::wide, config_.dense_width},
      {&Scratch::wide_gate, config_.dense_width},
  };
  std::int64_t width = 0;
  for (const Part& part : parts) width += part.width;
  ENGINE_TRY(scratch_memory_,
             backend_.make_buffer(width * pass_rows() + kLogitRows * config_.vocabulary, MemoryUse::kScratch));
  float* next = scratch_memory_->data();
  for (const Part& part : parts) {
    scratch_.*part.tensor = {next, pass_rows(), part.width};
    next += part.width * pass_rows();
  }
  logits_ = {next, kLogitRows, config_.vocabulary};
  return {};
}

Transformer::Scratch Transformer::rows_of_scratch(std::int64_t rows) const {
  Scratch s;
  for (Tensor Scratch::*part :
       {&Scratch::hidden, &Scratch::normed, &Scratch::mixed, &Scratch::qkv, &Scratch::qkv_conv, &Scratch::z,
        &Scratch::ba, &Scratch::query, &Scratch::gate, &Scratch::key, &Scratch::value, &Scratch::heads, &Scratch::pair,
        &Scratch::wide, &Scratch::wide_gate}) {
    s.*part = (scratch_.*part).first_rows(rows);
  }
  return s;
}

std::int64_t Transformer::scratch_bytes() const {
  return scratch_memory_->size() * static_cast<std::int64_t>(sizeof(float));
}

SequenceOptions Transformer::options_of_sequence(SequenceOptions wanted) const {
  wanted.with_mtp = wanted.with_mtp && has_mtp();
  if (wanted.yarn.factor <= 1) wanted.yarn = config_.yarn;
  return wanted;
}

Result<SequenceState> Transformer::new_sequence(SequenceOptions options) const {
  return SequenceState::create(config_, options_of_sequence(options), backend_);
}

std::int64_t Transformer::context_of(const SequenceState& state) const {
  const YarnScaling& yarn = state.options().yarn;
  const auto stretched = static_cast<std::int64_t>(yarn.factor * static_cast<double>(yarn.original_context));
  return std::max(config_.context_tokens, stretched);
}

Result<void> Transformer::check_call(std::span<const TokenId> tokens, std::int64_t before, std::int64_t context,
                                     const Outputs& outputs) const {
  if (tokens.empty()) return Error{ErrorCode::kInvalidArgument, "There is no token to read."};
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count > context - before) {
    return Error{ErrorCode::kInvalidArgument, "The text needs " + std::to_string(before + count) +
                                                  " tokens, but the model reads at most " + std::to_string(context) +
                                                  "."};
  }
  for (const TokenId token : tokens) {
    if (token < 0 || token >= config_.vocabulary) {
      return Error{ErrorCode::kInvalidArgument, "Token " + std::to_string(token) + " is outside the vocabulary of " +
                                                    std::to_string(config_.vocabulary) + "."};
    }
  }
  const auto fits = [&](std::span<float> span, std::int64_t width) {
    const auto size = static_cast<std::int64_t>(span.size());
    return size % width == 0 && size / width <= outputs.rows;
  };
  if (outputs.rows < 0 || outputs.rows > count || !fits(outputs.logits, config_.vocabulary) ||
      !fits(outputs.hidden, config_.hidden_size)) {
    return Error{ErrorCode::kInvalidArgument, "The outputs do not have the size of " + std::to_string(outputs.rows) +
                                                  " rows out of " + std::to_string(count) + "."};
  }
  return {};
}

// The part of `outputs`, which are for the last of `count` tokens, that tokens first .. first + rows - 1 give.
Outputs Transformer::outputs_of_chunk(const Outputs& outputs, std::int64_t count, std::int64_t first,
                                      std::int64_t rows) const {
  const auto cut = [&](std::span<float> span, std::int64_t width) {
    const std::int64_t first_wanted = count - static_cast<std::int64_t>(span.size()) / width;
    const std::int64_t begin = std::max(first, first_wanted);
    const std::int64_t wanted = std::max<std::int64_t>(0, first + rows - begin);
    if (wanted == 0) return std::span<float>();
    return span.subspan(static_cast<std::size_t>((begin - first_wanted) * width),
                        static_cast<std::size_t>(wanted * width));
  };
  Outputs part;
  part.rows = std::clamp<std::int64_t>(first + rows - (count - outputs.rows), 0, rows);
  part.logits = cut(outputs.logits, config_.vocabulary);
  part.hidden = cut(outputs.hidden, config_.hidden_size);
  return part;
}

Result<void> Transformer::check_reading(const Reading& reading) const {
  const SequenceState& state = *reading.state;
  if (!state.consistent() || state.tentative() > 0) {
    return Error{ErrorCode::kInvalidArgument, "The sequence was interrupted in the middle of a pass; begin a new one."};
  }
  if (reading.tentative && reading.tokens.size() > static_cast<std::size_t>(kSmallBatchRows)) {
    return Error{ErrorCode::kInvalidArgument,
                 "At most " + std::to_string(kSmallBatchRows) + " tokens are read tentatively."};
  }
  return check_call(reading.tokens, state.length(), context_of(state), reading.outputs);
}

Result<void> Transformer::forward(SequenceState& state, std::span<const TokenId> tokens, const Outputs& outputs,
                                  const std::stop_token& stop) {
  ENGINE_CHECK(check_reading({&state, tokens, outputs}));
  const auto count = static_cast<std::int64_t>(tokens.size());
  for (std::int64_t first = 0; first < count; first += chunk_tokens_) {
    const std::int64_t rows = std::min(chunk_tokens_, count - first);
    const Reading chunk = {&state, tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)),
                           outputs_of_chunk(outputs, count, first, rows)};
    ENGINE_CHECK(advance({&chunk, 1}, stop));
  }
  return {};
}

// Of a pass whose calls repeat: few rows, each with its place in the sequences. Empty for one that is not worth
// remembering.
std::vector<std::uint64_t> Transformer::key_of(PassKind kind, std::span<const Segment> segments,
                                               std::span<const Outputs> outputs) const {
  std::vector<std::uint64_t> key = {static_cast<std::uint64_t>(kind)};
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    rows += segments[i].rows;
    key.push_back(address_bits(segments[i].state->identity()));
    for (const std::int64_t number :
         {segments[i].rows, std::int64_t{segments[i].tentative}, outputs[i].rows,
          static_cast<std::int64_t>(outputs[i].logits.size()), static_cast<std::int64_t>(outputs[i].hidden.size())}) {
      key.push_back(static_cast<std::uint64_t>(number));
    }
  }
  return rows <= kSmallBatchRows ? key : std::vector<std::uint64_t>();
}

Result<void> Transformer::advance(std::span<const Reading> readings, const std::stop_token& stop) {
  std::vector<Segment> segments;
  std::vector<Outputs> outputs;
  std::vector<TokenId> tokens;
  for (const Reading& reading : readings) {
    ENGINE_CHECK(check_reading(reading));
    outputs.push_back(reading.outputs);
    const auto rows = static_cast<std::int64_t>(reading.tokens.size());
    segments.push_back({reading.state, static_cast<std::int64_t>(tokens.size()), rows, reading.tentative});
    tokens.insert(tokens.end(), reading.tokens.begin(), reading.tokens.end());
    ENGINE_CHECK(reading.state->reserve(rows, backend_));
    if (reading.tentative) ENGINE_CHECK(reading.state->reserve_tentative(config_, backend_));
  }
  const auto all_rows = static_cast<std::int64_t>(tokens.size());
  if (all_rows > pass_rows()) {
    return Error{ErrorCode::kInvalidArgument, "A pass reads at most " + std::to_string(pass_rows()) + " tokens."};
  }
  const Scratch s = rows_of_scratch(all_rows);
  for (const Segment& segment : segments) segment.state->begin();
  Pass pass(backend_, key_of(PassKind::kTrunk, segments, outputs));
  backend_.embed(*weights_.embedding, tokens, s.hidden);
  const CacheOf trunk = [](SequenceState& state, std::size_t index) -> KvCache& { return state.cache(index); };
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "The computation was stopped."};
    layer(weights_.layers[i], i, segments, trunk, s);
  }
  emit(segments, outputs, *weights_.norm, s);
  ENGINE_CHECK(pass.end());
  for (const Segment& segment : segments) {
    segment.tentative ? segment.state->end_tentative(segment.rows) : segment.state->end(segment.rows);
  }
  return {};
}

// h += mixer(norm(h)); h += feed_forward(norm(h))
void Transformer::layer(const LayerWeights& w, std::size_t index, std::span<const Segment> segments, CacheOf cache_of,
                        const Scratch& s) {
  const Norm input = norm_of(*w.input_norm);
  if (w.delta) {
    delta_net(*w.delta, input, index, segments, s);
  } else {
    attention(*w.attention, input, index, segments, cache_of, s);
  }
  feed_forward(w, s);
}

void Transformer::feed_forward(const LayerWeights& w, const Scratch& s) {
  const Norm norm = norm_of(*w.post_norm);
  if (w.experts) {
    backend_.experts_of_norm(s.hidden, norm, *w.experts, s.normed, s.hidden);
    return;
  }
  const Projection products[] = {{w.dense->gate.get(), s.wide_gate}, {w.dense->up.get(), s.wide}};
  backend_.linear_of_norm(s.hidden, norm, products, s.normed);
  backend_.silu_gate(s.wide_gate, s.wide);
  backend_.linear(s.wide, *w.dense->down, true, s.hidden);
}

void Transformer::delta_net(const DeltaNetWeights& w, const Norm& input, std::size_t index,
                            std::span<const Segment> segments, const Scratch& s) {
  const Tensor heads = {s.heads.data, s.heads.rows, config_.value_width()};
  const Projection products[] = {{w.qkv.get(), s.qkv}, {w.z.get(), s.z}, {w.ba.get(), s.ba}};
  backend_.linear_of_norm(s.hidden, input, products, s.normed);
  for (const Segment& segment : segments) delta_segment(w, index, segment, s);
  backend_.linear_of_gated_norm(heads, s.z, norm_of(*w.norm), config_.delta.value_dim, *w.out, s.hidden);
}

void Transformer::delta_segment(const DeltaNetWeights& w, std::size_t index, const Segment& segment, const Scratch& s) {
  DeltaNetState& state = segment.state->delta(index);
  const auto part = [&](const Tensor& all) { return rows_of(all, segment.first, segment.rows); };
  const Tensor heads = part({s.heads.data, s.heads.rows, config_.value_width()});
  const DeltaGates gates = {w.rate->data(), w.dt_bias->data()};
  TentativeRows* const rows = segment.tentative ? &segment.state->tentative_rows(index) : nullptr;
  backend_.step_conv(part(s.qkv), w.conv->data(), config_.conv_taps, state.conv->data(),
                     rows != nullptr ? rows->conv_inputs->data() : nullptr, part(s.qkv_conv));
  if (rows == nullptr) {
    backend_.delta_rule(part(s.qkv_conv), part(s.ba), gates, config_.delta, state.recurrent->data(), heads);
  } else {
    backend_.delta_rule_tentative(part(s.qkv_conv), part(s.ba), gates, config_.delta, state.recurrent->data(),
                                  rows->changes->data(), heads);
  }
}

void Transformer::attention(const AttentionWeights& w, const Norm& input, std::size_t index,
                            std::span<const Segment> segments, CacheOf cache_of, const Scratch& s) {
  const AttentionShape& shape = config_.attention;
  const Tensor heads = {s.heads.data, s.heads.rows, config_.query_width()};
  std::vector<Projection> products = {{w.query.get(), s.query}, {w.key.get(), s.key}, {w.value.get(), s.value}};
  if (w.gate) products.push_back({w.gate.get(), s.gate});
  backend_.linear_of_norm(s.hidden, input, products, s.normed);
  for (const Segment& segment : segments) {
    KvCache& cache = cache_of(*segment.state, index);
    const auto part = [&](const Tensor& all) { return rows_of(all, segment.first, segment.rows); };
    backend_.append_heads(part(s.query), norm_of(*w.q_norm), part(s.key), norm_of(*w.k_norm), part(s.value),
                          segment.state->rotary(), shape.head_dim, cache);
    backend_.attend(part(s.query), cache, shape, part(heads));
  }
  if (w.gate) {
    backend_.linear_of_gated(heads, s.gate, *w.out, s.hidden);
  } else {
    backend_.linear(heads, *w.out, true, s.hidden);
  }
}

// Final norm and head for the wanted rows of all segments together, so that the head is read once for all of them.
void Transformer::emit(std::span<const Segment> segments, std::span<const Outputs> outputs, const Buffer& norm,
                       const Scratch& s) {
  const std::int64_t d = config_.hidden_size;
  std::vector<float*> logits;  // where those of the rows gathered in s.mixed go
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Outputs& wanted = outputs[i];
    if (wanted.rows == 0) continue;
    const Tensor rows = rows_of(s.hidden, segments[i].first + segments[i].rows - wanted.rows, wanted.rows);
    backend_.rms_norm(rows, norm.data(), d, config_.norm_epsilon, rows);
    const auto hidden_rows = static_cast<std::int64_t>(wanted.hidden.size()) / d;
    if (hidden_rows > 0) backend_.download(rows.last_rows(hidden_rows).data, wanted.hidden);
    const auto logit_rows = static_cast<std::int64_t>(wanted.logits.size()) / config_.vocabulary;
    for (std::int64_t r = 0; r < logit_rows; ++r) {
      backend_.copy(rows.row(rows.rows - logit_rows + r), s.mixed.row(static_cast<std::int64_t>(logits.size())), d);
      logits.push_back(wanted.logits.data() + r * config_.vocabulary);
    }
  }
  const auto count = static_cast<std::int64_t>(logits.size());
  for (std::int64_t first = 0; first < count; first += kLogitRows) {
    const Tensor rows = rows_of(s.mixed, first, std::min(kLogitRows, count - first));
    const Tensor results = logits_.first_rows(rows.rows);
    backend_.linear(rows, weights_.head_matrix(), false, results);
    for (std::int64_t r = 0; r < rows.rows; ++r) {
      backend_.download(results.row(r),
                        {logits[static_cast<std::size_t>(first + r)], static_cast<std::size_t>(config_.vocabulary)});
    }
  }
}

Result<void> Transformer::accept(SequenceState& state, std::int64_t tokens) {
  const std::uint64_t key[] = {static_cast<std::uint64_t>(PassKind::kAccept), address_bits(state.identity()),
                               static_cast<std::uint64_t>(tokens)};
  Pass pass(backend_, key);
  state.accept(tokens, config_, backend_);
  return pass.end();
}

Result<void> Transformer::draft(SequenceState& state, std::span<const TokenId> tokens, std::span<const float> hidden,
                                const Outputs& outputs) {
  if (!has_mtp()) return Error{ErrorCode::kUnsupported, "The model has no multi-token-prediction module."};
  ENGINE_CHECK(check_call(tokens, state.mtp_cache().length(), context_of(state), outputs));
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (hidden.size() != static_cast<std::size_t>(count * config_.hidden_size)) {
    return Error{ErrorCode::kInvalidArgument, "A draft pass takes one hidden row per token."};
  }
  ENGINE_CHECK(backend_.reserve_kv(state.mtp_cache(), count));
  for (std::int64_t first = 0; first < count; first += chunk_tokens_) {
    const std::int64_t rows = std::min(chunk_tokens_, count - first);
    ENGINE_CHECK(draft_chunk(state, tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)),
                             hidden.subspan(static_cast<std::size_t>(first * config_.hidden_size),
                                            static_cast<std::size_t>(rows * config_.hidden_size)),
                             outputs_of_chunk(outputs, count, first, rows)));
  }
  return {};
}

// u = fc [norm(E[x]) | norm(y)], then one attention layer.
Result<void> Transformer::draft_chunk(SequenceState& state, std::span<const TokenId> tokens,
                                      std::span<const float> hidden, const Outputs& outputs) {
  const MtpWeights& mtp = *weights_.mtp;
  const std::int64_t d = config_.hidden_size;
  const Scratch s = rows_of_scratch(static_cast<std::int64_t>(tokens.size()));
  const Segment segment = {&state, 0, s.hidden.rows, false};
  Pass pass(backend_, key_of(PassKind::kDraft, {&segment, 1}, {&outputs, 1}));
  backend_.embed(*weights_.embedding, tokens, s.mixed);
  backend_.rms_norm(s.mixed, mtp.embedding_norm->data(), d, config_.norm_epsilon, s.normed);
  backend_.upload(hidden, s.hidden.data);
  backend_.rms_norm(s.hidden, mtp.hidden_norm->data(), d, config_.norm_epsilon, s.mixed);
  backend_.copy_columns(s.normed, s.pair, 0);
  backend_.copy_columns(s.mixed, s.pair, d);
  backend_.linear(s.pair, *mtp.fc, false, s.hidden);
  const CacheOf drafts = [](SequenceState& owner, std::size_t) -> KvCache& { return owner.mtp_cache(); };
  layer(mtp.layer, 0, {&segment, 1}, drafts, s);
  emit({&segment, 1}, {&outputs, 1}, *mtp.norm, s);
  return pass.end();
}

}  // namespace lectern::engine
