// SPDX-License-Identifier: GPL-3.0-or-later
// Linked to lectern-engine's own sources with --wrap, this gives a program whose device fails. The variable
// LECTERN_ENGINE_FAULT says how and when: "device:N", from operation N on nothing has an effect and the device says
// that it has failed, as after a lost CUDA context; "crash:N", the process ends at operation N; "slow:N", nothing
// fails, but every operation takes N microseconds more.
#include <signal.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "ops/backend.h"

namespace lectern::engine {
namespace {

class FaultyBackend final : public Backend {
 public:
  FaultyBackend(std::unique_ptr<Backend> sound, std::int64_t fault, bool crashes, std::chrono::microseconds delay)
      : sound_(std::move(sound)), left_(fault), crashes_(crashes), delay_(delay) {}

  Result<WeightHandle> take_weight(const HostMatrix& matrix) override { return sound_->take_weight(matrix); }
  Result<void> place_experts(ExpertWeights& w) override { return sound_->place_experts(w); }
  Result<std::unique_ptr<Buffer>> make_buffer(std::int64_t floats, MemoryUse use) override {
    return sound_->make_buffer(floats, use);
  }
  void copy(const float* from, float* to, std::int64_t floats) override {
    if (works()) sound_->copy(from, to, floats);
  }
  void copy_columns(const Tensor& from, const Tensor& to, std::int64_t first) override {
    if (works()) sound_->copy_columns(from, to, first);
  }
  void upload(std::span<const float> from, float* to) override {
    if (works()) sound_->upload(from, to);
  }
  void download(const float* from, std::span<float> to) override {
    if (works()) sound_->download(from, to);
  }
  DeviceMemory most_memory() const override { return sound_->most_memory(); }
  std::int64_t locked_bytes() const override { return sound_->locked_bytes(); }

  void begin_pass(std::span<const std::uint64_t> key) override { sound_->begin_pass(key); }
  Result<void> end_pass() override {
    ENGINE_CHECK(sound_->end_pass());
    return status();
  }
  void drop_pass() override { sound_->drop_pass(); }
  Result<void> status() override {
    if (left_ > 0) return sound_->status();
    return Error{ErrorCode::kDevice, "The device failed for a test; ask again, which opens the model anew."};
  }

  void embed(const Weight& table, std::span<const TokenId> tokens, const Tensor& y) override {
    if (works()) sound_->embed(table, tokens, y);
  }
  void linear(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) override {
    if (works()) sound_->linear(x, w, accumulate, y);
  }
  void add_bias(const float* bias, const Tensor& y) override {
    if (works()) sound_->add_bias(bias, y);
  }
  void silu_gate(const Tensor& gate, const Tensor& y) override {
    if (works()) sound_->silu_gate(gate, y);
  }
  void rms_norm(const Tensor& x, const float* gain, std::int64_t width, float eps, const Tensor& y) override {
    if (works()) sound_->rms_norm(x, gain, width, eps, y);
  }

  Result<std::unique_ptr<KvCache>> make_kv_cache(const AttentionShape& shape, KvType type) override {
    return sound_->make_kv_cache(shape, type);
  }
  Result<void> reserve_kv(KvCache& cache, std::int64_t rows) override { return sound_->reserve_kv(cache, rows); }
  // Also without effect on the numbers the rows are there.
  void append_kv(const Tensor& k, const Tensor& v, KvCache& cache) override {
    works();
    sound_->append_kv(k, v, cache);
  }
  void save_rows(const KvCache& cache, std::int64_t first, std::int64_t rows, std::span<std::byte> to) override {
    sound_->save_rows(cache, first, rows, to);
  }
  void load_rows(std::span<const std::byte> from, KvCache& cache) override { sound_->load_rows(from, cache); }
  void rotate(const RotaryTable& table, std::int64_t first, std::int64_t head_dim, const Tensor& x) override {
    if (works()) sound_->rotate(table, first, head_dim, x);
  }
  void attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) override {
    if (works()) sound_->attend(q, cache, shape, y);
  }
  void sigmoid_gate(const Tensor& gate, const Tensor& y) override {
    if (works()) sound_->sigmoid_gate(gate, y);
  }

  void causal_conv(const Tensor& u, const float* w, std::int64_t taps, const float* state, const Tensor& y) override {
    if (works()) sound_->causal_conv(u, w, taps, state, y);
  }
  void advance_conv(const Tensor& u, std::int64_t taps, float* state) override {
    if (works()) sound_->advance_conv(u, taps, state);
  }
  void delta_rule(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape, float* state,
                  const Tensor& o) override {
    if (works()) sound_->delta_rule(qkv, ba, gates, shape, state, o);
  }
  void delta_rule_tentative(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape,
                            const float* state, float* changes, const Tensor& o) override {
    if (works()) sound_->delta_rule_tentative(qkv, ba, gates, shape, state, changes, o);
  }
  void apply_changes(const float* changes, std::int64_t rows, const DeltaShape& shape, float* state) override {
    if (works()) sound_->apply_changes(changes, rows, shape, state);
  }
  void gated_rms_norm(const Tensor& z, const float* gain, std::int64_t width, float eps, const Tensor& o) override {
    if (works()) sound_->gated_rms_norm(z, gain, width, eps, o);
  }

  void mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) override {
    if (works()) sound_->mixture_of_experts(x, w, y);
  }

  void layer_norm(const Tensor& x, const float* gain, const float* bias, float eps, const Tensor& y) override {
    if (works()) sound_->layer_norm(x, gain, bias, eps, y);
  }
  void gelu(const Tensor& x) override {
    if (works()) sound_->gelu(x);
  }
  void attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                            std::span<const std::int64_t> starts, const Tensor& y) override {
    if (works()) sound_->attend_bidirectional(q, k, v, heads, starts, y);
  }
  void mean_pool(const Tensor& x, std::span<const std::int64_t> starts, const Tensor& y) override {
    if (works()) sound_->mean_pool(x, starts, y);
  }

 private:
  bool works() {
    if (delay_.count() > 0) std::this_thread::sleep_for(delay_);
    if (left_ > 0) --left_;
    if (left_ == 0 && crashes_) raise(SIGSEGV);
    return left_ > 0;
  }

  std::unique_ptr<Backend> sound_;
  std::int64_t left_;  // operations that still have an effect
  bool crashes_;
  std::chrono::microseconds delay_;
};

}  // namespace

// Symbols of the linker's option --wrap.
std::unique_ptr<Backend> make_sound_backend(int threads) asm("__real__ZN7lectern6engine16make_cpu_backendEi");
std::unique_ptr<Backend> make_faulty_backend(int threads) asm("__wrap__ZN7lectern6engine16make_cpu_backendEi");

std::unique_ptr<Backend> make_faulty_backend(int threads) {
  const char* variable = std::getenv("LECTERN_ENGINE_FAULT");
  const std::string_view fault = variable != nullptr ? variable : "";
  const std::size_t colon = fault.find(':');
  constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  const std::int64_t number = colon == fault.npos ? 0 : std::atoll(fault.substr(colon + 1).data());
  const bool slow = fault.starts_with("slow");
  return std::make_unique<FaultyBackend>(make_sound_backend(threads), slow || number == 0 ? kNever : number,
                                         fault.starts_with("crash"), std::chrono::microseconds(slow ? number : 0));
}

}  // namespace lectern::engine
