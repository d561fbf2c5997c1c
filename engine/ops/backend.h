// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "engine/result.h"
#include "engine/types.h"
#include "ops/token_choice.h"

namespace lectern::engine {

// A matrix the backend has taken over, in a layout only it knows. Logical shape [rows, cols].
class Weight {
 public:
  Weight(std::int64_t rows, std::int64_t cols) : rows_(rows), cols_(cols) {}
  virtual ~Weight() = default;
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }

 private:
  std::int64_t rows_;
  std::int64_t cols_;
};
using WeightHandle = std::unique_ptr<const Weight>;

// What memory is for. A device with memory of its own keeps the three apart and plans each before anything is loaded.
enum class MemoryUse : std::uint8_t { kWeights, kState, kScratch };

// Device memory of floats, zeroed when made.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual float* data() = 0;
  virtual const float* data() const = 0;
  virtual std::int64_t size() const = 0;  // in floats
};

// Keys and values of one attention layer of one sequence, on the device, in a layout only the backend knows.
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual std::int64_t length() const = 0;            // rows held
  virtual void truncate(std::int64_t length) = 0;     // forgets the rows from `length` on
  virtual std::int64_t bytes() const = 0;             // taken, room for later rows included
  virtual std::int64_t bytes_of_row() const = 0;      // in the form of save_rows()
  virtual std::unique_ptr<KvCache> fork() const = 0;  // the same rows, stored once as long as neither changes them
};

// Inverse frequencies of the rotary pairs (rope scaling applied) and the factor on cos and sin.
struct RotaryTable {
  std::vector<double> inverse_frequency;  // [rotary_dims / 2]
  double magnitude = 1.0;
};

struct DeltaShape {
  std::int64_t key_heads = 0;
  std::int64_t value_heads = 0;  // a multiple of key_heads; value head h reads key head h / (value_heads / key_heads)
  std::int64_t key_dim = 0;
  std::int64_t value_dim = 0;
};

// Per value head, on the device.
struct DeltaGates {
  const float* rate = nullptr;
  const float* dt_bias = nullptr;
};

struct AttentionShape {
  std::int64_t query_heads = 0;
  std::int64_t kv_heads = 0;  // query head h reads kv head h / (query_heads / kv_heads)
  std::int64_t head_dim = 0;
};

// Rows up to which a row's result does not depend on its neighbours, to the last bit, in every operation: so that a
// token read alone, checked in a speculative batch, or advanced beside other sequences gives the same numbers.
inline constexpr std::int64_t kSmallBatchRows = 8;

// What a backend keeps about the experts of one block, beside their weights.
class ExpertPlacement {
 public:
  virtual ~ExpertPlacement() = default;
};

// Weights of one sparse mixture-of-experts block of width d with experts of width m. Without a shared expert its
// handles are empty.
struct ExpertWeights {
  WeightHandle router;             // [experts, d]
  std::vector<WeightHandle> gate;  // [m, d] each
  std::vector<WeightHandle> up;    // [m, d] each
  std::vector<WeightHandle> down;  // [d, m] each
  WeightHandle shared_router;      // [1, d]
  WeightHandle shared_gate;        // [s, d]
  WeightHandle shared_up;          // [s, d]
  WeightHandle shared_down;        // [d, s]
  std::int64_t experts_per_token = 0;
  bool normalise_top_k = true;
  std::unique_ptr<ExpertPlacement> placement;  // what Backend::place_experts() made
};

// What rms_norm() divides by and multiplies with.
struct Norm {
  const float* gain = nullptr;  // on the device
  float eps = 0.0F;
};

// One of several products with the same rows.
struct Projection {
  const Weight* weight = nullptr;
  Tensor y;
};

// Bytes of device memory for each use.
struct DeviceMemory {
  std::int64_t weights = 0;
  std::int64_t state = 0;
  std::int64_t scratch = 0;
};

// Experts that do not fit on a device.
struct ExpertBudget {
  std::int64_t on_device = -1;     // of each block, at a time; -1: all of them, for good
  std::int64_t staging_bytes = 0;  // of DeviceMemory::weights, for those on their way; 0: taken as needed
  int threads = 0;                 // that compute with the others; 0: one per hardware thread
  std::int64_t locked_bytes = 0;   // of the computer's memory, page-locked at most for the others
};

