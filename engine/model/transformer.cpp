// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "model/pass.h"

namespace lectern::engine {
namespace {

// Rows of the head computed at once: bounds the memory of large vocabularies.
constexpr std::int64_t kLogitRows = kSmallBatchRows;

// What a pass does for the rows from which tokens are chosen, for its key.
std::int64_t kind_of(std::span<const TokenChoice> choices) {
  auto kind = static_cast<std::int64_t>(choices.size()) << 2;
  for (const TokenChoice& choice : choices) {
    kind |= (choice.temperature != 0 ? 1 : 0) | (choice.seen != nullptr ? 2 : 0);
  }
  return kind;
}

}  // namespace

Transformer::Transformer(ModelWeights weights, const ModelConfig& config, const Placement& placement,
                         std::int64_t chunk_tokens)
    : weights_(std::move(weights)),
      config_(config),
      placement_(placement),
      backend_(placement.last()),
      chunk_tokens_(std::max<std::int64_t>(1, chunk_tokens)) {}

Result<std::unique_ptr<Transformer>> Transformer::load(ModelFiles files, const Placement& placement,
                                                       std::int64_t chunk_tokens, const LoadObserver& observer) {
  const ModelConfig config = files.config();
  ENGINE_TRY(ModelWeights weights, load_weights(std::move(files), placement, observer));
  return assemble(std::move(weights), config, placement, chunk_tokens);
}

Result<std::unique_ptr<Transformer>> Transformer::assemble(ModelWeights weights, const ModelConfig& config,
                                                           const Placement& placement, std::int64_t chunk_tokens) {
  std::unique_ptr<Transformer> model(new Transformer(std::move(weights), config, placement, chunk_tokens));
  ENGINE_CHECK(model->make_scratch());
  for (std::size_t i = 0; i < placement.devices(); ++i) ENGINE_CHECK(placement.device(i).status());
  return model;
}

Result<void> Transformer::make_scratch() {
  for (std::size_t i = 0; i + 1 < placement_.devices(); ++i) {
    ENGINE_TRY(const Scratch scratch, make_scratch_on(placement_.device(i), 0, 0));
    earlier_scratch_.push_back(scratch);
  }
  const std::int64_t logits = kLogitRows * (config_.vocabulary + 1);  // and the tokens chosen from them
  ENGINE_TRY(scratch_, make_scratch_on(backend_, has_mtp() ? 2 * config_.hidden_size : 0, logits));
  Buffer& memory = *scratch_memory_.back();
  logits_ = {memory.data() + memory.size() - logits, kLogitRows, config_.vocabulary};
  chosen_ = reinterpret_cast<TokenId*>(logits_.row(kLogitRows));
  return {};
}

// `pairs`: columns of such. `logits`: numbers behind the rest.
Result<Transformer::Scratch> Transformer::make_scratch_on(Backend& backend, std::int64_t pairs, std::int64_t logits) {
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
      {&Scratch::pair, pairs},
      {&Scratch::wide, config_.dense_width},
      {&Scratch::wide_gate, config_.dense_width},
  };
  std::int64_t width = 0;
  for (const Part& part : parts) width += part.width;
  ENGINE_TRY(std::unique_ptr<Buffer> memory, backend.make_buffer(width * pass_rows() + logits, MemoryUse::kScratch));
  Scratch scratch;
  scratch.backend = &backend;
  float* next = memory->data();
  for (const Part& part : parts) {
    scratch.*part.tensor = {next, pass_rows(), part.width};
    next += part.width * pass_rows();
  }
  scratch_memory_.push_back(std::move(memory));
  return scratch;
}

Transformer::Scratch Transformer::rows_of_scratch(const Scratch& all, std::int64_t rows) {
  Scratch s = all;
  for (Tensor Scratch::*part :
       {&Scratch::hidden, &Scratch::normed, &Scratch::mixed, &Scratch::qkv, &Scratch::qkv_conv, &Scratch::z,
        &Scratch::ba, &Scratch::query, &Scratch::gate, &Scratch::key, &Scratch::value, &Scratch::heads, &Scratch::pair,
        &Scratch::wide, &Scratch::wide_gate}) {
    s.*part = (all.*part).first_rows(rows);
  }
  return s;
}

// Where a pass begins.
Transformer::Scratch Transformer::first_scratch(std::int64_t rows) const {
  return rows_of_scratch(earlier_scratch_.empty() ? scratch_ : earlier_scratch_.front(), rows);
}

// What follows is done on `device`, where the hidden rows become its own.
void Transformer::move_to(std::size_t device, Pass& pass, Scratch& s) const {
  if (device == pass.device()) return;
  const Scratch& all = device < earlier_scratch_.size() ? earlier_scratch_[device] : scratch_;
  const Scratch next = rows_of_scratch(all, s.hidden.rows);
  pass.move_to(device, s.hidden, next.hidden);
  s = next;
}

