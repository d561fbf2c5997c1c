// SPDX-License-Identifier: GPL-3.0-or-later
#include "observed_backend.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include "cuda/cuda_backend.h"
#include "synthetic_weights.h"

namespace lectern::engine::bench {
namespace {

constexpr double kFloat = sizeof(float);

double floats_of(const Tensor& tensor) { return kFloat * static_cast<double>(tensor.rows * tensor.cols); }

double bytes_of(const WeightHandle& weight) { return weight ? static_cast<double>(matrix_bytes(*weight)) : 0; }

double state_bytes(const DeltaShape& shape) {
  return kFloat * static_cast<double>(shape.value_heads * shape.key_dim * shape.value_dim);
}

std::string shape_of(const Weight& w) {
  return std::to_string(w.rows()) + "x" + std::to_string(w.cols()) + " " + std::string(name_of(type_of(w)));
}

#if !defined(LECTERN_EMULATED_CUDA)
// Keeps the device busy while the operations behind it are queued, so that it never waits for the next one.
__global__ void hold(long long nanoseconds) {
  long long begin = 0;
  long long now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}
#endif

}  // namespace

// Events in the backend's stream: one where a pass begins and one behind each operation.
class ObservedBackend::TimeStamps {
 public:
  explicit TimeStamps(cudaStream_t stream) : stream_(stream) {}
  ~TimeStamps() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  TimeStamps(const TimeStamps&) = delete;
  TimeStamps& operator=(const TimeStamps&) = delete;

  void begin(bool queued) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream_, &status);
    capturing_ = status == cudaStreamCaptureStatusActive;
    recording_ = queued || capturing_;  // in a repeated graph the events are nodes already
    if (!recording_) return;
    names_.clear();
    bytes_.clear();
#if defined(LECTERN_EMULATED_CUDA)
    recording_ = queued;  // its graphs hold no events
#endif
#if !defined(LECTERN_EMULATED_CUDA)
    constexpr long long kHold = 8'000'000;
    if (queued) cuda::launch(stream_, cuda::Grid{1, 1}, hold, kHold);
#endif
    record(0);
  }

  void mark(std::string name, double bytes) {
    if (!recording_) return;
    names_.push_back(std::move(name));
    bytes_.push_back(bytes);
    record(names_.size());
  }

  // After the pass has run.
  void add_to(std::map<std::string, OperationTime>& times) const {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      float milliseconds = 0;
      if (cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]) != cudaSuccess) continue;
      OperationTime& time = times[names_[i]];
      time.name = names_[i];
      ++time.calls;
      time.seconds += double{milliseconds} / 1000;
      time.bytes += bytes_[i];
    }
  }

 private:
  void record(std::size_t index) {
    if (index == events_.size()) {
      events_.emplace_back();
      cudaEventCreate(&events_.back());
    }
#if !defined(LECTERN_EMULATED_CUDA)
    cudaEventRecordWithFlags(events_[index], stream_, capturing_ ? cudaEventRecordExternal : cudaEventRecordDefault);
#else
    if (!capturing_) cudaEventRecord(events_[index], stream_);
#endif
  }

  cudaStream_t stream_;
  bool capturing_ = false;
  bool recording_ = false;
  std::vector<cudaEvent_t> events_;
  std::vector<std::string> names_;
  std::vector<double> bytes_;
};

ObservedBackend::ObservedBackend(cuda::CudaBackend& inner)
    : inner_(inner), stamps_(std::make_unique<TimeStamps>(inner.stream())) {}
ObservedBackend::~ObservedBackend() = default;

void ObservedBackend::set_mode(Mode mode) {
  mode_ = mode;
  timed_passes_ = 0;
  times_.clear();
  routing_ = {};
}

std::vector<OperationTime> ObservedBackend::operation_times() const {
  std::vector<OperationTime> all;
  for (const auto& [name, time] : times_) all.push_back(time);
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return all;
}

template <class Call>
void ObservedBackend::observe(const char* name, double bytes, const Call& call) {
  call();
  if (timing()) stamps_->mark(name, bytes);
}

void ObservedBackend::begin_pass(std::span<const std::uint64_t> key) {
  constexpr std::uint64_t kTimedPass = 0x74696d6564;  // keeps these graphs apart from those without time stamps
  std::vector<std::uint64_t> changed(key.begin(), key.end());
  if (mode_ == Mode::kTimedInGraph && !key.empty()) changed.push_back(kTimedPass);
  if (mode_ == Mode::kTimedQueued || mode_ == Mode::kRouting) changed.clear();
  inner_.begin_pass(changed);
  if (timing()) stamps_->begin(changed.empty());
}

Result<void> ObservedBackend::end_pass() {
  Result<void> ended = inner_.end_pass();
  if (ended.ok() && timing()) {
    stamps_->add_to(times_);
    ++timed_passes_;
  }
  return ended;
}

