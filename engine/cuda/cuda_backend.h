// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/library_products.h"
#include "cuda/pass_graphs.h"
#include "cuda/pass_values.h"
#include "cuda/platform.h"
#include "ops/backend.h"

namespace lectern::engine::cuda {

class Cublas;
class CudaExperts;
class CudaWeight;
class ExpertHost;
struct FormedRows;
class HostedExperts;
struct LibraryRows;
class LockedMemory;
class WeightStaging;

class CudaBackend final : public Backend {
 public:
  // As make_cuda_backend().
  static Result<std::unique_ptr<CudaBackend>> create(int device, const DeviceMemory& memory,
                                                     const ExpertBudget& experts = {});
  ~CudaBackend() override;

  Result<WeightHandle> take_weight(const HostMatrix& matrix) override;  // weights.cu
  Result<WeightHandle> take_expert(const HostMatrix& matrix) override;  // weights.cu
  Result<void> place_experts(ExpertWeights& w) override;                // experts.cu
  Result<std::unique_ptr<Buffer>> make_buffer(std::int64_t floats, MemoryUse use) override;
  void copy(const float* from, float* to, std::int64_t floats) override;
  void copy_columns(const Tensor& from, const Tensor& to, std::int64_t first) override;
  void copy_rows(const Tensor& from, const Tensor& to, std::int64_t first) override;
  void upload(std::span<const float> from, float* to) override;
  void download(const float* from, std::span<float> to) override;

  DeviceMemory most_memory() const override { return {weights_.most_used(), state_.most_used(), scratch_.most_used()}; }
  std::int64_t locked_bytes() const override;  // host_experts.cu

  void begin_pass(std::span<const std::uint64_t> key) override;
  Result<void> end_pass() override;
  void drop_pass() override;
  Result<void> status() override;
  void pass_on(const Tensor& rows, Backend& next, const Tensor& to) override;  // handover.cu
  cudaStream_t stream() const { return stream_; }                              // for those who time what is queued

  // library_products.cu, which says what they do
  bool use_library(const LibraryLimits& limits);
  void use_own_products();
  // "cuBLASLt 13.1.0", "own kernels (no libcublasLt ...)"
  std::string dense_products() const override;

  // dense.cu
  void embed(const Weight& table, std::span<const TokenId> tokens, const Tensor& y) override;
  void linear(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) override;

  // formed_products.cu
  void linear_of_norm(const Tensor& x, const Norm& norm, std::span<const Projection> products,
                      const Tensor& normed) override;
  void linear_of_gated_norm(const Tensor& o, const Tensor& z, const Norm& norm, std::int64_t width, const Weight& w,
                            const Tensor& y) override;
  void linear_of_gated(const Tensor& o, const Tensor& gate, const Weight& w, const Tensor& y) override;

  // pointwise.cu
  void add_bias(const float* bias, const Tensor& y) override;
  void silu_gate(const Tensor& gate, const Tensor& y) override;
  void rms_norm(const Tensor& x, const float* gain, std::int64_t width, float eps, const Tensor& y) override;
  void sigmoid_gate(const Tensor& gate, const Tensor& y) override;
  void gated_rms_norm(const Tensor& z, const float* gain, std::int64_t width, float eps, const Tensor& o) override;
  void rotate(const RotaryTable& table, std::int64_t first, std::int64_t head_dim, const Tensor& x) override;
  void layer_norm(const Tensor& x, const float* gain, const float* bias, float eps, const Tensor& y) override;
  void gelu(const Tensor& x) override;
  void mean_pool(const Tensor& x, std::span<const std::int64_t> starts, const Tensor& y) override;

  // kv_cache.cu
  Result<std::unique_ptr<KvCache>> make_kv_cache(const AttentionShape& shape, KvType type) override;
  Result<void> reserve_kv(KvCache& cache, std::int64_t rows) override;
  void append_kv(const Tensor& k, const Tensor& v, KvCache& cache) override;
  void save_rows(const KvCache& cache, std::int64_t first, std::int64_t rows, std::span<std::byte> to) override;
  void load_rows(std::span<const std::byte> from, KvCache& cache) override;

  // head_rows.cu
  void append_heads(const Tensor& q, const Norm& q_norm, const Tensor& k, const Norm& k_norm, const Tensor& v,
                    const RotaryTable& table, std::int64_t head_dim, KvCache& cache) override;