// What a device must be able to do. The graph is written over these and contains no test for the device.
// All tensors live on the device, are row-major float and have at least one row; T is their number of rows. Shapes must
// agree as the comments say: the caller's duty, not checked. Outputs are fully written, inputs stay as they are. Unless
// a comment says otherwise nothing overlaps. sigma is the logistic function, silu(x) = x sigma(x). Accumulation is in
// float or better. Results depend on the arguments and the number of threads, never on timing. Operations own their
// working memory; std::bad_alloc for it may leave any of them. A device that fails goes on taking calls, without
// effect, and says so in status(). Not thread-safe: one graph uses it at a time.
class Backend {
 public:
  virtual ~Backend() = default;

  // --- memory -----------------------------------------------------------------------------------------------------
  // Takes over a host matrix of any type, F32, F16 and BF16 aligned as their numbers are; the host memory must outlive
  // the handle (the CPU reads mapped files in place). Errors: kUnsupported, kOutOfMemory.
  virtual Result<WeightHandle> take_weight(const HostMatrix& matrix) = 0;
  // The same for a matrix of an expert that a router chooses, which a device may leave where it is.
  virtual Result<WeightHandle> take_expert(const HostMatrix& matrix) { return take_weight(matrix); }
  // To be called once the weights of a block have been taken. Errors: kOutOfMemory, kDevice.
  virtual Result<void> place_experts(ExpertWeights& w) = 0;
  virtual Result<std::unique_ptr<Buffer>> make_buffer(std::int64_t floats, MemoryUse use) = 0;  // kOutOfMemory, kDevice
  virtual void copy(const float* from, float* to, std::int64_t floats) = 0;                     // on the device
  // to[t, first + c] = from[t, c]
  virtual void copy_columns(const Tensor& from, const Tensor& to, std::int64_t first) = 0;
  // to[first + t, c] = from[t, c]; `first` may differ between passes with equal keys.
  virtual void copy_rows(const Tensor& from, const Tensor& to, std::int64_t first);
  virtual void upload(std::span<const float> from, float* to) = 0;
  // Waits for all earlier work, except in a pass.
  virtual void download(const float* from, std::span<float> to) = 0;

  // The most that was in use at once; zeros where the device's memory is the computer's.
  virtual DeviceMemory most_memory() const { return {}; }
  // Of the computer's memory, what is page-locked for experts that are not on the device.
  virtual std::int64_t locked_bytes() const { return 0; }

  // What computes large products of weights, for reports; empty where there is nothing to choose.
  virtual std::string dense_products() const { return {}; }

  // --- passes -----------------------------------------------------------------------------------------------------
  // The calls between begin_pass() and end_pass() belong together. Passes with equal keys that are not empty make the
  // same calls with the same arguments, but for token ids, what is uploaded, positions and the lengths of caches: a
  // device may remember the calls of one and repeat them for the next. What download() asks for is there when
  // end_pass() returns, and memory is neither made nor given back in between. A pass may be dropped instead of ended;
  // what it did is then undefined.
  virtual void begin_pass(std::span<const std::uint64_t> key) = 0;
  virtual Result<void> end_pass() = 0;  // waits. Errors: as status()
  virtual void drop_pass() = 0;
  // The first failure of anything handed over so far; final. Errors: kDevice, kOutOfMemory.
  virtual Result<void> status() = 0;
  // Ends the pass without waiting for it and lets it go on on another device: for what `next` is asked from now on,
  // `to`, which lies there, is `rows`, which lies here; without rows only the order counts. The pass has asked for no
  // download(). Errors: as status(), here or there. Both need not be of the same kind.
  virtual void pass_on(const Tensor& rows, Backend& next, const Tensor& to);

  // --- dense ------------------------------------------------------------------------------------------------------
  // y[t] = table[tokens[t]]; every token is a row of the table.
  virtual void embed(const Weight& table, std::span<const TokenId> tokens, const Tensor& y) = 0;
  // y[t,n] = sum_k x[t,k] w[n,k] + (accumulate ? y[t,n] : 0)
  virtual void linear(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) = 0;
  // y[t,n] += bias[n]
  virtual void add_bias(const float* bias, const Tensor& y) = 0;
  // y = silu(gate) y
  virtual void silu_gate(const Tensor& gate, const Tensor& y) = 0;
  // y = x rsqrt(mean(x^2) + eps) gain, over groups of `width` columns; gain [width]. y may be x.
  virtual void rms_norm(const Tensor& x, const float* gain, std::int64_t width, float eps, const Tensor& y) = 0;