// The router's numbers are computed again, and the choice is made on the host by the rule of mixture_of_experts().
void ObservedBackend::observe_routing(const Tensor& x, const ExpertWeights& w) {
  const std::int64_t experts = w.router->rows();
  auto buffer = inner_.make_buffer(x.rows * experts, MemoryUse::kState);
  if (!buffer.ok()) return;
  const Tensor logits = {buffer.value()->data(), x.rows, experts};
  std::vector<float> numbers(static_cast<std::size_t>(x.rows * experts));
  inner_.linear(x, *w.router, false, logits);
  inner_.download(logits.data, numbers);
  std::vector<std::int64_t> choices(static_cast<std::size_t>(experts));
  std::vector<std::size_t> order(static_cast<std::size_t>(experts));
  for (std::int64_t row = 0; row < x.rows; ++row) {
    const float* scores = numbers.data() + row * experts;
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::partial_sort(
        order.begin(), order.begin() + w.experts_per_token, order.end(),
        [&](std::size_t a, std::size_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
    for (std::int64_t i = 0; i < w.experts_per_token; ++i) ++choices[order[static_cast<std::size_t>(i)]];
  }
  std::sort(choices.begin(), choices.end(), std::greater<>());
  routing_.popularity.resize(choices.size());
  ++routing_.blocks;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    routing_.popularity[i] += choices[i];
    routing_.distinct += choices[i] > 0 ? 1 : 0;
  }
}

void ObservedBackend::mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) {
  if (mode_ == Mode::kRouting) observe_routing(x, w);
  const double one = bytes_of(w.gate[0]) + bytes_of(w.up[0]) + bytes_of(w.down[0]);
  const double shared =
      bytes_of(w.shared_router) + bytes_of(w.shared_gate) + bytes_of(w.shared_up) + bytes_of(w.shared_down);
  const double touched = x.rows > kSmallBatchRows ? static_cast<double>(w.gate.size()) : experts_touched_;
  observe("mixture_of_experts", touched > 0 ? bytes_of(w.router) + shared + touched * one : 0,
          [&] { inner_.mixture_of_experts(x, w, y); });
}

void ObservedBackend::linear(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) {
  inner_.linear(x, w, accumulate, y);
  if (!timing()) return;
  stamps_->mark("linear " + shape_of(w), static_cast<double>(matrix_bytes(w)) + floats_of(x) + floats_of(y));
}

void ObservedBackend::attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) {
  const double bytes = static_cast<double>(cache.length() * cache.bytes_of_row());
  observe("attend", bytes, [&] { inner_.attend(q, cache, shape, y); });
}

void ObservedBackend::delta_rule(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape,
                                 float* state, const Tensor& o) {
  observe("delta_rule", 2 * state_bytes(shape) + floats_of(qkv) + floats_of(o),
          [&] { inner_.delta_rule(qkv, ba, gates, shape, state, o); });
}

void ObservedBackend::delta_rule_tentative(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates,
                                           const DeltaShape& shape, const float* state, float* changes,
                                           const Tensor& o) {
  observe("delta_rule_tentative", state_bytes(shape) + floats_of(qkv) + floats_of(o),
          [&] { inner_.delta_rule_tentative(qkv, ba, gates, shape, state, changes, o); });
}

void ObservedBackend::apply_changes(const float* changes, std::int64_t rows, const DeltaShape& shape, float* state) {
  observe("apply_changes", 2 * state_bytes(shape), [&] { inner_.apply_changes(changes, rows, shape, state); });
}

// --- calls that are small whatever the model, or not timed ----------------------------------------------------------
Result<WeightHandle> ObservedBackend::take_weight(const HostMatrix& matrix) { return inner_.take_weight(matrix); }
Result<void> ObservedBackend::place_experts(ExpertWeights& w) { return inner_.place_experts(w); }
Result<std::unique_ptr<Buffer>> ObservedBackend::make_buffer(std::int64_t floats, MemoryUse use) {
  return inner_.make_buffer(floats, use);
}
DeviceMemory ObservedBackend::most_memory() const { return inner_.most_memory(); }
std::int64_t ObservedBackend::locked_bytes() const { return inner_.locked_bytes(); }
void ObservedBackend::drop_pass() { inner_.drop_pass(); }
Result<void> ObservedBackend::status() { return inner_.status(); }
Result<std::unique_ptr<KvCache>> ObservedBackend::make_kv_cache(const AttentionShape& shape, KvType type) {
  return inner_.make_kv_cache(shape, type);
}
Result<void> ObservedBackend::reserve_kv(KvCache& cache, std::int64_t rows) { return inner_.reserve_kv(cache, rows); }
void ObservedBackend::save_rows(const KvCache& cache, std::int64_t first, std::int64_t rows, std::span<std::byte> to) {
  inner_.save_rows(cache, first, rows, to);
}
void ObservedBackend::load_rows(std::span<const std::byte> from, KvCache& cache) { inner_.load_rows(from, cache); }