std::int64_t Transformer::scratch_bytes() const {
  std::int64_t floats = 0;
  for (const std::unique_ptr<Buffer>& memory : scratch_memory_) floats += memory->size();
  return floats * static_cast<std::int64_t>(sizeof(float));
}

SequenceOptions Transformer::options_of_sequence(SequenceOptions wanted) const {
  wanted.with_mtp = wanted.with_mtp && has_mtp();
  if (wanted.yarn.factor <= 1) wanted.yarn = config_.yarn;
  return wanted;
}

Result<SequenceState> Transformer::new_sequence(SequenceOptions options) const {
  return SequenceState::create(config_, options_of_sequence(options), placement_);
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
      !fits(outputs.hidden, config_.hidden_size) || outputs.choices.size() > static_cast<std::size_t>(outputs.rows) ||
      outputs.chosen.size() != outputs.choices.size()) {
    return Error{ErrorCode::kInvalidArgument, "The outputs do not have the size of " + std::to_string(outputs.rows) +
                                                  " rows out of " + std::to_string(count) + "."};
  }
  return {};
}

// The part of `outputs`, which are for the last of `count` tokens, that tokens first .. first + rows - 1 give.
Outputs Transformer::outputs_of_chunk(const Outputs& outputs, std::int64_t count, std::int64_t first,
                                      std::int64_t rows) const {
  const auto cut = [&](auto span, std::int64_t width) {
    const std::int64_t first_wanted = count - static_cast<std::int64_t>(span.size()) / width;
    const std::int64_t begin = std::max(first, first_wanted);
    const std::int64_t wanted = std::max<std::int64_t>(0, first + rows - begin);
    if (wanted == 0) return decltype(span)();
    return span.subspan(static_cast<std::size_t>((begin - first_wanted) * width),
                        static_cast<std::size_t>(wanted * width));
  };
  Outputs part;
  part.rows = std::clamp<std::int64_t>(first + rows - (count - outputs.rows), 0, rows);
  part.logits = cut(outputs.logits, config_.vocabulary);
  part.hidden = cut(outputs.hidden, config_.hidden_size);
  part.choices = cut(outputs.choices, 1);
  part.chosen = cut(outputs.chosen, 1);
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
  if (reading.keep_from >= 0 && reading.keep_from + reading.outputs.rows > kKeptRows) {
    return Error{ErrorCode::kInvalidArgument, "At most " + std::to_string(kKeptRows) + " hidden rows are kept."};
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
          static_cast<std::int64_t>(outputs[i].logits.size()), static_cast<std::int64_t>(outputs[i].hidden.size()),
          std::int64_t{segments[i].keep_from >= 0}, kind_of(outputs[i].choices)}) {
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
    segments.push_back(
        {reading.state, static_cast<std::int64_t>(tokens.size()), rows, reading.tentative, reading.keep_from});
    tokens.insert(tokens.end(), reading.tokens.begin(), reading.tokens.end());
    ENGINE_CHECK(reading.state->reserve(rows, placement_));
    if (reading.tentative) ENGINE_CHECK(reading.state->reserve_tentative(config_, placement_));
    if (reading.keep_from >= 0) ENGINE_CHECK(reading.state->reserve_kept(config_, backend_));
  }
  const auto all_rows = static_cast<std::int64_t>(tokens.size());
  if (all_rows > pass_rows()) {
    return Error{ErrorCode::kInvalidArgument, "A pass reads at most " + std::to_string(pass_rows()) + " tokens."};
  }
  Scratch s = first_scratch(all_rows);
  for (const Segment& segment : segments) segment.state->begin();
  Pass pass(placement_, key_of(PassKind::kTrunk, segments, outputs));
  s.backend->embed(*weights_.embedding, tokens, s.hidden);
  const CacheOf trunk = [](SequenceState& state, std::size_t index) -> KvCache& { return state.cache(index); };
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "The computation was stopped."};
    move_to(placement_.index_of(i), pass, s);
    layer(weights_.layers[i], i, segments, trunk, s);
  }
  move_to(placement_.devices() - 1, pass, s);
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
    s.backend->experts_of_norm(s.hidden, norm, *w.experts, s.normed, s.hidden);
    return;
  }
  const Projection products[] = {{w.dense->gate.get(), s.wide_gate}, {w.dense->up.get(), s.wide}};
  s.backend->linear_of_norm(s.hidden, norm, products, s.normed);
  s.backend->silu_gate(s.wide_gate, s.wide);
  s.backend->linear(s.wide, *w.dense->down, true, s.hidden);
}