  // --- gated attention ----------------------------------------------------------------------------------------------
  virtual Result<std::unique_ptr<KvCache>> make_kv_cache(const AttentionShape& shape, KvType type) = 0;
  // Makes room for `rows` more, so that append_kv() cannot fail. What is held stays where it is. Errors: kOutOfMemory.
  virtual Result<void> reserve_kv(KvCache& cache, std::int64_t rows) = 0;
  // Appends rows, rounded to the cache's type. k, v: [T, kv_heads * head_dim]
  virtual void append_kv(const Tensor& k, const Tensor& v, KvCache& cache) = 0;
  // Rows [first, first + rows) in a form that depends on shape and type alone, bytes_of_row() each; load_rows()
  // appends such rows, for which there must be room.
  virtual void save_rows(const KvCache& cache, std::int64_t first, std::int64_t rows, std::span<std::byte> to) = 0;
  virtual void load_rows(std::span<const std::byte> from, KvCache& cache) = 0;
  // Rotates dims [0, 2r) of every head in place, r pairs (i, i + r): row t stands at position first + t.
  virtual void rotate(const RotaryTable& table, std::int64_t first, std::int64_t head_dim, const Tensor& x) = 0;
  // Row t of q attends, causally, to cache rows 0 .. length - T + t; the cache already holds the T new rows.
  // y[t,h] = softmax(q[t,h] . k / sqrt(head_dim)) v.   q, y: [T, query_heads * head_dim]
  // Working memory must not grow with T times length.
  virtual void attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) = 0;
  // y = y sigma(gate)
  virtual void sigmoid_gate(const Tensor& gate, const Tensor& y) = 0;

  // --- gated DeltaNet -----------------------------------------------------------------------------------------------
  // Causal depthwise convolution and silu: y[t,c] = silu(sum_j w[c,j] u[t - J + 1 + j, c]), rows before 0 from `state`
  // [J - 1, C], oldest first. w: [C, J].
  virtual void causal_conv(const Tensor& u, const float* w, std::int64_t taps, const float* state, const Tensor& y) = 0;
  // state = the last J - 1 rows of (state, u)
  virtual void advance_conv(const Tensor& u, std::int64_t taps, float* state) = 0;
  // The gated delta rule (Yang et al. 2024, "Gated Delta Networks"), per value head with state S [key_dim, value_dim]:
  //   k = l2norm(k), q = l2norm(q) / sqrt(key_dim)   with x rsqrt(sum(x^2) + 1e-6)
  //   beta = sigma(b), g = rate softplus(a + dt_bias)   with rate = -exp(A_log)
  //   S = exp(g) S;  S += k (beta (v - S^T k))^T;  o = S^T q
  // qkv: [T, q | k | v], ba: [T, b | a] over value heads, o: [T, value_heads * value_dim].
  // state: [value_heads, key_dim, value_dim], updated. How tokens are divided over calls changes rounding only; decay
  // of any strength gives finite numbers.
  virtual void delta_rule(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape,
                          float* state, const Tensor& o) = 0;
  // The same, bit for bit, for at most kSmallBatchRows rows, but the state stays as it is and what each row would do to
  // it goes to `changes` [T, value_heads, key_dim + value_dim + 1]: rejected drafts then leave no trace.
  virtual void delta_rule_tentative(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates,
                                    const DeltaShape& shape, const float* state, float* changes, const Tensor& o) = 0;
  // Lets the first `rows` changes take effect, bit for bit as delta_rule() would have.
  virtual void apply_changes(const float* changes, std::int64_t rows, const DeltaShape& shape, float* state) = 0;
  // o = rms_norm(o) silu(z), the norm over groups of `width` columns with gain [width].
  virtual void gated_rms_norm(const Tensor& z, const float* gain, std::int64_t width, float eps, const Tensor& o) = 0;

  // --- experts ------------------------------------------------------------------------------------------------------
  // p = softmax(x router^T); the experts_per_token largest (ties: lower index; numbers that are none: any experts, for
  // that row alone), renormalised when asked;
  // y += sum_e p_e down_e(silu(gate_e x) up_e x) + sigma(x . shared_router) shared_down(silu(shared_gate x) shared_up
  // x)
  virtual void mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) = 0;

  // --- several operations in one ------------------------------------------------------------------------------------
  // Equal, bit for bit, to the operations above one after another, which is what they are unless a device has a shorter
  // way.
  //
  // y_i = rms_norm(x) w_i^T. normed: working memory of x's shape.
  virtual void linear_of_norm(const Tensor& x, const Norm& norm, std::span<const Projection> products,
                              const Tensor& normed);
  // y += gated_rms_norm(z, o) w^T, groups as wide as `width`. What o holds afterwards is undefined.
  virtual void linear_of_gated_norm(const Tensor& o, const Tensor& z, const Norm& norm, std::int64_t width,
                                    const Weight& w, const Tensor& y);
  // y += sigmoid_gate(gate, o) w^T. What o holds afterwards is undefined.
  virtual void linear_of_gated(const Tensor& o, const Tensor& gate, const Weight& w, const Tensor& y);
  // causal_conv() and advance_conv(); but where there is `kept` [T, C], the state stays and u is copied there instead.
  virtual void step_conv(const Tensor& u, const float* w, std::int64_t taps, float* state, float* kept,
                         const Tensor& y);
  // rms_norm() of every head of q and k, rotate() from the cache's length on, append_kv(). q is then what attend()
  // takes; what k holds is undefined.
  virtual void append_heads(const Tensor& q, const Norm& q_norm, const Tensor& k, const Norm& k_norm, const Tensor& v,
                            const RotaryTable& table, std::int64_t head_dim, KvCache& cache);
  // y += mixture_of_experts(rms_norm(x)). y may be x; normed: working memory of x's shape.
  virtual void experts_of_norm(const Tensor& x, const Norm& norm, const ExpertWeights& w, const Tensor& normed,
                               const Tensor& y);

  // --- choice of tokens ---------------------------------------------------------------------------------------------
  // Whether the operations below are there, for so many tokens; otherwise tokens are chosen from downloaded logits.
  virtual bool chooses_tokens(std::int64_t /*vocabulary*/) const { return false; }
  // chosen[t] = the token that follows row t; kNoToken where a logit is NaN or infinite. What the choices say may
  // differ between passes with equal keys, but for whether any has a temperature and whether any has `seen`.
  virtual void choose_tokens(const Tensor& /*logits*/, std::span<const TokenChoice> /*choices*/, TokenId* /*chosen*/) {}
  // As download().
  virtual void download_tokens(const TokenId* /*from*/, std::span<TokenId> /*to*/) {}
  // embed() of tokens on the device, one for each row of y; kNoToken gives any row.
  virtual void embed_chosen(const Weight& /*table*/, const TokenId* /*chosen*/, const Tensor& /*y*/) {}

  // --- sentence encoder ---------------------------------------------------------------------------------------------
  // y = (x - mean) rsqrt(var + eps) gain + bias over each row. y may be x.
  virtual void layer_norm(const Tensor& x, const float* gain, const float* bias, float eps, const Tensor& y) = 0;
  // x = x Phi(x), Phi the normal distribution function.
  virtual void gelu(const Tensor& x) = 0;
  // Softmax attention without mask inside each sequence; rows of sequence s are [starts[s], starts[s + 1]).
  virtual void attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                                    std::span<const std::int64_t> starts, const Tensor& y) = 0;
  // y[s] = mean of the rows of sequence s, divided by its Euclidean length.
  virtual void mean_pool(const Tensor& x, std::span<const std::int64_t> starts, const Tensor& y) = 0;
};

// `threads` 0: one per hardware thread.
std::unique_ptr<Backend> make_cpu_backend(int threads);

// `memory` is taken now and never grows; 0: taken as it is asked for. Errors: kDevice (no such GPU, driver too old,
// built without CUDA), kOutOfMemory.
Result<std::unique_ptr<Backend>> make_cuda_backend(int device, const DeviceMemory& memory,
                                                   const ExpertBudget& experts = {});

}  // namespace lectern::engine