void ObservedBackend::copy(const float* from, float* to, std::int64_t floats) {
  observe("copy", 2 * kFloat * static_cast<double>(floats), [&] { inner_.copy(from, to, floats); });
}
void ObservedBackend::copy_columns(const Tensor& from, const Tensor& to, std::int64_t first) {
  observe("copy_columns", 2 * floats_of(from), [&] { inner_.copy_columns(from, to, first); });
}
void ObservedBackend::copy_rows(const Tensor& from, const Tensor& to, std::int64_t first) {
  observe("copy_rows", 2 * floats_of(from), [&] { inner_.copy_rows(from, to, first); });
}
void ObservedBackend::upload(std::span<const float> from, float* to) {
  observe("upload", 0, [&] { inner_.upload(from, to); });
}
void ObservedBackend::download(const float* from, std::span<float> to) {
  observe("download", 0, [&] { inner_.download(from, to); });
}
void ObservedBackend::embed(const Weight& table, std::span<const TokenId> tokens, const Tensor& y) {
  observe("embed", 0, [&] { inner_.embed(table, tokens, y); });
}
void ObservedBackend::add_bias(const float* bias, const Tensor& y) {
  observe("add_bias", 0, [&] { inner_.add_bias(bias, y); });
}
void ObservedBackend::silu_gate(const Tensor& gate, const Tensor& y) {
  observe("silu_gate", 3 * floats_of(y), [&] { inner_.silu_gate(gate, y); });
}
void ObservedBackend::rms_norm(const Tensor& x, const float* gain, std::int64_t width, float eps, const Tensor& y) {
  observe("rms_norm", 2 * floats_of(y), [&] { inner_.rms_norm(x, gain, width, eps, y); });
}
void ObservedBackend::append_kv(const Tensor& k, const Tensor& v, KvCache& cache) {
  observe("append_kv", floats_of(k) + floats_of(v) + static_cast<double>(k.rows * cache.bytes_of_row()),
          [&] { inner_.append_kv(k, v, cache); });
}
void ObservedBackend::rotate(const RotaryTable& table, std::int64_t first, std::int64_t head_dim, const Tensor& x) {
  observe("rotate", 0, [&] { inner_.rotate(table, first, head_dim, x); });
}
void ObservedBackend::sigmoid_gate(const Tensor& gate, const Tensor& y) {
  observe("sigmoid_gate", 3 * floats_of(y), [&] { inner_.sigmoid_gate(gate, y); });
}
void ObservedBackend::causal_conv(const Tensor& u, const float* w, std::int64_t taps, const float* state,
                                  const Tensor& y) {
  observe("causal_conv", 2 * floats_of(y), [&] { inner_.causal_conv(u, w, taps, state, y); });
}
void ObservedBackend::advance_conv(const Tensor& u, std::int64_t taps, float* state) {
  observe("advance_conv", 0, [&] { inner_.advance_conv(u, taps, state); });
}
void ObservedBackend::gated_rms_norm(const Tensor& z, const float* gain, std::int64_t width, float eps,
                                     const Tensor& o) {
  observe("gated_rms_norm", 3 * floats_of(o), [&] { inner_.gated_rms_norm(z, gain, width, eps, o); });
}
bool ObservedBackend::chooses_tokens(std::int64_t vocabulary) const { return inner_.chooses_tokens(vocabulary); }
void ObservedBackend::choose_tokens(const Tensor& logits, std::span<const TokenChoice> choices, TokenId* chosen) {
  observe("choose_tokens", floats_of(logits), [&] { inner_.choose_tokens(logits, choices, chosen); });
}
void ObservedBackend::download_tokens(const TokenId* from, std::span<TokenId> to) {
  observe("download_tokens", 0, [&] { inner_.download_tokens(from, to); });
}
void ObservedBackend::embed_chosen(const Weight& table, const TokenId* chosen, const Tensor& y) {
  observe("embed_chosen", 0, [&] { inner_.embed_chosen(table, chosen, y); });
}
void ObservedBackend::layer_norm(const Tensor& x, const float* gain, const float* bias, float eps, const Tensor& y) {
  observe("layer_norm", 2 * floats_of(y), [&] { inner_.layer_norm(x, gain, bias, eps, y); });
}
void ObservedBackend::gelu(const Tensor& x) {
  observe("gelu", 2 * floats_of(x), [&] { inner_.gelu(x); });
}
void ObservedBackend::attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                                           std::span<const std::int64_t> starts, const Tensor& y) {
  observe("attend_bidirectional", 0, [&] { inner_.attend_bidirectional(q, k, v, heads, starts, y); });
}
void ObservedBackend::mean_pool(const Tensor& x, std::span<const std::int64_t> starts, const Tensor& y) {
  observe("mean_pool", 0, [&] { inner_.mean_pool(x, starts, y); });
}

}  // namespace lectern::engine::bench