void Transformer::delta_net(const DeltaNetWeights& w, const Norm& input, std::size_t index,
                            std::span<const Segment> segments, const Scratch& s) {
  const Tensor heads = {s.heads.data, s.heads.rows, config_.value_width()};
  const Projection products[] = {{w.qkv.get(), s.qkv}, {w.z.get(), s.z}, {w.ba.get(), s.ba}};
  s.backend->linear_of_norm(s.hidden, input, products, s.normed);
  for (const Segment& segment : segments) delta_segment(w, index, segment, s);
  s.backend->linear_of_gated_norm(heads, s.z, norm_of(*w.norm), config_.delta.value_dim, *w.out, s.hidden);
}

void Transformer::delta_segment(const DeltaNetWeights& w, std::size_t index, const Segment& segment, const Scratch& s) {
  DeltaNetState& state = segment.state->delta(index);
  const auto part = [&](const Tensor& all) { return rows_of(all, segment.first, segment.rows); };
  const Tensor heads = part({s.heads.data, s.heads.rows, config_.value_width()});
  const DeltaGates gates = {w.rate->data(), w.dt_bias->data()};
  TentativeRows* const rows = segment.tentative ? &segment.state->tentative_rows(index) : nullptr;
  s.backend->step_conv(part(s.qkv), w.conv->data(), config_.conv_taps, state.conv->data(),
                       rows != nullptr ? rows->conv_inputs->data() : nullptr, part(s.qkv_conv));
  if (rows == nullptr) {
    s.backend->delta_rule(part(s.qkv_conv), part(s.ba), gates, config_.delta, state.recurrent->data(), heads);
  } else {
    s.backend->delta_rule_tentative(part(s.qkv_conv), part(s.ba), gates, config_.delta, state.recurrent->data(),
                                    rows->changes->data(), heads);
  }
}

void Transformer::attention(const AttentionWeights& w, const Norm& input, std::size_t index,
                            std::span<const Segment> segments, CacheOf cache_of, const Scratch& s) {
  const AttentionShape& shape = config_.attention;
  const Tensor heads = {s.heads.data, s.heads.rows, config_.query_width()};
  std::vector<Projection> products = {{w.query.get(), s.query}, {w.key.get(), s.key}, {w.value.get(), s.value}};
  if (w.gate) products.push_back({w.gate.get(), s.gate});
  s.backend->linear_of_norm(s.hidden, input, products, s.normed);
  for (const Segment& segment : segments) {
    KvCache& cache = cache_of(*segment.state, index);
    const auto part = [&](const Tensor& all) { return rows_of(all, segment.first, segment.rows); };
    s.backend->append_heads(part(s.query), norm_of(*w.q_norm), part(s.key), norm_of(*w.k_norm), part(s.value),
                            segment.state->rotary(), shape.head_dim, cache);
    s.backend->attend(part(s.query), cache, shape, part(heads));
  }
  if (w.gate) {
    s.backend->linear_of_gated(heads, s.gate, *w.out, s.hidden);
  } else {
    s.backend->linear(heads, *w.out, true, s.hidden);
  }
}

// Final norm and head for the wanted rows of all segments together, so that the head is read once for all of them.
void Transformer::emit(std::span<const Segment> segments, std::span<const Outputs> outputs, const Buffer& norm,
                       const Scratch& s) {
  const std::int64_t d = config_.hidden_size;
  std::vector<WantedRow> gathered;  // in s.mixed
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Outputs& wanted = outputs[i];
    if (wanted.rows == 0) continue;
    const Tensor rows = rows_of(s.hidden, segments[i].first + segments[i].rows - wanted.rows, wanted.rows);
    backend_.rms_norm(rows, norm.data(), d, config_.norm_epsilon, rows);
    const auto hidden_rows = static_cast<std::int64_t>(wanted.hidden.size()) / d;
    if (hidden_rows > 0) backend_.download(rows.last_rows(hidden_rows).data, wanted.hidden);
    if (segments[i].keep_from >= 0) backend_.copy_rows(rows, segments[i].state->kept(), segments[i].keep_from);
    for (const WantedRow& row : wanted_rows(wanted)) {
      backend_.copy(rows.row(row.at), s.mixed.row(static_cast<std::int64_t>(gathered.size())), d);
      gathered.push_back(row);
    }
  }
  const auto count = static_cast<std::int64_t>(gathered.size());
  for (std::int64_t first = 0; first < count; first += kLogitRows) {
    const Tensor rows = rows_of(s.mixed, first, std::min(kLogitRows, count - first));
    const Tensor results = logits_.first_rows(rows.rows);
    backend_.linear(rows, weights_.head_matrix(), false, results);
    const auto part = std::span(gathered).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows.rows));
    for (std::int64_t r = 0; r < rows.rows; ++r) {
      float* const logits = part[static_cast<std::size_t>(r)].logits;
      if (logits != nullptr) backend_.download(results.row(r), {logits, static_cast<std::size_t>(config_.vocabulary)});
    }
    choose(part, results);
  }
}