  // attention.cu
  void attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) override;
  void attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                            std::span<const std::int64_t> starts, const Tensor& y) override;

  // causal_conv.cu
  void causal_conv(const Tensor& u, const float* w, std::int64_t taps, const float* state, const Tensor& y) override;
  void advance_conv(const Tensor& u, std::int64_t taps, float* state) override;
  void step_conv(const Tensor& u, const float* w, std::int64_t taps, float* state, float* kept,
                 const Tensor& y) override;

  // delta_net.cu
  void delta_rule(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape, float* state,
                  const Tensor& o) override;
  void delta_rule_tentative(const Tensor& qkv, const Tensor& ba, const DeltaGates& gates, const DeltaShape& shape,
                            const float* state, float* changes, const Tensor& o) override;
  void apply_changes(const float* changes, std::int64_t rows, const DeltaShape& shape, float* state) override;

  // choose_tokens.cu
  bool chooses_tokens(std::int64_t vocabulary) const override;
  void choose_tokens(const Tensor& logits, std::span<const TokenChoice> choices, TokenId* chosen) override;
  void download_tokens(const TokenId* from, std::span<TokenId> to) override;
  void embed_chosen(const Weight& table, const TokenId* chosen, const Tensor& y) override;  // dense.cu

  // experts.cu
  void mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) override;
  void experts_of_norm(const Tensor& x, const Norm& norm, const ExpertWeights& w, const Tensor& normed,
                       const Tensor& y) override;

 private:
  // Working memory of one operation: what is taken from it comes back when the operation ends.
  class Workspace {
   public:
    explicit Workspace(CudaBackend& backend) : backend_(backend), mark_(backend.scratch_.mark()) {}
    ~Workspace() { backend_.scratch_.release(mark_); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    // `count` elements on a 256-byte boundary, not initialised. Throws std::bad_alloc.
    template <class T>
    T* take(std::int64_t count) {
      return static_cast<T*>(backend_.scratch_.take(count * static_cast<std::int64_t>(sizeof(T))));
    }

   private:
    CudaBackend& backend_;
    StackMemory::Mark mark_;
  };

  CudaBackend(int device, const cudaDeviceProp& properties, cudaStream_t stream);
  Result<void> take_memory(const DeviceMemory& memory);
  void download_bytes(const void* from, std::span<std::byte> to);
  // Makes this thread's calls go to the device. Copies, and what is captured, find it without.
  void choose_device() { note(cudaSetDevice(device_), "Choosing it"); }
  void launch_pass();  // what end_pass() waits for
  // handover.cu
  void take_over(const CudaBackend& from, const Tensor& rows, const Tensor& to);
  void reach(int device);
  // host_experts.cu: page-locked memory, the first experts, and whatever brings others later.
  void lock_experts(HostedExperts& block);
  Result<void> fill_slots(CudaExperts& placed, const ExpertWeights& w);
  // linear() for few rows, for many rows of BF16, and for many rows and weights of float.
  void multiply_few(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y);
  void multiply_many(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y);
  void multiply_floats(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y);
  // library_products.cu. False, and nothing done: the own kernels are to be used.
  bool multiply_by_library(const LibraryRows& x, const CudaWeight& w, bool accumulate, const Tensor& y);
  void decode_rows(const CudaWeight& w, std::int64_t first, std::int64_t rows, std::uint16_t* to);
  void use_fastest_products();
  // False, and nothing done: the rows do not fit.
  bool multiply_formed(FormedRows x, std::span<const Projection> products, bool accumulate);
  // Of rows `x`; where there is `from`, a small batch, they are still to be made of it by the norm.
  void mix_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y, const Tensor* from, const Norm& norm);
  bool remembers_calls() const { return passes_.capturing() || passes_.repeating(); }

  // Queues a kernel and remembers the first failure. While a remembered pass is repeated nothing is queued: only what
  // went to values_ counts.
  template <class... Parameters, class... Arguments>
  void run(const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
    if (failure_) return;
    if (remembers_calls()) passes_.note_call(reinterpret_cast<const void*>(kernel), grid, Parameters(arguments)...);
    if (passes_.repeating()) return;
    choose_device();
    note(launch(stream_, grid, kernel, arguments...), "A computation");
  }

  // `what` begins the sentence: "A computation", "Copying".
  void note(cudaError_t code, const char* what);
  void fail(const std::string& what, const char* reason);

  // Allows a kernel as much dynamic shared memory as the device has; to be called before it is queued with more than
  // 48 KiB.
  template <class... Parameters>
  void allow_shared_memory(void (*kernel)(Parameters...)) {
    if (failure_ || !large_kernels_.insert(reinterpret_cast<const void*>(kernel)).second) return;
    choose_device();
    note(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(properties_.sharedMemPerBlockOptin)),
         "Preparing a computation");
  }

  int multiprocessors() const { return properties_.multiProcessorCount; }

  int device_;
  cudaDeviceProp properties_;
  cudaStream_t stream_;
  std::optional<Error> failure_;
  HeapMemory weights_;                      // taken at load, given back when the model goes
  HeapMemory state_;                        // sequences come and go
  std::shared_ptr<WeightStaging> staging_;  // from the first weight on
  ExpertBudget budget_;
  std::unique_ptr<ExpertHost> expert_host_;  // from the first block on whose experts are not all here for good
  std::weak_ptr<LockedMemory> locked_;       // of the blocks, because it goes before the file that is locked
  StackMemory scratch_;                      // activations at the bottom, working memory of operations above
  PassValues values_;                        // what differs between passes with the same calls, for kernels to read
  PassGraphs passes_;
  std::set<const void*> large_kernels_;  // that may take more than 48 KiB of shared memory
  std::unique_ptr<Cublas> library_;      // null: own kernels compute all products
  std::string why_own_products_;
  LibraryLimits library_limits_;
  cudaEvent_t passed_on_ = nullptr;  // from the first pass on that goes on elsewhere
  std::set<int> reached_;            // other devices that were asked whether their memory can be read directly
};

}  // namespace lectern::engine::cuda