// The rows, counted from the first of `wanted`, whose logits or tokens are wanted.
std::vector<Transformer::WantedRow> Transformer::wanted_rows(const Outputs& wanted) const {
  const auto logits = static_cast<std::int64_t>(wanted.logits.size()) / config_.vocabulary;
  const auto choices = static_cast<std::int64_t>(wanted.choices.size());
  std::vector<WantedRow> rows;
  for (std::int64_t at = wanted.rows - std::max(logits, choices); at < wanted.rows; ++at) {
    WantedRow row = {at, nullptr, nullptr, nullptr};
    const std::int64_t left = wanted.rows - at;
    if (left <= logits) row.logits = wanted.logits.data() + (logits - left) * config_.vocabulary;
    if (left <= choices) {
      row.choice = &wanted.choices[static_cast<std::size_t>(choices - left)];
      row.chosen = &wanted.chosen[static_cast<std::size_t>(choices - left)];
    }
    rows.push_back(row);
  }
  return rows;
}

// The tokens of those of the rows that want one.
void Transformer::choose(std::span<const WantedRow> rows, const Tensor& logits) {
  const auto wants = [](const WantedRow& row) { return row.choice != nullptr; };
  if (std::none_of(rows.begin(), rows.end(), wants)) return;
  std::vector<TokenChoice> choices;
  for (const WantedRow& row : rows) choices.push_back(wants(row) ? *row.choice : best_token());
  backend_.choose_tokens(logits, choices, chosen_);
  for (std::size_t i = 0; i < rows.size();) {
    std::size_t end = i + 1;
    while (wants(rows[i]) && end < rows.size() && rows[end].chosen == rows[end - 1].chosen + 1) ++end;
    if (wants(rows[i])) backend_.download_tokens(chosen_ + i, {rows[i].chosen, end - i});
    i = end;
  }
}

TokenChoice Transformer::best_token() const {
  TokenChoice choice;
  choice.vocabulary = static_cast<std::int32_t>(config_.vocabulary);
  return choice;
}

Result<void> Transformer::accept(SequenceState& state, std::int64_t tokens) {
  const std::uint64_t key[] = {static_cast<std::uint64_t>(PassKind::kAccept), address_bits(state.identity()),
                               static_cast<std::uint64_t>(tokens)};
  Pass pass(placement_, key);
  state.accept(tokens, config_, [&](std::size_t layer) -> Backend& {
    const std::size_t device = placement_.index_of(layer);
    if (device != pass.device()) pass.move_to(device, {}, {});
    return placement_.device(device);
  });
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
  const Scratch s = rows_of_scratch(static_cast<std::int64_t>(tokens.size()));
  const Segment segment = {&state, 0, s.hidden.rows, false};
  Pass pass(backend_, key_of(PassKind::kDraft, {&segment, 1}, {&outputs, 1}));
  backend_.embed(weights_.embedding_of_drafts(), tokens, s.mixed);
  backend_.upload(hidden, s.hidden.data);
  mtp_rows(state, {&s.hidden, 1}, s);
  emit({&segment, 1}, {&outputs, 1}, *weights_.mtp->norm, s);
  return pass.end();
}

// The module over the embeddings in s.mixed and the rows of `hidden`, one piece behind the other; into s.hidden.
void Transformer::mtp_rows(SequenceState& state, std::span<const Tensor> hidden, const Scratch& s) {
  const MtpWeights& mtp = *weights_.mtp;
  const std::int64_t d = config_.hidden_size;
  const Segment segment = {&state, 0, s.hidden.rows, false};
  backend_.rms_norm(s.mixed, mtp.embedding_norm->data(), d, config_.norm_epsilon, s.normed);
  std::int64_t first = 0;
  for (const Tensor& piece : hidden) {
    backend_.rms_norm(piece, mtp.hidden_norm->data(), d, config_.norm_epsilon, rows_of(s.mixed, first, piece.rows));
    first += piece.rows;
  }
  backend_.copy_columns(s.normed, s.pair, 0);
  backend_.copy_columns(s.mixed, s.pair, d);
  backend_.linear(s.pair, *mtp.fc, false, s.hidden);
  const CacheOf drafts = [](SequenceState& owner, std::size_t) -> KvCache& { return owner.mtp_cache(); };
  layer(mtp.layer, 0, {&segment, 1}, drafts, s);
}

}  // namespace lectern::engine
